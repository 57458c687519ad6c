"""Carrying out a schedule: each fault is caused, proved, left for its time and undone.

Owns the order of these and what is recorded of them. Leaves what comes when to ``schedule``.
Invariants: one entry of the schedule at a time; whatever happens, each fault that was begun is undone; between two the cluster
may come to rest.
Failure behaviour: a fault that fails is recorded as not verified, with the error; being cancelled heals first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Protocol

from amino.errors import AminoError
from amino.testing.chaos.faults.catalogue import make
from amino.testing.chaos.faults.fault import Fault, Scene
from amino.testing.chaos.faults.schedule import Planned
from amino.testing.chaos.record import FaultRecord

REST_S = 30.0


class Watcher(Protocol):
    """Who is told, for display."""

    def fault(self, record: FaultRecord, what: str) -> None:
        """Be told that a fault was ``caused``, ``healed`` or that the cluster is at ``rest`` again."""


class Nemesis:
    """Causes trouble.

    Args:
        scene: where. now: seconds since the run's zero. watcher: is told.
        rest_s: how long to wait, after each fault, for the cluster to be whole; 0: go on at once.

    Attributes:
        records: of what was caused, in order.
        notes: where the cluster did not come to rest after one: what is missing, and how the logs of the servers end.
    """

    def __init__(
        self, scene: Scene, now: Callable[[], float], *, watcher: Watcher | None = None, rest_s: float = REST_S
    ) -> None:
        self.scene = scene
        self.records: list[FaultRecord] = []
        self.notes: list[str] = []
        self._now = now
        self._watcher = watcher
        self._rest_s = rest_s

    def __repr__(self) -> str:
        return f"Nemesis({len(self.records)} faults)"

    async def run(self, schedule: Iterable[Planned], until_s: float = float("inf")) -> None:
        """Carry out a schedule; entries that could begin only after ``until_s`` are left out."""
        for planned in schedule:
            wait_s = planned.at_s - self._now()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            if self._now() >= until_s:
                return
            await self.cause(make(self.scene, planned.kind, planned.target), planned.lasts_s)

    async def cause(self, fault: Fault, lasts_s: float) -> FaultRecord:
        """Cause one fault, leave it for so long, undo it and wait for rest; returns what is recorded of it."""
        record = FaultRecord(fault.kind, fault.target, self._now(), injected_s=self._now())
        self.records.append(record)
        try:
            await fault.inject()
            if not fault.unfolds:
                record.began_s = self._now()
            record.verified = await fault.happened()
            record.target, record.text = fault.hit, fault.text
            self._tell(record, "caused")
            await asyncio.sleep(max(0.0, record.began_s + lasts_s - self._now()))
        except (AminoError, OSError, LookupError, TimeoutError) as error:
            record.text = f"{fault.text or fault} failed: {type(error).__name__}: {error}"
            self._tell(record, "failed")
        finally:
            await self._heal(fault, record)
        if self._rest_s:
            cluster = self.scene.cluster
            wrong = await self.scene.view.await_rest(len(cluster.servers), self._rest_s, len(cluster.devices))
            self._tell(record, "rest" if not wrong else f"no rest: {wrong[0]}")
            if wrong:
                await self._note(record, wrong)
        return record

    async def _note(self, record: FaultRecord, wrong: list[str]) -> None:
        self.notes.append(f"{self._now():.1f} s: no rest after {record.kind} {record.target}: {'; '.join(wrong)}")
        cluster = self.scene.cluster
        for name in cluster.servers:
            try:
                log = await cluster.last_lines(name)
            except (AminoError, OSError) as error:
                log = f"it cannot be read: {error}"
            self.notes.append(f"the log of {name} ends: {log}")

    async def _heal(self, fault: Fault, record: FaultRecord) -> None:
        try:
            async with asyncio.timeout(fault.heals_within_s):
                await fault.heal()
        except (AminoError, OSError, LookupError, TimeoutError) as error:
            record.text += f"; it could not be undone: {type(error).__name__}: {error}"
            record.verified = False
            self._tell(record, "not healed")
            return
        record.healed_s = self._now()
        self._tell(record, "healed")

    def _tell(self, record: FaultRecord, what: str) -> None:
        if self._watcher is not None:
            self._watcher.fault(record, what)
