"""Sets and queues.

Owns the two workloads. Leaves judging to ``judges.sets``, ``judges.fifo`` and ``judges.once``, closing to ``closing``.
Invariant: each element, value and take has a token of its own.
Failure behaviour: as ``base``.
"""

from __future__ import annotations

import random as random_module
from typing import ClassVar

import msgspec

from amino.testing.chaos.history import Operation
from amino.testing.chaos.judges.fifo import queues
from amino.testing.chaos.judges.once import exactly_once
from amino.testing.chaos.judges.sets import growing_sets
from amino.testing.chaos.record import RunRecord, Verdict
from amino.testing.chaos.workloads.closing import Closing, closed_by_key, refused_if
from amino.testing.chaos.workloads.stores import Queues, Sets


class Set(Closing):
    """Five of six operations add an element, the others read the whole set."""

    kind: ClassVar[str] = "set"
    service: ClassVar[type] = Sets

    async def use(self, worker: int, key: str, random: random_module.Random) -> None:
        """See ``Closing``."""
        if random.random() < 1 / 6:
            await self.ask(worker, "all", key)
        else:
            await self.ask(worker, "add", key, self.token(worker))

    def judge(self, record: RunRecord) -> list[Verdict]:
        """See ``Workload``."""
        mine = [refused_if(one, "add", False) for one in self.mine(record)]
        additions = [one for one in mine if one.function == "add"]
        verdicts = [exactly_once(additions, closed_by_key(mine), lost_max=self.allowed_losses(record))]
        if self.promise.changes:
            wanted = ("add", "all", "close") if self.promise.reads else ("add", "close")
            verdicts.append(growing_sets([one for one in mine if one.function in wanted]))
        return self.named(verdicts)


class Queue(Closing):
    """Half of all operations put a value in, the others take one out."""

    kind: ClassVar[str] = "queue"
    service: ClassVar[type] = Queues

    async def use(self, worker: int, key: str, random: random_module.Random) -> None:
        """See ``Closing``."""
        await self.ask(worker, random.choice(["put", "take"]), key, self.token(worker))

    def judge(self, record: RunRecord) -> list[Verdict]:
        """See ``Workload``."""
        mine = [refused_if(refused_if(one, "put", False), "take", None) for one in self.mine(record)]
        if self.promise.changes:
            return self.named([queues([_taken(one) for one in mine if one.function in ("put", "take", "close")])])
        ends = closed_by_key(mine)
        done = {key: [*(value for _, value in taken if value), *left] for key, (taken, left) in ends.items()}
        puts = [one for one in mine if one.function == "put"]
        return self.named([exactly_once(puts, done, lost_max=self.allowed_losses(record))])


def _taken(operation: Operation) -> Operation:
    if operation.function == "take" and operation.outcome == "ok":
        return msgspec.structs.replace(operation, value=operation.value[0])
    return operation
