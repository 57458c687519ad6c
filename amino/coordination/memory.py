"""``MemoryStore``: the coordination store port in memory, with the faults of a network and of etcd on request.

Owns one client's view: delays, time-outs, partitions, lost answers. Leaves the shared state to ``memory_etcd``.
Invariants: deterministic (no thread, no wall clock, no randomness of its own); waits only on the running loop.
Failure behaviour: as the port says; a request that times out may have been done, be done later, or never.
For simulation and unit tests only: nothing user-facing runs on it.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeVar

from amino.aio.clock import Clock
from amino.coordination.memory_etcd import MemoryEtcd, Watcher
from amino.coordination.rules import check_start_revision, check_transaction, check_ttl
from amino.coordination.store import Compare, Event, Operation, Record, TxnResult, WatchBatch
from amino.errors import AminoError, CoordinationUnavailable

T = TypeVar("T")
Records = list[Record]
PROGRESS_EVERY_S = 3.0


class Fate(Enum):
    """What becomes of a request."""

    ANSWERED = "answered"
    ANSWER_LOST = "answer lost"  # done at once, but the client times out
    LANDS_LATER = "lands later"  # the client times out, and it is done after that
    LOST = "lost"  # never done; the client times out


def _never_delayed() -> float:
    return 0.0


def _answered(_: bool) -> Fate:
    return Fate.ANSWERED


def _no(_: Event) -> bool:
    return False


@dataclass(slots=True)
class Faults:
    """What goes wrong for one client; the default is nothing. All hooks must be deterministic.

    Args:
        request_delay_s: seconds until a request reaches etcd.
        answer_delay_s: seconds until its answer is back; reads are by then as old.
        fate: what becomes of a request (True: of one that may write).
        land_later_s: when a request that ``LANDS_LATER`` is done, counted from its sending.
        watch_delay_s: seconds from a change to its delivery.
        lose_event: whether the watch swallows an event (etcd 3.4 around compaction).
        duplicate_event: whether it comes twice.
        keepalive_lies: keepalives of a lease that does not exist are answered as if it did (etcd 3.4).
    """

    request_delay_s: Callable[[], float] = _never_delayed
    answer_delay_s: Callable[[], float] = _never_delayed
    fate: Callable[[bool], Fate] = _answered
    land_later_s: Callable[[], float] = field(default=lambda: 5.0)
    watch_delay_s: Callable[[], float] = _never_delayed
    lose_event: Callable[[Event], bool] = _no
    duplicate_event: Callable[[Event], bool] = _no
    keepalive_lies: bool = False


class MemoryStore:
    """One client of a ``MemoryEtcd``.

    Args:
        etcd: the shared state.
        clock: for durations; agrees with the running loop's time.
        name: of the client, for messages.
        request_timeout_s: seconds after which an unanswered request fails.
        faults: what goes wrong; can be changed at any time.
        progress_every_s: seconds between signs of life of a quiet watch.
    """

    def __init__(
        self,
        etcd: MemoryEtcd,
        *,
        clock: Clock,
        name: str = "client",
        request_timeout_s: float = 1.5,
        faults: Faults | None = None,
        progress_every_s: float = PROGRESS_EVERY_S,
    ) -> None:
        self.faults = faults if faults is not None else Faults()
        self._etcd = etcd
        self._clock = clock
        self.name = name
        self._timeout_s = request_timeout_s
        self._progress_every_s = progress_every_s
        self._watchers: dict[Watcher, None] = {}  # a dict keeps the order: histories must not depend on hashes
        self._partitioned = False
        self._healed = asyncio.Event()
        self._closed = False
        self._calls = 0
        self._idle = asyncio.Event()
        self._lease_ttls: dict[int, int] = {}
        self._wire = contextvars.Context()  # what was sent travels on, whatever becomes of the process that sent it

    def __repr__(self) -> str:
        return f"MemoryStore({self.name}{', partitioned' if self._partitioned else ''}, {self._calls} calls)"

    @property
    def reachable(self) -> bool:
        """Whether etcd can be reached now."""
        return self._etcd.serving and not self._partitioned

    def partition(self) -> None:
        """Cut this client off: requests and answers wait, watches are silent."""
        self._partitioned = True

    def heal(self) -> None:
        """End the partition; watches catch up."""
        self._partitioned = False
        healed, self._healed = self._healed, asyncio.Event()
        healed.set()
        for watcher in self._watchers:
            watcher.wake.set()

    async def get(self, key: str) -> Record | None:
        """See ``Store.get``."""
        return await self._ask(lambda: self._etcd.get(key), writes=False)

    async def list(self, prefix: str) -> tuple[Records, int]:
        """See ``Store.list``."""
        return await self._ask(lambda: self._etcd.list(prefix), writes=False)

    async def txn(
        self, compares: Sequence[Compare], then: Sequence[Operation], otherwise: Sequence[Operation] = ()
    ) -> TxnResult:
        """See ``Store.txn``."""
        check_transaction(compares, then, otherwise)
        return await self._ask(lambda: self._etcd.txn(compares, then, otherwise), writes=True)

    async def grant(self, ttl_s: int) -> int:
        """See ``Store.grant``."""
        check_ttl(ttl_s)
        lease = await self._ask(lambda: self._etcd.grant(ttl_s), writes=True)
        self._lease_ttls[lease] = ttl_s
        return lease

    async def keep_alive(self, lease: int) -> int:
        """See ``Store.keep_alive``."""
        remaining = await self._ask(lambda: self._etcd.keep_alive(lease), writes=True)
        if remaining == 0 and self.faults.keepalive_lies:
            return self._lease_ttls.get(lease, 0)
        return remaining

    async def revoke(self, lease: int) -> None:
        """See ``Store.revoke``."""
        await self._ask(lambda: self._etcd.revoke(lease), writes=True)

    async def compact(self, revision: int) -> None:
        """Forget history before ``revision``; for tests and administration."""
        await self._ask(lambda: self._etcd.compact(revision), writes=True)

    def watch(self, prefix: str, start_revision: int) -> AsyncIterator[WatchBatch]:
        """See ``Store.watch``."""
        check_start_revision(start_revision)
        return self._watch(prefix, start_revision)

    async def aclose(self) -> None:
        """See ``Store.aclose``."""
        self._closed = True
        for watcher in self._watchers:
            watcher.wake.set()
        while self._calls:
            self._idle.clear()
            await self._idle.wait()

    async def _until_reachable(self) -> None:
        while not self.reachable:
            if self._partitioned:
                await self._healed.wait()
            else:
                await self._etcd.wait_serving()

    async def _ask(self, do: Callable[[], T], *, writes: bool) -> T:
        if self._closed:
            raise CoordinationUnavailable("the memory store is closed; open another one")
        self._calls += 1
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._exchange(do, writes)
        except TimeoutError as error:
            raise CoordinationUnavailable(f"{self.name}: no answer in time", endpoint="memory") from error
        finally:
            self._calls -= 1
            if not self._calls:
                self._idle.set()

    def _land(self, do: Callable[[], object]) -> None:
        self._etcd.landing -= 1
        with contextlib.suppress(AminoError):  # nobody is left to be told
            do()

    async def _exchange(self, do: Callable[[], T], writes: bool) -> T:
        fate = self.faults.fate(writes)
        if fate is Fate.LANDS_LATER:
            self._etcd.landing += 1
            asyncio.get_running_loop().call_later(self.faults.land_later_s(), self._land, do, context=self._wire)
        if fate in (Fate.LANDS_LATER, Fate.LOST):
            await asyncio.Event().wait()
        outcome = await self._arrival(do, self.faults.request_delay_s())
        if fate is Fate.ANSWER_LOST:
            await asyncio.Event().wait()
        delay_s = self.faults.answer_delay_s()
        if delay_s > 0:
            await asyncio.sleep(delay_s)
        await self._until_reachable()
        if isinstance(outcome, AminoError):
            raise outcome
        return outcome

    async def _arrival(self, do: Callable[[], T], delay_s: float) -> T | AminoError:
        """Have ``do`` done when the request reaches etcd; it does so even if this process stands still meanwhile."""
        if delay_s <= 0:
            await asyncio.sleep(0)
        else:
            loop = asyncio.get_running_loop()
            arrived: asyncio.Future[tuple[T | AminoError] | None] = loop.create_future()

            def arrive() -> None:
                if not arrived.cancelled():
                    arrived.set_result((_outcome(do),) if self.reachable else None)

            loop.call_later(delay_s, arrive, context=self._wire)
            done = await arrived
            if done is not None:
                return done[0]
        await self._until_reachable()
        return _outcome(do)

    def abandon(self) -> None:
        """The process was killed: its watches are gone, what it has sent still arrives."""
        self._closed = True
        for watcher in self._watchers:
            self._etcd.unsubscribe(watcher)

    async def _watch(self, prefix: str, start_revision: int) -> AsyncIterator[WatchBatch]:
        following = start_revision
        watcher = self._etcd.subscribe(prefix)
        self._watchers[watcher] = None
        silent = False
        try:
            while not self._closed:
                watcher.wake.clear()
                if self.reachable:
                    batch = self._etcd.events_from(prefix, following)
                    if batch.events or (silent and batch.revision >= following):
                        following = max(following, batch.revision + 1)
                        yield self._spoiled(batch)
                        silent = False
                        continue
                    if silent:
                        yield WatchBatch((), following - 1)
                silent = not await self._woken(watcher)
        finally:
            self._watchers.pop(watcher, None)
            self._etcd.unsubscribe(watcher)

    async def _woken(self, watcher: Watcher) -> bool:
        try:
            async with asyncio.timeout(self._progress_every_s):
                await watcher.wake.wait()
        except TimeoutError:
            return False
        delay_s = self.faults.watch_delay_s()
        if delay_s > 0:
            await asyncio.sleep(delay_s)
        return True

    def _spoiled(self, batch: WatchBatch) -> WatchBatch:
        events: list[Event] = []
        for event in batch.events:
            if self.faults.lose_event(event):
                continue
            events.append(event)
            if self.faults.duplicate_event(event):
                events.append(event)
        return WatchBatch(tuple(events), batch.revision)


def _outcome(do: Callable[[], T]) -> T | AminoError:
    try:
        return do()
    except AminoError as error:
        return error
