"""The bounded history of what happened, for people.

Owns writing, trimming and reading ``events/``. Leaves deciding what is worth an event to whoever adds it,
and following the history to ``event_feed``.
Invariants: adding never waits and never fails an operation; about ``EVENTS_MAX`` entries are kept.
Failure behaviour: while etcd is away, or when too much happens at once, the oldest waiting events are dropped.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque

from amino.aio.clock import Clock
from amino.aio.tasks import TaskOwner
from amino.contracts.documents import EventRecord, encode
from amino.contracts.services import EventInfo
from amino.coordination.keys import Keys
from amino.coordination.store import Delete, Put, Store, absent
from amino.errors import AminoError
from amino.oms.event_feed import EventFeed, in_order
from amino.telemetry import names

_log = logging.getLogger("amino.oms")
EVENTS_MAX = 1000
WAITING_MAX = 4096
BATCH_MAX = 64
GATHER_S = 0.2
ALIKE_MAX = 16


class EventLog:
    """Writes events in the background.

    Args:
        clock: wall clock for display and for the order of events of different servers.
    """

    def __init__(self, store: Store, keys: Keys, clock: Clock) -> None:
        self._store = store
        self._keys = keys
        self._clock = clock
        self._waiting: deque[EventRecord] = deque(maxlen=WAITING_MAX)
        self._feed = EventFeed(store, keys, clock)
        self._tasks = TaskOwner("events")
        self._writing = False
        self._closed = False
        self._last = 0

    def __repr__(self) -> str:
        return f"EventLog({len(self._waiting)} waiting)"

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, kind: str, microservice: str = "", server: str = "", text: str = "") -> None:
        """Note that something happened. Never waits; on the loop."""
        if self._closed:
            return
        self._waiting.append(EventRecord(kind, self._clock.wall(), microservice, server, text[:500]))
        if not self._writing:
            self._writing = True
            self._tasks.spawn(self._write(), "write")

    async def newest(self) -> tuple[EventInfo, ...]:
        """Return the history, newest last."""
        records, _ = await self._store.list(self._keys.events_prefix)
        return in_order(records)

    async def after(self, revision: int, wait_s: float) -> tuple[EventInfo, ...]:
        """Return what is newer than ``revision``; see ``EventFeed.after``."""
        return await self._feed.after(revision, wait_s)

    async def trim(self) -> int:
        """Remove the oldest beyond ``EVENTS_MAX``; returns how many. One server does it now and then."""
        records, _ = await self._store.list(self._keys.events_prefix)
        surplus = [record.key for record in records[: max(0, len(records) - EVENTS_MAX)]]
        for start in range(0, len(surplus), BATCH_MAX):
            await self._store.txn([], [Delete(key) for key in surplus[start : start + BATCH_MAX]])
        return len(surplus)

    async def aclose(self) -> None:
        """Drop what is waiting. Idempotent."""
        self._closed = True
        await self._tasks.aclose()
        await self._feed.aclose()

    async def _write(self) -> None:
        try:
            while self._waiting:
                await asyncio.sleep(GATHER_S)
                events = summed_up([self._waiting.popleft() for _ in range(len(self._waiting))])
                for event in events:
                    _say(event)
                for start in range(0, len(events), BATCH_MAX):
                    batch = events[start : start + BATCH_MAX]
                    try:
                        await self._put(batch)
                    except AminoError as error:
                        _log.warning("%d events were not written: %s", len(batch), error)
        finally:
            self._writing = False

    async def _put(self, batch: list[EventRecord]) -> None:
        while True:
            first = max(self._last + 1, int(batch[0].at * 1e6))
            self._last = first + len(batch) - 1
            keys = [self._keys.event(first + index) for index in range(len(batch))]
            puts = [Put(key, encode(event)) for key, event in zip(keys, batch, strict=True)]
            if (await self._store.txn([absent(key) for key in keys], puts)).succeeded:
                return
            self._last += BATCH_MAX  # another server used these numbers at the same microsecond


def _say(event: EventRecord) -> None:
    """Log the change that ``event`` tells of: one line for each."""
    about = {names.MICROSERVICE: event.microservice, names.SERVER: event.server}
    extra = {key: value for key, value in about.items() if value}
    _log.info(f"{event.kind} %s", event.text, extra=extra)  # the kind is part of what is bounded by itself


def summed_up(events: list[EventRecord]) -> list[EventRecord]:
    """Return ``events`` with many of one kind told as a few and their number, in order. Pure.

    Thousands of objects made or recovered in one moment would push everything else out of the bounded history.
    """
    counts = Counter(event.kind for event in events)
    told: Counter[str] = Counter()
    kept: list[EventRecord] = []
    for event in events:
        told[event.kind] += 1
        if told[event.kind] <= ALIKE_MAX:
            kept.append(event)
        elif told[event.kind] == counts[event.kind]:
            kept.append(
                EventRecord(event.kind, event.at, "", event.server, f"and {counts[event.kind] - ALIKE_MAX} more")
            )
    return kept
