"""``Chaos``: breaks a ``LocalCluster`` from plain, blocking tests.

Owns a loop in a thread of its own on which faults are caused. Leaves the cluster to its owner.
Invariants: every fault is undone, and the cluster whole, before a method returns or a context ends.
Failure behaviour: a fault that did not happen, or a cluster that does not become whole, is an ``AssertionError`` with the reason.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Coroutine, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Self, TypeVar

from amino.testing.chaos.clusters.processes import ProcessCluster
from amino.testing.chaos.clusters.view import ClusterView
from amino.testing.chaos.faults.catalogue import make
from amino.testing.chaos.faults.fault import Scene, Shape
from amino.testing.chaos.faults.nemesis import Nemesis
from amino.testing.chaos.faults.schedule import plan
from amino.testing.chaos.record import FaultRecord

if TYPE_CHECKING:
    from amino.testing.local_cluster import LocalCluster
    from amino.testing.proxy import FaultyNetwork

T = TypeVar("T")
REST_S = 60.0
LONG_S = 3600.0
USUAL = {"kill-kernel": 3, "kill-server": 2, "freeze-server": 1, "freeze-server-long": 2, "cut-etcd": 1, "isolate": 1}
"""Kinds of a storm, with weights; those that the cluster does not let happen are left out."""


class Chaos:
    """Breaks one cluster; a context manager. For one thread.

    Args:
        local: running. network: that its servers were added through, if ways are to be cut.
    """

    def __init__(self, local: LocalCluster, network: FaultyNetwork | None = None) -> None:
        self.cluster = ProcessCluster.around(local, network)
        self._zero = time.monotonic()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="amino-chaos", daemon=True)
        self._view = ClusterView(self.cluster.etcd_endpoints)
        self._nemesis = Nemesis(Scene(self.cluster, self._view), self.now)

    def __repr__(self) -> str:
        return f"Chaos({self.cluster!r}, {len(self.records)} faults)"

    def __enter__(self) -> Self:
        self._thread.start()
        self._run(self._view.__aenter__())
        return self

    def __exit__(self, *exc: object) -> None:
        try:
            self._run(self._view.__aexit__(*exc))
        finally:
            self._run(self._loop.shutdown_default_executor())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def now(self) -> float:
        """Seconds since this was made: the times of ``records``."""
        return time.monotonic() - self._zero

    @property
    def records(self) -> list[FaultRecord]:
        """What was caused so far."""
        return self._nemesis.records

    def cause(self, kind: str, target: str, lasts_s: float = 0.0) -> FaultRecord:
        """Cause one fault, leave it for so many seconds, undo it, and wait until the cluster is whole.

        Args:
            kind: see ``docs/chaos.md``. target: a server, ``primary``, ``coordinator``, or what the kind has for targets.
        """
        record = self._run(self._nemesis.cause(make(self._nemesis.scene, kind, target), lasts_s))
        assert record.verified, f"{kind} at {target} did not happen: {record.text}"
        self.await_rest()
        return record

    @contextlib.contextmanager
    def storm(
        self, seed: int, kinds: Mapping[str, int] | None = None, *, gap_s: tuple[float, float] = (1.0, 3.0)
    ) -> Iterator[None]:
        """Cause faults drawn from ``seed`` in the background until the end of the context, which waits for rest.

        Args:
            kinds: with weights; default: ``USUAL``. gap_s: shortest and longest time between two.
        """
        before = len(self.records)
        schedule = plan(kinds or USUAL, Shape.of(self.cluster), seed, LONG_S, gap_s=gap_s, first_s=self.now() + 0.5)
        ends = asyncio.Event()
        running = asyncio.run_coroutine_threadsafe(self._until(schedule, ends), self._loop)
        try:
            yield
        finally:
            self._loop.call_soon_threadsafe(ends.set)
            running.result()
        broken = [one for one in self.records[before:] if not one.verified]
        assert not broken, f"{broken[0].kind} did not happen: {broken[0].text}"
        self.await_rest()

    async def _until(self, schedule: list[Any], ends: asyncio.Event) -> None:
        for planned in schedule:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(planned.at_s - self.now(), 0.0)):
                    await ends.wait()
            if ends.is_set():
                return
            await self._nemesis.run([planned])

    def await_rest(self, timeout_s: float = REST_S) -> None:
        """Wait until every server lives and every replica is where its document says."""
        wrong = self._run(self._view.await_rest(len(self.cluster.servers), timeout_s, len(self.cluster.devices)))
        assert not wrong, f"the cluster is not whole after {timeout_s:g} s: {wrong}"

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()
