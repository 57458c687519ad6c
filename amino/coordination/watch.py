"""``WatchedCache``: what is under a prefix, kept in memory and never far behind.

Owns listing, watching, and repairing what a watch lost. Leaves the meaning of records to its users.
Invariants: changes are reported once each and per key in order of revision; the cache never goes back to an older state
(answers older than what was seen are dropped); a missing event is repaired by the next re-listing.
Failure behaviour: while the store is unavailable the cache stands still and keeps trying; ``wait_for`` times out.
"""

from __future__ import annotations

import asyncio
import logging
import random as random_module
from collections.abc import Callable, Iterator
from contextlib import aclosing, suppress
from typing import Generic, TypeVar

from amino.aio.clock import Clock
from amino.aio.tasks import TaskOwner
from amino.coordination.store import Compacted, Event, EventKind, Record, Store, WatchBatch
from amino.errors import CoordinationUnavailable

_log = logging.getLogger("amino.coordination")
T = TypeVar("T")
OnChange = Callable[[str, "Record | None", "Record | None"], None]
RELIST_EVERY_S = 30.0
STALL_S = 6.0
PATIENCE_S = 1.0
RETRY_S_MAX = 1.0


class WatchedCache(Generic[T]):
    """A watched prefix.

    Args:
        store: where to look.
        prefix: what to watch; ends with ``/``.
        on_change: called on the loop with (key, new record or None, old record or None) for each change, the first
            listing included. Must not wait or raise.
        decode: makes ``decoded`` values of records, lazily, once per record.
        clock: for durations.
        relist_every_s: seconds between two listings that look for lost events (jittered by a quarter).
        stall_s: a watch without any batch for so many seconds is opened again, after a listing.
        random: for jitter.
        on_failure: called if the cache's task fails, which only a raising ``on_change`` can cause.
    """

    def __init__(
        self,
        store: Store,
        prefix: str,
        on_change: OnChange | None = None,
        *,
        clock: Clock,
        decode: Callable[[Record], T] | None = None,
        relist_every_s: float = RELIST_EVERY_S,
        stall_s: float = STALL_S,
        random: random_module.Random | None = None,
        on_failure: Callable[[BaseException], None] | None = None,
    ) -> None:
        self._store = store
        self._prefix = prefix
        self._listeners: tuple[OnChange, ...] = () if on_change is None else (on_change,)
        self._decode = decode
        self._clock = clock
        self._relist_every_s = relist_every_s
        self._stall_s = stall_s
        self._random = random if random is not None else random_module.Random()
        self._tasks = TaskOwner(f"cache {prefix}", on_failure)
        self._records: dict[str, Record] = {}
        self._decoded: dict[str, T] = {}
        self._revision = 0
        self._deleted: dict[str, int] | None = None  # while a listing is under way: what was deleted meanwhile
        self._changed = asyncio.Event()
        self._doubt = asyncio.Event()
        self._listing = asyncio.Lock()
        self.relists = 0
        self.repairs = 0
        self.reopenings = 0

    def __repr__(self) -> str:
        return f"WatchedCache({self._prefix}, {len(self._records)} keys, revision {self._revision})"

    def __len__(self) -> int:
        return len(self._records)

    def __contains__(self, key: str) -> bool:
        return key in self._records

    @property
    def revision(self) -> int:
        """Changes of the prefix up to this store revision are in the cache."""
        return self._revision

    def get(self, key: str) -> Record | None:
        """Return the record of ``key``, None if there is none."""
        return self._records.get(key)

    def items(self) -> Iterator[tuple[str, Record]]:
        """Iterate over keys and records; not across a wait, the cache changes then."""
        return iter(self._records.items())

    def decoded(self, key: str) -> T | None:
        """Return the decoded record of ``key``, None if there is none; errors of ``decode`` pass through."""
        found = self._decoded.get(key)
        if found is None:
            record = self._records.get(key)
            if record is None or self._decode is None:
                return None
            found = self._decoded[key] = self._decode(record)
        return found

    def listen(self, on_change: OnChange) -> None:
        """Add a listener of further changes; the same rules as for ``on_change``."""
        self._listeners = (*self._listeners, on_change)

    async def start(self) -> None:
        """List once, then keep watching in the background.

        Raises:
            CoordinationUnavailable: the first listing failed; nothing was started, and it can be tried again.
        """
        await self._relist()
        self._tasks.spawn(self._keep_watching(), "watch")
        self._tasks.spawn(self._keep_relisting(), "relist")

    async def aclose(self) -> None:
        """Stop watching; the records stay readable. Idempotent."""
        await self._tasks.aclose()

    def relist_soon(self) -> None:
        """Ask for a listing now: somebody has reason to doubt the cache. Never waits."""
        self._doubt.set()

    async def wait_for(self, predicate: Callable[[], bool], timeout_s: float) -> None:
        """Wait until ``predicate()`` holds; it is asked after each change.

        Raises:
            TimeoutError: it did not hold within ``timeout_s`` seconds.
        """
        async with asyncio.timeout(timeout_s):
            while not predicate():
                changed = self._changed
                await changed.wait()

    async def wait_revision(self, revision: int, timeout_s: float) -> None:
        """Wait until the cache has all changes up to ``revision``; lists again if the watch does not tell in time.

        Raises:
            TimeoutError: not within ``timeout_s`` seconds.
        """
        patience_s = min(PATIENCE_S, timeout_s / 2)
        try:
            await self.wait_for(lambda: self._revision >= revision, patience_s)
        except TimeoutError:
            self.relist_soon()
            await self.wait_for(lambda: self._revision >= revision, timeout_s - patience_s)

    async def _keep_watching(self) -> None:
        failures = 0
        while True:
            try:
                await self._watch_once()
            except Compacted:
                _log.info("watch of %s: history compacted, listing again", self._prefix)
            except (CoordinationUnavailable, TimeoutError) as error:
                _log.warning("watch of %s interrupted: %s", self._prefix, error)
            self.reopenings += 1
            listed = await self._relist_or_not()
            failures = 0 if listed else failures + 1
            await asyncio.sleep(min(RETRY_S_MAX, 0.02 * 2 ** min(failures, 10)) * self._random.random())

    async def _watch_once(self) -> None:
        async with aclosing(self._store.watch(self._prefix, self._revision + 1)) as batches:  # type: ignore[type-var]
            while True:
                async with asyncio.timeout(self._stall_s):
                    batch = await anext(batches, None)
                if batch is None:
                    return
                self._apply(batch)

    async def _keep_relisting(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._relist_every_s * (0.75 + 0.5 * self._random.random())):
                    await self._doubt.wait()
            self._doubt.clear()
            if not await self._relist_or_not():
                await asyncio.sleep(RETRY_S_MAX * self._random.random())
                self._doubt.set()

    async def _relist_or_not(self) -> bool:
        try:
            await self._relist()
        except CoordinationUnavailable as error:
            _log.warning("listing of %s failed: %s", self._prefix, error)
            return False
        return True

    async def _relist(self) -> None:
        async with self._listing:
            known = self._revision
            self._deleted = {}
            try:
                records, revision = await self._store.list(self._prefix)
                if revision < known:
                    raise CoordinationUnavailable(
                        f"listing of {self._prefix!r} at revision {revision} is older than {known}; asking again"
                    )
                self._apply_listing(records, revision, self._deleted)
            finally:
                self._deleted = None

    def _apply_listing(self, records: list[Record], revision: int, deleted: dict[str, int]) -> None:
        self.relists += 1
        first = self._revision == 0
        listed: set[str] = set()
        found: list[tuple[str, Record | None, Record | None]] = []
        for record in records:
            listed.add(record.key)
            old = self._records.get(record.key)
            if old is None:
                if deleted.get(record.key, 0) <= revision:
                    found.append((record.key, record, None))
            elif old.mod_revision < record.mod_revision:
                found.append((record.key, record, old))
        for key, old in self._records.items():
            if key not in listed and old.mod_revision <= revision:
                found.append((key, None, old))
        self._revision = max(self._revision, revision)
        if not first:
            self.repairs += len(found)
        for key, new, old in found:
            self._set(key, new, old)
        self._wake()

    def _apply(self, batch: WatchBatch) -> None:
        highest = self._revision
        for event in batch.events:
            revision = event.record.mod_revision
            if revision > self._revision and revision >= highest:
                highest = revision
                self._apply_event(event)
        advanced = max(highest, batch.revision)
        if advanced > self._revision:
            self._revision = advanced
            self._wake()

    def _apply_event(self, event: Event) -> None:
        record = event.record
        old = self._records.get(record.key)
        if old is not None and old.mod_revision >= record.mod_revision:
            return
        if event.kind is EventKind.PUT:
            self._set(record.key, record, old)
            return
        if self._deleted is not None:
            self._deleted[record.key] = record.mod_revision
        if old is not None:
            self._set(record.key, None, old)

    def _set(self, key: str, new: Record | None, old: Record | None) -> None:
        self._decoded.pop(key, None)
        if new is None:
            del self._records[key]
        else:
            self._records[key] = new
        for listener in self._listeners:
            listener(key, new, old)

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
