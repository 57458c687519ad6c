"""Counters: workers add one and read; the object keeps which additions made each count.

Owns the workload. Leaves judging to ``judges.once`` and ``judges.linearizability``, closing to ``closing``.
Invariant: each addition has a token of its own.
Failure behaviour: as ``base``.
"""

from __future__ import annotations

import random as random_module
from typing import ClassVar

from amino.testing.chaos.judges.linearizability import linearizable
from amino.testing.chaos.judges.models import Counter as Model
from amino.testing.chaos.judges.once import exactly_once
from amino.testing.chaos.record import RunRecord, Verdict
from amino.testing.chaos.workloads.closing import Closing, closed_by_key, refused_if
from amino.testing.chaos.workloads.services import Counters


class Counter(Closing):
    """Two of three operations add, the others read."""

    kind: ClassVar[str] = "counter"
    service: ClassVar[type] = Counters

    async def use(self, worker: int, key: str, random: random_module.Random) -> None:
        """See ``Closing``."""
        if random.random() < 1 / 3:
            await self.ask(worker, "read", key)
        else:
            await self.ask(worker, "add", key, self.token(worker))

    def judge(self, record: RunRecord) -> list[Verdict]:
        """See ``Workload``."""
        mine = [refused_if(one, "add", None) for one in self.mine(record)]
        log = closed_by_key(mine)
        additions = [one for one in mine if one.function == "add"]
        verdicts = [exactly_once(additions, log, lost_max=self.allowed_losses(record))]
        if self.promise.changes and verdicts[0].ok:
            wanted = ("add", "read") if self.promise.reads else ("add",)
            verdicts.append(linearizable([one for one in mine if one.function in wanted], Model(log)))
        return self.named(verdicts)
