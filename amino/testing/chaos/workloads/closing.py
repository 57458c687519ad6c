"""Workloads whose keys are closed in the end, so that what was done to them is known and stays so.

Owns closing old keys during the run and all others in the audit. Leaves what is asked, and the judges, to each workload.
Invariant: what the last ``close`` of a key returned is all that was ever done to it.
Failure behaviour: a key that could not be closed makes judges say that they cannot judge.
"""

from __future__ import annotations

import random as random_module
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import msgspec

from amino.dm.base import Manager
from amino.stubs.cluster import Cluster
from amino.testing.chaos.faults.catalogue import TOGETHER
from amino.testing.chaos.faults.store import CorruptSnapshot
from amino.testing.chaos.history import Operation, Recorder
from amino.testing.chaos.record import RunRecord
from amino.testing.chaos.workloads.base import Calls, Generations


class Closing(Calls):
    """A workload of keys that are used for a while, closed, read and forgotten."""

    def __init__(self, recorder: Recorder, dms: Sequence[Manager], name: str = "", keys: int = 3) -> None:
        super().__init__(recorder, dms, name)
        self._keys = Generations(keys)

    @abstractmethod
    async def use(self, worker: int, key: str, random: random_module.Random) -> None:
        """Make and record one operation on ``key``."""

    async def step(self, worker: int, random: random_module.Random) -> None:
        """See ``Workload``."""
        old = self._keys.take_old(self.recorder.now_s)
        if old is None:
            await self.use(worker, self._keys.key(self.recorder.now_s, random), random)
            return
        closed = await self.ask(worker, "close", old)
        if closed.outcome == "ok":
            await self.ask(worker, "forget", old)
        else:
            self._keys.put_back(old)

    async def audit(self, client: Cluster) -> None:
        """Close every key."""
        while (key := self._keys.take_any()) is not None:
            await self.insist(client, "close", key)

    def allowed_losses(self, record: RunRecord) -> int | None:
        """Return how many acknowledged changes may be missing after the faults of a run; None: any number."""
        lost_max = self.promise.lost_max
        if not lost_max:
            return lost_max
        happened = [fault for fault in record.faults if fault.verified]
        damaged = sum(fault.kind.split(TOGETHER).count(CorruptSnapshot.kind) for fault in happened)
        return lost_max * len(happened) + (lost_max + 1) * damaged  # what only the damaged one held


def closed_by_key(operations: Sequence[Operation]) -> dict[str, Any]:
    """Return what the last answered ``close`` of each key returned."""
    return {one.key: one.value for one in operations if one.function == "close" and one.outcome == "ok"}


def refused_if(operation: Operation, function: str, value: object) -> Operation:
    """Return an operation whose answer ``value`` means that nothing was done as one that failed."""
    if operation.function == function and operation.outcome == "ok" and operation.value == value:
        return msgspec.structs.replace(operation, outcome="failed", error="refused by the object")
    return operation
