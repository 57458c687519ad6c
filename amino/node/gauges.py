"""What goes up and down in a kernel server, shown as gauges.

Owns reading it. Leaves exporting to telemetry, which asks from a thread of its own, and what the values are to those who have them.
Invariants: with metrics off nothing of this runs; of gauges with a value for each microservice only the most notable are
shown; one look estimates the memory of few objects, the next ones go on from there.
Failure behaviour: what cannot be read is not shown.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from amino.kernel.sizing import estimated_bytes
from amino.node.memory import available_memory
from amino.telemetry import names

if TYPE_CHECKING:
    from amino.kernel.host import Host
    from amino.node.kernel_server import KernelServer
    from amino.telemetry.metrics import Labels, Metrics, Reading

SHOWN_MAX = 100
"""Microservices that one gauge shows."""
MEASURING_S = 0.02
"""Seconds that one look spends on estimating memory."""
ETCD_EVERY_S = 30.0
Values = Iterable[tuple["Labels", float]]


@runtime_checkable
class Sized(Protocol):
    """A store that knows how large its database is."""

    async def size(self) -> tuple[str, int] | None:
        """Return the member asked and its bytes."""
        ...


class Gauges:
    """The gauges of one kernel server."""

    def __init__(self, owner: KernelServer, metrics: Metrics) -> None:
        self._owner = owner
        self._metrics = metrics
        self._server = {names.SERVER: owner.name}
        self._ends: list[Callable[[], None]] = []
        self._memory = Memory(owner.host)
        self._etcd: tuple[str, int] | None = None

    def __repr__(self) -> str:
        return f"Gauges({self._owner.name}, {len(self._ends)} shown)"

    def show(self) -> None:
        """Begin to show them."""
        owner = self._owner
        session, dispatcher, host = owner.session, owner.dispatcher, owner.host
        one = self._one
        readings: dict[str, Reading] = {
            names.SESSION_VALIDITY: one(session.remaining_s),
            names.IN_FLIGHT: one(lambda: dispatcher.in_flight),
            names.SLOTS_LED: one(lambda: len(owner.led)),
            names.MICROSERVICES: one(lambda: len(host)),
            names.MEMORY_AVAILABLE: one(available_memory),
            names.QUEUE_DEPTH: self._queues,
            names.REPLICATION_LAG: self._lags,
            names.IN_SYNC: lambda: self._groups(lambda in_sync, _: in_sync),
            names.WANTED: lambda: self._groups(lambda _, wanted: wanted),
            names.CHECKPOINT_AGE: self._ages,
            names.MICROSERVICE_MEMORY: self._memories,
            names.ETCD_SIZE: self._etcd_size,
        }
        self._ends = [self._metrics.watch(name, read) for name, read in readings.items()]

    def hide(self) -> None:
        """Show them no more. Idempotent."""
        for end in self._ends:
            end()
        self._ends = []

    async def look_at_etcd(self, store: object) -> None:
        """Ask for the size of etcd's database now and then, until cancelled; only some stores have one."""
        while isinstance(store, Sized):
            self._etcd = await store.size()
            await asyncio.sleep(ETCD_EVERY_S)

    def _one(self, read: Callable[[], float]) -> Reading:
        return lambda: [(self._server, float(read()))]

    def _queues(self) -> Values:
        owner = self._owner
        depths = {
            names.QUEUE_THREADS: owner.busy_threads,
            names.QUEUE_RECONCILER: len(owner.oms.reconciler.work),
            names.QUEUE_EVENTS: len(owner.oms.events),
        }
        return [({**self._server, names.QUEUE: queue}, float(depth)) for queue, depth in depths.items()]

    def _of(self, values: dict[str, float]) -> Values:
        return [({**self._server, names.MICROSERVICE: name}, value) for name, value in values.items()]

    def _lags(self) -> Values:
        lags = [
            (float(lag), target.microservice + target.path.rstrip("/"))
            for target, _ in self._owner.host.with_contexts()
            if (lag := target.chain.replication_lag()) is not None
        ]
        return self._of({name: lag for lag, name in heapq.nlargest(SHOWN_MAX, lags)})

    def _groups(self, value: Callable[[int, int], int]) -> Values:
        """Return a value of (in-sync size, wanted size) for the groups that lack most."""
        found = []
        for target, context in self._owner.host.with_contexts():
            document = context.primary_of
            if document is not None:
                sizes = len(document.in_sync), document.wanted
                found.append((sizes[0] - sizes[1], target.microservice + target.path.rstrip("/"), sizes))
        return self._of({name: float(value(*sizes)) for _, name, sizes in heapq.nsmallest(SHOWN_MAX, found)})

    def _ages(self) -> Values:
        now = time.time()
        ages = [
            (now - context.checkpoint_at, target.microservice + target.path.rstrip("/"))
            for target, context in self._owner.host.with_contexts()
            if context.checkpoint_at
        ]
        return self._of({name: max(age, 0.0) for age, name in heapq.nlargest(SHOWN_MAX, ages)})

    def _memories(self) -> Values:
        return self._of(self._memory.look(MEASURING_S))

    def _etcd_size(self) -> Values:
        found = self._etcd
        return [({**self._server, names.PEER: found[0]}, float(found[1]))] if found is not None else []


class Memory:
    """Estimates of all objects here, a few of them renewed at each look."""

    def __init__(self, host: Host, now: Callable[[], float] = time.monotonic) -> None:
        self._host = host
        self._now = now
        self._known: dict[str, float] = {}
        self._next = 0

    def __repr__(self) -> str:
        return f"Memory({len(self._known)})"

    def look(self, budget_s: float) -> dict[str, float]:
        """Estimate some more, for about ``budget_s`` seconds and at least one; return the largest of all that are known."""
        objects = self._host.objects()
        until = self._now() + budget_s
        for _ in range(len(objects)):
            self._next = (self._next + 1) % len(objects)
            target = objects[self._next]
            name = target.microservice + target.path.rstrip("/")
            self._known[name] = float(estimated_bytes(target.instance))
            if self._now() >= until:
                break
        here = {target.microservice + target.path.rstrip("/") for target in objects}
        self._known = {name: size for name, size in self._known.items() if name in here}
        largest = heapq.nlargest(SHOWN_MAX, self._known.items(), key=lambda item: item[1])
        return dict(largest)
