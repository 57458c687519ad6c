"""The state of an etcd kept in memory: revisions, leases, history; what several ``MemoryStore`` clients share.

Owns what etcd would do, deterministically and at once. Leaves the network, and so time-outs and faults, to ``memory``.
Invariants: the same calls at the same times give the same state; leases end on the injected clock.
Failure behaviour: ``Compacted`` for history that is gone, ``Conflict`` for a lease that does not exist.
For simulation and unit tests only: nothing user-facing runs on it.
"""

from __future__ import annotations

import asyncio
import contextvars
from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass, field

from amino.aio.clock import Clock
from amino.coordination.rules import check_transaction, check_ttl, lease_gone
from amino.coordination.store import (
    Compacted,
    Compare,
    Delete,
    Event,
    EventKind,
    Field,
    Get,
    NotCreatedAt,
    Operation,
    Put,
    Record,
    TxnResult,
    WatchBatch,
)

Records = list[Record]
Names = list[str]
Events = list[Event]
_FIRST_LEASE = 7001


@dataclass(slots=True)
class _Lease:
    ttl_s: int
    expires_at: float
    keys: set[str] = field(default_factory=set)


class Watcher:
    """Wakes one watch when something under its prefix may have changed."""

    __slots__ = ("prefix", "wake")

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.wake = asyncio.Event()


class MemoryEtcd:
    """One etcd cluster in memory.

    Args:
        clock: leases end on its monotonic time.
        expiry_lag_s: seconds between the end of a lease and the deletion of its keys (real etcd: 0.4 to 0.5).
        history_max: revisions kept for watches; older ones are compacted away.

    Attributes:
        landing: requests on their way that their clients have given up.
    """

    def __init__(self, clock: Clock, *, expiry_lag_s: float = 0.0, history_max: int = 100_000) -> None:
        self._clock = clock
        self._expiry_lag_s = expiry_lag_s
        self._history_max = history_max
        self.landing = 0
        self._revision = 1
        self._records: dict[str, Record] = {}
        self._order: list[str] = []
        self._history: list[tuple[int, tuple[Event, ...]]] = []
        self._compacted = 0
        self._leases: dict[int, _Lease] = {}
        self._next_lease = _FIRST_LEASE
        self._watchers: dict[Watcher, None] = {}  # a dict keeps the order: histories must not depend on hashes
        self._timer: asyncio.TimerHandle | None = None
        self._context = contextvars.Context()  # leases end whatever becomes of the process that was granted them
        self._serving = True
        self._serving_changed = asyncio.Event()

    def __repr__(self) -> str:
        return f"MemoryEtcd(revision {self._revision}, {len(self._records)} keys, {len(self._leases)} leases)"

    @property
    def revision(self) -> int:
        """The revision of the last change."""
        self._expire()
        return self._revision

    @property
    def leases(self) -> tuple[int, ...]:
        """The leases that exist."""
        self._expire()
        return tuple(self._leases)

    @property
    def serving(self) -> bool:
        """Whether it answers; while it does not, no lease ends."""
        return self._serving

    def get(self, key: str) -> Record | None:
        """Return the record of ``key``."""
        self._expire()
        return self._records.get(key)

    def list(self, prefix: str) -> tuple[Records, int]:
        """Return the records under ``prefix`` in key order, and the revision."""
        self._expire()
        return [self._records[key] for key in self._keys(prefix)], self._revision

    def txn(self, compares: Sequence[Compare], then: Sequence[Operation], otherwise: Sequence[Operation]) -> TxnResult:
        """Do a transaction."""
        check_transaction(compares, then, otherwise)
        self._expire()
        succeeded = all(self._holds(compare) for compare in compares)
        operations = then if succeeded else otherwise
        for operation in operations:
            if isinstance(operation, Put) and operation.lease and operation.lease not in self._leases:
                raise lease_gone(f"lease {operation.lease} not found")
        events: Events = []
        reads: list[tuple[Record, ...]] = []
        for operation in operations:
            if isinstance(operation, Put):
                events.append(self._put(operation))
            elif isinstance(operation, Delete):
                events.extend(self._delete(key) for key in self._matching(operation.key, operation.prefix))
            else:
                reads.append(self._read(operation))
        self._commit(events)
        return TxnResult(succeeded, self._revision, tuple(reads))

    def grant(self, ttl_s: int) -> int:
        """Create a lease."""
        check_ttl(ttl_s)
        self._expire()
        lease = self._next_lease
        self._next_lease += 1
        self._leases[lease] = _Lease(ttl_s, self._clock.monotonic() + ttl_s)
        self._schedule()
        return lease

    def keep_alive(self, lease: int) -> int:
        """Renew a lease; 0 if it does not exist."""
        self._expire()
        found = self._leases.get(lease)
        if found is None:
            return 0
        found.expires_at = self._clock.monotonic() + found.ttl_s
        return found.ttl_s

    def revoke(self, lease: int) -> None:
        """End a lease, also to play the fault of an old leader that revokes one early."""
        self._expire()
        self._end([lease])

    def compact(self, revision: int) -> None:
        """Forget history before ``revision``."""
        self._compacted = max(self._compacted, min(revision, self._revision))
        self._history = self._history[bisect_left(self._history, (self._compacted,)) :]
        self._wake_all()

    def change_leader(self) -> None:
        """Play a change of etcd's leader: all leases that still exist start their time again."""
        now = self._clock.monotonic()
        for lease in self._leases.values():
            lease.expires_at = now + lease.ttl_s
        self._schedule()

    def stop_serving(self) -> None:
        """Play the loss of the majority: nobody gets an answer, no lease ends."""
        self._expire()
        self._serving = False

    def resume_serving(self) -> None:
        """End ``stop_serving``; as with any new leader, all leases start their time again."""
        self._serving = True
        self.change_leader()
        changed, self._serving_changed = self._serving_changed, asyncio.Event()
        changed.set()
        self._wake_all()

    async def wait_serving(self) -> None:
        """Wait until it answers."""
        while not self._serving:
            await self._serving_changed.wait()

    def subscribe(self, prefix: str) -> Watcher:
        """Register a watch; ``unsubscribe`` it in the end."""
        watcher = Watcher(prefix)
        self._watchers[watcher] = None
        return watcher

    def unsubscribe(self, watcher: Watcher) -> None:
        """Forget a watch."""
        self._watchers.pop(watcher, None)

    def events_from(self, prefix: str, start_revision: int) -> WatchBatch:
        """Return all changes under ``prefix`` from ``start_revision`` to now.

        Raises:
            Compacted: some of them are gone.
        """
        self._expire()
        if start_revision < self._compacted:
            raise Compacted(self._compacted)
        first = bisect_left(self._history, (start_revision,))
        events = tuple(
            event for _, changes in self._history[first:] for event in changes if event.record.key.startswith(prefix)
        )
        return WatchBatch(events, self._revision)

    def _holds(self, compare: Compare) -> bool:
        record = self._records.get(compare.key)
        if compare.field is Field.VALUE:
            return record is not None and record.value == compare.expected
        if compare.field is Field.CREATE:
            actual = record.create_revision if record is not None else 0
        else:
            actual = record.mod_revision if record is not None else 0
        return (actual == compare.expected) is not isinstance(compare, NotCreatedAt)

    def _put(self, put: Put) -> Event:
        revision = self._revision + 1
        old = self._records.get(put.key)
        if old is None:
            insort(self._order, put.key)
        elif old.lease and old.lease != put.lease:
            self._leases[old.lease].keys.discard(put.key)
        if put.lease:
            self._leases[put.lease].keys.add(put.key)
        created = old.create_revision if old is not None else revision
        record = self._records[put.key] = Record(put.key, put.value, created, revision, put.lease)
        return Event(EventKind.PUT, record)

    def _delete(self, key: str) -> Event:
        old = self._records.pop(key)
        del self._order[bisect_left(self._order, key)]
        if old.lease and old.lease in self._leases:
            self._leases[old.lease].keys.discard(key)
        return Event(EventKind.DELETE, Record(key, b"", 0, self._revision + 1))

    def _read(self, get: Get) -> tuple[Record, ...]:
        return tuple(self._records[key] for key in self._matching(get.key, get.prefix))

    def _matching(self, key: str, prefix: bool) -> Names:
        if prefix:
            return self._keys(key)
        return [key] if key in self._records else []

    def _keys(self, prefix: str) -> Names:
        first = bisect_left(self._order, prefix)
        last = first
        while last < len(self._order) and self._order[last].startswith(prefix):
            last += 1
        return self._order[first:last]

    def _commit(self, events: Events) -> None:
        if not events:
            return
        self._revision += 1
        self._history.append((self._revision, tuple(events)))
        if len(self._history) > self._history_max:
            self.compact(self._history[len(self._history) // 2][0])
        for watcher in self._watchers:
            if not watcher.wake.is_set() and any(one.record.key.startswith(watcher.prefix) for one in events):
                watcher.wake.set()

    def _wake_all(self) -> None:
        for watcher in self._watchers:
            watcher.wake.set()

    def _end(self, leases: Sequence[int]) -> None:
        for lease in leases:
            found = self._leases.pop(lease, None)
            if found is not None:
                self._commit([self._delete(key) for key in sorted(found.keys)])

    def _expire(self) -> None:
        if not self._serving or not self._leases:
            return
        now = self._clock.monotonic() - self._expiry_lag_s
        ended = [lease for lease, one in self._leases.items() if one.expires_at <= now]
        if ended:
            self._end(ended)

    def _schedule(self) -> None:
        """Have leases end in time even if nobody asks, so that watches hear of it."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._leases:
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return  # without a loop there is no watch to tell
        due = min(lease.expires_at for lease in self._leases.values()) + self._expiry_lag_s
        self._timer = loop.call_later(
            max(0.0, due - self._clock.monotonic()) + 1e-6, self._on_timer, context=self._context
        )

    def _on_timer(self) -> None:
        self._timer = None
        self._expire()
        if self._serving:
            self._schedule()
