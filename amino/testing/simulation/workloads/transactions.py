"""Transactions whose histories are judged: list-append and transfers, within one microservice and across several.

Owns the load, clients that die in the middle of a transaction, and the judgement: strict serializability of what clients
recorded (``testing.serializability``), which a lost acknowledged write breaks too; conservation of money; locks that are free in
time. Leaves causing other trouble to ``faults``.
Invariants: a transaction counts as failed only where its client was told so before it asked for the commit, or by the
verdict; everything else whose outcome did not come is unknown.
Failure behaviour: each anomaly, each amount of money too much or missing, and each lock that stays is a finding.
"""

from __future__ import annotations

import asyncio
import random as random_module
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import amino
from amino.contracts.decisions import ABORT, COMMITTED, DecideRequest, DecisionsRequest
from amino.contracts.documents import GroupDocument, Phase, decode
from amino.dm import (
    AtLeastOnceRPC,
    ConsensusRSM,
    DurableSerializableRPC,
    DurableTransactions,
    LockingTransactions,
    Manager,
    OptimisticTransactions,
    PeriodicCheckpoint,
    TwoPhaseCommit,
)
from amino.errors import AminoError, NotExecuted, StateLost, TransactionAborted
from amino.ids import ROOT, slot_of
from amino.testing.serializability import Outcome, Transaction, judge
from amino.testing.simulation.workloads.base import DEADLINE_S, RETRY_S, Kind, Setting
from amino.testing.simulation.workloads.services import Books

if TYPE_CHECKING:
    from amino.testing.simulation.client import SimulatedClient

ACCOUNTS = 4
EACH = 100
FREE_S = 3.0
"""``lock_s`` and ``timeout_s`` of the managers: after so long, what a client that died held is free."""
SLACK_S = 3.0
DIES_WITHIN_S = 0.12
TOLD_MAX = 3


@dataclass(slots=True)
class Era:
    """The microservices from their creation until their state was lost, what clients did with them, and who called before."""

    stubs: list[Any]
    history: list[Transaction] = field(default_factory=list)
    known: set[str] = field(default_factory=set)
    over: bool = False


class Histories:
    """Callers that run transactions and plain calls, and remember what they were told.

    Args:
        chain: what the microservices are managed by. manager: whose transactions are used, None for plain calls only.
        objects: how many; transactions reach over all of them with ``TwoPhaseCommit``.
        may_lose: whether the state may be lost with all replicas; another set is made then.
        callers: per client. keys: of each microservice. pause_s: mean pause of a caller.
    """

    def __init__(
        self,
        setting: Setting,
        chain: tuple[Manager, ...],
        manager: type[Manager] | None,
        *,
        objects: int = 1,
        may_lose: bool = False,
        callers: int = 1,
        keys: int = 2,
        pause_s: float = 0.2,
    ) -> None:
        self._setting = setting
        self._chain = chain
        self._manager = manager
        self._objects = objects
        self._may_lose = may_lose
        self._callers = callers
        self._keys = keys
        self._pause_s = pause_s
        self._eras: list[Era] = []
        self._victims = 0

    def start(self) -> None:
        """See ``Load.start``."""
        setting = self._setting
        setting.spawn(setting.clients[0], self._keep(setting.clients[0]), "keeper")
        for client in setting.clients:
            for number in range(self._callers):
                setting.spawn(client, self._work(client, number), f"caller {number} of {client.name}")
        if self._manager is not None:
            setting.spawn(setting.clients[0], self._kill_some(), "killer")

    async def _keep(self, client: SimulatedClient) -> None:
        """Create the microservices, and others when their state was lost."""
        setting = self._setting
        while not setting.stopping:
            if self._eras and not self._eras[-1].over:
                await asyncio.sleep(RETRY_S)
                continue
            stubs = []
            for number in range(self._objects):
                spec = amino.spec(Books, name=f"{setting.name}-{len(self._eras)}-{number}", dms=self._chain)
                stub = await setting.create(client, spec, ACCOUNTS // self._objects or 1, EACH)
                if stub is None:
                    return
                stubs.append(stub)
            self._eras.append(Era(stubs))

    # --- the load -------------------------------------------------------------------------------------------------------

    async def _work(self, client: SimulatedClient, number: int) -> None:
        me = f"{client.name}.{number}"
        random = self._setting.random_for(me)
        calls = 0
        while not self._setting.stopping:
            await asyncio.sleep(random.expovariate(1 / self._pause_s))
            era = self._eras[-1] if self._eras else None
            if era is None or era.over:
                continue
            calls += 1
            try:
                if self._manager is None or random.random() < 0.3:
                    await self._plain(client, era, f"{me}-{calls}", random)
                else:
                    await self._transact(client, era, f"{me}-{calls}", random)
            except StateLost as error:
                self._setting.note("call", error)
                if not self._may_lose and not era.over:
                    self._setting.find(3, f"the state is lost: {error}")
                era.over = True
            except AminoError as error:
                self._setting.note("call", error)

    async def _kill_some(self) -> None:
        """Let clients begin transactions and die, at any step."""
        random = self._setting.random_for("killer")
        while not self._setting.stopping:
            await asyncio.sleep(random.uniform(1.0, 6.0))
            if self._eras and not self._eras[-1].over:
                await self._die(self._eras[-1], random)

    async def _die(self, era: Era, random: random_module.Random) -> None:
        self._victims += 1
        name = f"{self._setting.name}-victim{self._victims}"
        victim = self._setting.cluster.client(name)
        victim.spawn(self._attempt(victim, era, name, random_module.Random(random.getrandbits(63))), name)
        await asyncio.sleep(random.uniform(0.0, DIES_WITHIN_S))
        victim.kill()
        del self._setting.cluster.clients[name]
        self._setting.count("client killed")

    async def _attempt(self, client: SimulatedClient, era: Era, name: str, random: random_module.Random) -> None:
        try:
            await self._transact(client, era, name, random)
        except AminoError as error:
            self._setting.note("call", error)

    async def _timed(self, client: SimulatedClient, what: str, call: Awaitable[Any]) -> Any:
        if client in self._setting.clients:
            return await self._setting.timed(client, what, call)
        return await call  # one that is to die has no deadline to keep

    def _begun(self, era: Era, name: str) -> Transaction:
        era.history.append(Transaction(name, began=self._setting.now))
        return era.history[-1]

    async def _plain(self, client: SimulatedClient, era: Era, name: str, random: random_module.Random) -> None:
        number = random.randrange(self._objects)
        stub, key = client.cluster.bind(era.stubs[number]), str(random.randrange(self._keys))
        if self._objects == 1 and random.random() < 0.2:
            with amino.deadline(DEADLINE_S):
                total = await self._timed(client, "total", amino.aio(stub.total)())
            if total != ACCOUNTS * EACH:
                self._setting.find(3, f"a plain call saw {total} of {ACCOUNTS * EACH} in the middle of a transaction")
            return
        one = self._begun(era, name)
        try:
            with amino.deadline(DEADLINE_S):
                if random.random() < 0.4:
                    values = await self._timed(client, "read", amino.aio(stub.read)(key))
                    one.read((number, key), values)
                else:
                    one.append((number, key), name)
                    await self._timed(client, "append", amino.aio(stub.append)(key, name))
        except NotExecuted:
            one.end(Outcome.FAILED, self._setting.now)
            raise
        one.end(Outcome.OK, self._setting.now)

    async def _transact(self, client: SimulatedClient, era: Era, name: str, random: random_module.Random) -> None:
        stubs = [client.cluster.bind(stub) for stub in era.stubs]
        if self._manager is not TwoPhaseCommit and client.name not in era.known:
            with amino.deadline(DEADLINE_S):  # on a loop a handle of its managers wants a call before it
                await self._timed(client, "read", amino.aio(stubs[0].read)("0"))
            era.known.add(client.name)
        one = self._begun(era, name)
        asked = False
        try:
            with amino.deadline(DEADLINE_S):
                async with self._block(client, stubs[0]):
                    await self._steps(client, stubs, one, random)
                    asked = True
        except AminoError as error:
            if not asked or isinstance(error, TransactionAborted):
                one.end(Outcome.FAILED, self._setting.now)
            raise
        self._setting.count("transaction ok")
        one.end(Outcome.OK, self._setting.now)

    def _block(self, client: SimulatedClient, stub: Any) -> Any:
        assert self._manager is not None
        if self._manager is TwoPhaseCommit:
            return client.cluster.transaction()
        control: Any = amino.control(stub, self._manager)
        return control.transaction()

    async def _steps(
        self, client: SimulatedClient, stubs: list[Any], one: Transaction, random: random_module.Random
    ) -> None:
        """Move money, and append to and read some lists."""
        amount = random.randint(1, 20)
        source, target = random.sample(range(ACCOUNTS), 2)
        for account, moved in ((source, -amount), (target, amount)):
            stub = stubs[account % len(stubs)]
            await self._timed(client, "move", amino.aio(stub.move)(account // len(stubs), moved))
        for step in range(random.randint(1, 3)):
            number, key = random.randrange(len(stubs)), str(random.randrange(self._keys))
            if random.random() < 0.5:
                values = await self._timed(client, "read", amino.aio(stubs[number].read)(key))
                one.read((number, key), values)
            else:
                value = f"{one.id}/{step}"
                one.append((number, key), value)
                await self._timed(client, "append", amino.aio(stubs[number].append)(key, value))

    # --- at rest --------------------------------------------------------------------------------------------------------

    async def audit(self) -> None:
        """See ``Load.audit``."""
        if self._eras and not self._eras[-1].over:
            era = self._eras[-1]
            try:
                if self._manager is not None:
                    await self._locks_are_free(era)
                await self._final(era)
            except StateLost as error:
                self._setting.note("audit", error)
                if not self._may_lose:
                    self._setting.find(3, f"the state is lost: {error}")
            except AminoError as error:
                self._setting.find(6, f"cannot be read at rest: {error!r}")
        for era in self._eras:
            for finding in judge(era.history, strict=True)[:TOLD_MAX]:
                self._setting.find(3, f"not serializable: {finding}")
        if self._manager is TwoPhaseCommit:
            await self._decisions()

    async def _locks_are_free(self, era: Era) -> None:
        """A client dies at any step of a transaction; soon all microservices answer others again."""
        await self._die(era, self._setting.random_for("last victim"))
        client, began = self._setting.administrator, self._setting.now
        for number, stub in enumerate(era.stubs):
            one = self._begun(era, f"after the last victim {number}")
            one.append((number, "0"), one.id)
            await amino.aio(client.cluster.bind(stub).append)("0", one.id)
            one.end(Outcome.OK, self._setting.now)
        took_s = self._setting.now - began
        if took_s > FREE_S + SLACK_S:
            self._setting.find(5, f"what a dead client held was free after {took_s:.1f} s, which may take {FREE_S} s")

    async def _final(self, era: Era) -> None:
        client, money = self._setting.administrator, 0
        for number, stub in enumerate(era.stubs):
            bound = client.cluster.bind(stub)
            money += await amino.aio(bound.total)()
            for key in map(str, range(self._keys)):
                one = self._begun(era, f"final {number} {key}")
                one.read((number, key), await amino.aio(bound.read)(key))
                one.end(Outcome.OK, self._setting.now)
        wanted = max(ACCOUNTS // self._objects, 1) * self._objects * EACH
        if money != wanted:
            self._setting.find(3, f"money is not conserved: {money} of {wanted}")

    async def _decisions(self) -> None:
        """No promise waits any more; decisions that nobody promised are left to the sweeper, and taken away here."""
        registry = self._setting.administrator.runtime.registry
        end = self._setting.now + 4 * FREE_S
        while True:
            left = (await registry.call("decisions", DecisionsRequest(), timeout_s=10.0)).decisions
            kept = [each for each in left if each.outcome == COMMITTED]
            if not kept or self._setting.now >= end:
                break
            await asyncio.sleep(RETRY_S)
        for each in kept:
            if self._has_lost(each.cohorts):
                continue  # one that has lost its state may be restored with its promise, and must find the decision
            self._setting.find(6, f"the decision on {each.transaction} is kept at rest: {each}")
        for each in left:
            if each.outcome != COMMITTED:
                await registry.call("decide", DecideRequest(each.transaction, each.revision, ABORT), timeout_s=10.0)

    def _has_lost(self, cohorts: Sequence[str]) -> bool:
        """Return whether one of ``cohorts`` has lost its state, or was deleted."""
        etcd, keys = self._setting.cluster.etcd, self._setting.cluster.keys
        ids = {cohort.partition("/")[0] for cohort in cohorts}
        records = [etcd.list(keys.group(slot_of(ms_id), ms_id, ROOT))[0] for ms_id in ids]
        return any(
            not found or decode(found[0].value, GroupDocument, found[0].key).phase == Phase.LOST for found in records
        )


def _under(manager: type[Manager] | None, *chain: Manager, **options: Any) -> Callable[[Setting], Histories]:
    return lambda setting: Histories(setting, (AtLeastOnceRPC(), *chain), manager, **options)


_LOCKING = LockingTransactions(lock_s=FREE_S, wait_s=4.0)
_TWO_PHASE = TwoPhaseCommit(timeout_s=FREE_S)
_KEPT = PeriodicCheckpoint(every=1)
LOADS = (
    Kind(
        "locking",
        "LockingTransactions over PeriodicCheckpoint: strictly serializable, money conserved, locks free in time",
        _under(LockingTransactions, _LOCKING, _KEPT),
    ),
    Kind(
        "locking-replicated",
        "LockingTransactions over ConsensusRSM",
        _under(LockingTransactions, _LOCKING, ConsensusRSM(), may_lose=True),
    ),
    Kind(
        "optimistic",
        "OptimisticTransactions over PeriodicCheckpoint: strictly serializable, money conserved",
        _under(OptimisticTransactions, OptimisticTransactions(), _KEPT),
    ),
    Kind(
        "optimistic-replicated",
        "OptimisticTransactions over ConsensusRSM",
        _under(OptimisticTransactions, OptimisticTransactions(), ConsensusRSM(), may_lose=True),
    ),
    Kind(
        "two-phase",
        "TwoPhaseCommit over four microservices that keep checkpoints: strictly serializable, decisions followed",
        _under(TwoPhaseCommit, _TWO_PHASE, _KEPT, objects=4, keys=1),
    ),
    Kind(
        "two-phase-replicated",
        "TwoPhaseCommit over two microservices under ConsensusRSM",
        _under(TwoPhaseCommit, _TWO_PHASE, ConsensusRSM(), objects=2, keys=1, may_lose=True),
    ),
    Kind(
        "durable",
        "plain calls under DurableSerializableRPC: nothing acknowledged is lost",
        _under(None, DurableSerializableRPC(snapshot_every=20)),
        {"power_loss": 2, "power_loss_in_write": 1, "torn_log": 3},
    ),
    Kind(
        "durable-transactions",
        "DurableTransactions: no acknowledged commit is lost, strictly serializable",
        _under(DurableTransactions, DurableTransactions(snapshot_every=20)),
        {"power_loss": 2, "power_loss_in_write": 1, "torn_log": 3},
    ),
)
"""Each is judged by the histories of its clients."""
