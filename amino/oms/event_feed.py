"""The history as it grows, for those who follow it: one watch per server, kept open only while somebody does.

Owns that watch and waiting for news. Leaves writing and trimming to ``events``.
Invariants: each event is told once per cursor, in order; nothing is watched when nobody has asked for ``IDLE_S``.
Failure behaviour: ``CoordinationUnavailable`` when the watch cannot be opened; later, while etcd is away, there is no news.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

from amino.aio.clock import Clock
from amino.aio.tasks import TaskOwner
from amino.contracts.documents import EventRecord, decode
from amino.contracts.listings import EVENTS_WAIT_S_MAX
from amino.contracts.services import EventInfo
from amino.coordination.keys import Keys
from amino.coordination.store import Record, Store
from amino.coordination.watch import WatchedCache
from amino.errors import Invalid

_log = logging.getLogger("amino.oms")
IDLE_S = 60.0


class EventFeed:
    """Tells what is newer than a revision."""

    def __init__(self, store: Store, keys: Keys, clock: Clock) -> None:
        self._store = store
        self._keys = keys
        self._clock = clock
        self._cache: WatchedCache[EventRecord] | None = None
        self._opening = asyncio.Lock()
        self._newest = 0
        self._asking = 0
        self._idle: asyncio.TimerHandle | None = None
        self._tasks = TaskOwner("event feed")

    def __repr__(self) -> str:
        return f"EventFeed({self._cache!r})"

    async def after(self, revision: int, wait_s: float) -> tuple[EventInfo, ...]:
        """Return the events written after ``revision``, newest last; while there are none, wait up to ``wait_s`` seconds.

        Raises:
            CoordinationUnavailable: etcd does not answer.
        """
        self._asking += 1
        try:
            cache = await self._opened()
            if wait_s > 0:
                with suppress(TimeoutError):
                    await cache.wait_for(lambda: self._newest > revision, min(wait_s, EVENTS_WAIT_S_MAX))
            newer = [record for _, record in cache.items() if record.create_revision > revision]
            return in_order(newer)
        finally:
            self._asking -= 1
            self._close_later()

    async def aclose(self) -> None:
        """Stop watching. Idempotent."""
        if self._idle is not None:
            self._idle.cancel()
        await self._tasks.aclose()
        await self._forget()

    async def _opened(self) -> WatchedCache[EventRecord]:
        async with self._opening:
            if self._cache is None:
                cache: WatchedCache[EventRecord] = WatchedCache(
                    self._store, self._keys.events_prefix, self._changed, clock=self._clock
                )
                await cache.start()
                self._cache = cache
            return self._cache

    def _changed(self, key: str, new: Record | None, old: Record | None) -> None:  # noqa: ARG002 - a listener's form
        if new is not None:
            self._newest = max(self._newest, new.create_revision)

    def _close_later(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
        self._idle = asyncio.get_running_loop().call_later(IDLE_S, self._close_if_idle)

    def _close_if_idle(self) -> None:
        if not self._asking and not self._tasks.closed:
            self._tasks.spawn(self._close(), "close")

    async def _close(self) -> None:
        async with self._opening:
            if not self._asking:
                await self._forget()

    async def _forget(self) -> None:
        cache, self._cache = self._cache, None
        if cache is not None:
            await cache.aclose()


def in_order(records: list[Record]) -> tuple[EventInfo, ...]:
    """Return what the records of events say, newest last; what cannot be read is left out."""
    events = []
    for record in sorted(records, key=lambda record: (record.create_revision, record.key)):
        try:
            event = decode(record.value, EventRecord, record.key)
        except Invalid as error:
            _log.warning("%s", error)
            continue
        events.append(
            EventInfo(record.create_revision, event.kind, event.at, event.microservice, event.server, event.text)
        )
    return tuple(events)
