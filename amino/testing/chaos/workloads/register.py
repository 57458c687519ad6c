"""Registers: workers write, swap and read one value under each key.

Owns the workload. Leaves the search for an order to ``judges.linearizability``.
Invariant: no value is written twice.
Failure behaviour: as ``base``.
"""

from __future__ import annotations

import random as random_module
from collections.abc import Sequence
from typing import ClassVar

from amino.dm.base import Manager
from amino.stubs.cluster import Cluster
from amino.testing.chaos.history import Recorder
from amino.testing.chaos.judges.linearizability import linearizable
from amino.testing.chaos.judges.models import Cell
from amino.testing.chaos.record import RunRecord, Verdict
from amino.testing.chaos.workloads.base import Calls, Generations
from amino.testing.chaos.workloads.services import Cells


class Register(Calls):
    """Half of all operations read, a third write, the rest swap."""

    kind: ClassVar[str] = "register"
    service: ClassVar[type] = Cells

    def __init__(self, recorder: Recorder, dms: Sequence[Manager], name: str = "") -> None:
        super().__init__(recorder, dms, name)
        self._keys = Generations()

    async def step(self, worker: int, random: random_module.Random) -> None:
        """See ``Workload``."""
        old = self._keys.take_old(self.recorder.now_s)
        if old is not None:
            await self.ask(worker, "forget", old)
            return
        key = self._keys.key(self.recorder.now_s, random)
        function = random.choice(["read", "read", "read", "write", "write", "swap"])
        await self.ask(worker, function, key, None if function == "read" else self.token(worker))

    async def audit(self, client: Cluster) -> None:
        """Read every key once more."""
        while (key := self._keys.take_any()) is not None:
            await self.insist(client, "read", key)

    def judge(self, record: RunRecord) -> list[Verdict]:
        """See ``Workload``."""
        if not self.promise.changes:
            return []
        wanted = ("read", "write", "swap") if self.promise.reads else ("write", "swap")
        verdict = linearizable([one for one in self.mine(record) if one.function in wanted], Cell())
        return self.named([verdict])
