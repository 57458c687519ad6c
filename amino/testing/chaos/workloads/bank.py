"""A bank: workers move money between accounts and look at all of them.

Owns the workload: with a manager of transactions a transfer is two changes and a signature in one transaction, over two banks
with ``TwoPhaseCommit``; without one it is a single call. Leaves judging to ``judges.balance`` and ``judges.once``.
Invariant: each transfer has a token of its own.
Failure behaviour: as ``base``; a chain that divides the state needs ``TwoPhaseCommit`` and is refused, because accounts of
different shards cannot be looked at together.
"""

from __future__ import annotations

import random as random_module
from collections.abc import Sequence
from typing import Any, ClassVar

import msgspec

import amino
from amino.dm.base import Manager, Trait
from amino.errors import AminoError, Invalid
from amino.stubs.cluster import Cluster
from amino.stubs.spec import Spec
from amino.testing.chaos.history import Recorder
from amino.testing.chaos.judges.balance import conserved
from amino.testing.chaos.judges.once import exactly_once
from amino.testing.chaos.record import RunRecord, Verdict
from amino.testing.chaos.workloads.base import CALL_S
from amino.testing.chaos.workloads.closing import Closing, closed_by_key, refused_if
from amino.testing.chaos.workloads.stores import Bank as Service
from amino.testing.chaos.workloads.transacting import block_of, manager_of, reaches_over_several, transact

ACCOUNTS, EACH = 6, 100


class Bank(Closing):
    """Three of four operations are transfers."""

    kind: ClassVar[str] = "bank"
    service: ClassVar[type] = Service

    def __init__(self, recorder: Recorder, dms: Sequence[Manager], name: str = "") -> None:
        super().__init__(recorder, dms, name, keys=1)
        if any(Trait.SHARDS in one.provides for one in dms):
            raise Invalid("a bank looks at all accounts at once, so its chain cannot divide them; leave DHT out")
        self._manager = manager_of(dms)
        self._both = reaches_over_several(dms)
        self._clients: list[Cluster] = []
        self._others: list[Any] = []

    def arguments(self) -> tuple[Any, ...]:
        """See ``Calls``."""
        return ACCOUNTS, EACH

    @property
    def total(self) -> int:
        """What all accounts of all banks hold."""
        return ACCOUNTS * EACH * (2 if self._both else 1)

    async def prepare(self, clients: Sequence[Cluster]) -> None:
        """See ``Workload``."""
        await super().prepare(clients)
        self._clients = list(clients)
        if self._both:
            spec: Spec[Any] = amino.spec(self.service, name=f"{self.microservice}-2", dms=self._dms)
            await amino.aio(clients[0].get_or_create)(spec, *self.arguments())
            self._others = [await amino.aio(one.get)(f"{self.microservice}-2", self.service) for one in clients]
        for stub in (*self._stubs, *self._others):
            await amino.aio(stub.balances)()  # a handle of its managers wants a call before it

    async def use(self, worker: int, key: str, random: random_module.Random) -> None:
        """See ``Closing``."""
        if random.random() < 1 / 4:
            await self._look(worker)
            return
        source, target = random.sample(range(ACCOUNTS * (2 if self._both else 1)), 2)
        order = [source, target, random.randint(1, 40), self.token(worker)]
        if self._manager is None:
            await self.ask(worker, "transfer", key, order)
        else:
            await self._transfer(worker, key, order)

    def _bank(self, worker: int, account: int) -> Any:
        place = worker % len(self._stubs)
        return self._stubs[place] if account < ACCOUNTS else self._others[place]

    def _block(self, worker: int) -> Any:
        return block_of(self._clients[worker % len(self._clients)], self.stub(worker), self._dms)

    async def _transfer(self, worker: int, key: str, order: list[Any]) -> None:
        source, target, amount, token = order
        operation = self.recorder.begin(worker, "transfer", key, order, workload=self.name)

        async def do() -> bool | None:
            for account, moved in ((source, -amount), (target, amount)):
                if not await amino.aio(self._bank(worker, account).change)(account % ACCOUNTS, moved):
                    return None
            return True if await amino.aio(self.stub(worker).sign)(key, token) else None

        await transact(self.recorder, operation, self._block(worker), do, CALL_S)

    async def _look(self, worker: int) -> None:
        operation = self.recorder.begin(worker, "balances", workload=self.name)

        async def do() -> list[int]:
            held = list(await amino.aio(self.stub(worker).balances)())
            return held + (list(await amino.aio(self._bank(worker, ACCOUNTS).balances)()) if self._both else [])

        if self._both:
            await transact(self.recorder, operation, self._block(worker), do, CALL_S)
            return
        try:
            with amino.deadline(CALL_S):
                self.recorder.ok(operation, await do())
        except AminoError as error:
            self.recorder.failed(operation, error)

    async def audit(self, client: Cluster) -> None:
        """Close every key, then look once more."""
        await super().audit(client)
        await self._look(0)

    def judge(self, record: RunRecord) -> list[Verdict]:
        """See ``Workload``."""
        mine = self.mine(record)
        transfers = [
            msgspec.structs.replace(refused_if(one, "transfer", False), argument=one.argument[-1])
            for one in mine
            if one.function == "transfer"
        ]
        verdicts = [exactly_once(transfers, closed_by_key(mine), lost_max=self.allowed_losses(record))]
        if self.promise.serial or self._manager is not None:
            verdicts.append(conserved([one for one in mine if one.function == "balances"], self.total))
        return self.named(verdicts)
