"""Ledgers: objects that remember every call, under managers that promise to forget none and to run none twice.

Owns the load and the judgement of its outcomes (invariants 4 and 5, and 3 for what was acknowledged). Leaves causing
trouble to ``faults`` and the servers' side to ``checks``.
Invariants: everything random comes from the seed; each call has an id of its own, and its outcome is recorded once.
Failure behaviour: an outcome that no correct cluster gives is a finding; errors that a broken cluster may give are
counted.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import amino
from amino.dm import (
    AtLeastOnceRPC,
    ConsensusRSM,
    ConsensusRSMGeo,
    LoadBalancedMasterSlave,
    Manager,
    PeriodicCheckpoint,
    SerializableRPC,
)
from amino.errors import AminoError, NotExecuted, NotFound, StateLost
from amino.testing.simulation.workloads.base import DEADLINE_S, Kind, Setting
from amino.testing.simulation.workloads.services import Ledger, Scratch

if TYPE_CHECKING:
    from amino.testing.simulation.client import SimulatedClient

LIFE_S = (20.0, 90.0)
FEW: dict[str, Any] = {"callers": 1, "ledgers": 1, "scratches": 0, "pause_s": 0.9}
"""A light load, to run beside others."""
REGIONS = ("north", "east", "south")
"""Those of the simulated servers (see ``run``)."""


@dataclass(slots=True)
class Life:
    """One microservice from its creation to its deletion, as its clients know it.

    Args:
        acknowledged: (client, number) -> total that the answer told.
        refused: calls that certainly did not run.
        newest: highest total told by an answer so far. told: when each higher total was told, and which.
    """

    name: str
    stub: Any
    acknowledged: dict[tuple[str, int], int] = field(default_factory=dict)
    refused: set[tuple[str, int]] = field(default_factory=set)
    newest: int = 0
    told: list[tuple[float, int]] = field(default_factory=list)
    over: bool = False


class Ledgers:
    """Ledgers and a few objects whose state may be lost, created, called and deleted all the time.

    Args:
        chain: what the ledgers are managed by.
        staleness_s: how old an answer to a read may be, in seconds.
        callers: per client. ledgers: objects that must not forget. scratches: objects whose state may be lost.
        pause_s: mean pause of each caller between two calls.
    """

    def __init__(
        self,
        setting: Setting,
        chain: tuple[Manager, ...],
        *,
        staleness_s: float = 0.0,
        callers: int = 2,
        ledgers: int = 5,
        scratches: int = 2,
        pause_s: float = 0.4,
    ) -> None:
        self.setting = setting
        self._chain = chain
        self._staleness_s = staleness_s
        self._pause_s = pause_s
        self._random = setting.random_for("lives")
        self._callers = callers
        self._ledgers: dict[str, Life | None] = {f"{setting.name}-ledger{number}": None for number in range(ledgers)}
        self._scratches: dict[str, Life | None] = {
            f"{setting.name}-scratch{number}": None for number in range(scratches)
        }
        self._numbers: Counter[str] = Counter()

    def alive(self) -> list[Life]:
        """Return the ledgers that there are now."""
        return [life for life in self._ledgers.values() if life is not None]

    def start(self) -> None:
        """See ``Load.start``."""
        clients = self.setting.clients
        for number, name in enumerate((*self._ledgers, *self._scratches)):
            client = clients[number % len(clients)]
            self.setting.spawn(client, self._churn(client, name), f"churn {name}")
        for client in clients:
            for number in range(self._callers):
                self.setting.spawn(client, self._call_on(client, number), f"caller {number} of {client.name}")

    # --- creating and deleting --------------------------------------------------------------------------------------

    async def _churn(self, client: SimulatedClient, name: str) -> None:
        lives = self._ledgers if name in self._ledgers else self._scratches
        while not self.setting.stopping:
            life = await self._create(client, name)
            lives[name] = life
            ends = self.setting.now + self._random.uniform(*LIFE_S)
            if life is None:
                await asyncio.sleep(0.5)
                continue
            if not await self._lived(life, ends):
                return
            lives[name] = None
            life.over = True
            await self._delete(client, life)

    async def _lived(self, life: Life, ends: float) -> bool:
        """Wait until a life ends; returns False if the load ends first."""
        while not self.setting.stopping:
            if life.over or self.setting.now >= ends:
                return True
            await asyncio.sleep(0.5)
        return False

    async def _create(self, client: SimulatedClient, name: str) -> Life | None:
        spec = (
            amino.spec(Ledger, name=name, dms=self._chain)
            if name in self._ledgers
            else amino.spec(Scratch, name=name, on_loss="recreate" if name.endswith("1") else "fail")
        )
        try:
            with amino.deadline(DEADLINE_S):
                stub = await self.setting.timed(client, "create", amino.aio(client.cluster.get_or_create)(spec))
        except AminoError as error:
            self.setting.note("create", error)
            return None
        return Life(name, stub)

    async def _delete(self, client: SimulatedClient, life: Life) -> None:
        while True:
            try:
                with amino.deadline(DEADLINE_S):
                    await self.setting.timed(client, "delete", amino.aio(client.cluster.delete)(life.stub))
                return
            except NotFound:
                return
            except AminoError as error:
                self.setting.note("delete", error)
                if self.setting.stopping:
                    return
                await asyncio.sleep(0.2)

    # --- calling ----------------------------------------------------------------------------------------------------

    async def _call_on(self, client: SimulatedClient, number: int) -> None:
        me = f"{client.name}.{number}"
        random = self.setting.random_for(me)
        while not self.setting.stopping:
            await asyncio.sleep(random.expovariate(1 / self._pause_s))
            lives = [life for life in (*self._ledgers.values(), *self._scratches.values()) if life is not None]
            if not lives:
                continue
            life = random.choice(lives)
            try:
                with amino.deadline(DEADLINE_S):
                    if life.name in self._ledgers:
                        await self._call_ledger(client, me, life, random.random())
                    else:
                        await self._call_scratch(client, me, life)
            except StateLost as error:
                self.setting.note("call", error)
                life.over = True
            except AminoError as error:
                self.setting.note("call", error)

    async def _call_ledger(self, client: SimulatedClient, me: str, life: Life, which: float) -> None:
        stub = client.cluster.bind(life.stub)
        number = self._numbers[me] = self._numbers[me] + 1
        # upwards only: two objects that serialise their calls and call each other at once would wait for each other
        others = [one for one in self._ledgers.values() if one is not None and one.name > life.name]
        before = life.newest
        if which < 0.2:
            at_s = self.setting.now - self._staleness_s
            floor = max((total for told_s, total in life.told if told_s <= at_s), default=0)
            count = await self.setting.timed(client, "count", amino.aio(stub.count)())
            if count < floor:
                self.setting.find(3, f"{life.name} counts {count} calls; {floor} were told by {at_s:.3f} s")
            return
        other = min(others, key=lambda one: one.name) if others else None
        if other is not None and which < 0.4:
            call = stub.pass_on(me, number, client.cluster.bind(other.stub))
        elif other is not None and which < 0.5:
            call = stub.around(me, number, client.cluster.bind(other.stub), stub)
        else:
            call = amino.aio(stub.add)(me, number)
        try:
            answer = await self.setting.timed(client, "add", call)
        except NotExecuted:
            life.refused.add((me, number))
            raise
        self._judge(life, (me, number), before, answer)

    def _judge(self, life: Life, call: tuple[str, int], before: int, answer: Any) -> None:
        if tuple(answer[:2]) != call:
            self.setting.find(5, f"{call} on {life.name} got the answer of another call: {answer}")
        total = int(answer[2])
        if total <= before:
            self.setting.find(3, f"{call} on {life.name} is number {total}, though {before} had been told before")
        if total in life.acknowledged.values():
            self.setting.find(3, f"{call} on {life.name} is number {total}, as another call was")
        life.acknowledged[call] = total
        if total > life.newest:
            life.newest = total
            life.told.append((self.setting.now, total))

    async def _call_scratch(self, client: SimulatedClient, me: str, life: Life) -> None:
        stub = client.cluster.bind(life.stub)
        number = self._numbers[me] = self._numbers[me] + 1
        if number % 2:
            answer = await self.setting.timed(client, "put", amino.aio(stub.put)(number))
        else:
            answer = await self.setting.timed(client, "echo", stub.echo(number))
        if answer != number:
            self.setting.find(5, f"{me} sent {number} to {life.name} and got {answer}")

    # --- at rest ----------------------------------------------------------------------------------------------------

    async def audit(self) -> None:
        """Compare what every ledger has seen with what its clients were told."""
        client = self.setting.administrator
        await asyncio.sleep(2 * self._staleness_s)
        for life in self.alive():
            try:
                seen, doubled, total = await amino.aio(client.cluster.bind(life.stub).audit)()
            except StateLost as error:  # whether it had to be, the watchtower judges
                self.setting.note("audit", error)
                continue
            except AminoError as error:
                self.setting.find(6, f"{life.name} cannot be read at rest: {error!r}")
                continue
            if doubled:
                self.setting.find(4, f"{life.name} ran twice: {doubled}")
            for (caller, number), told in life.acknowledged.items():
                if not seen.get(caller, 0) >> number & 1:
                    self.setting.find(3, f"{life.name} forgot {caller}'s call {number}, acknowledged as {told}")
                if told > total:
                    self.setting.find(3, f"{life.name} has {total} calls, but one was told {told}")
            for caller, number in sorted(life.refused):
                if seen.get(caller, 0) >> number & 1:
                    self.setting.find(4, f"{life.name} ran {caller}'s call {number}, which was told not to have run")


def _under(*chain: Manager, **options: Any) -> Callable[[Setting], Ledgers]:
    return lambda setting: Ledgers(setting, chain, **options)


def _few(*chain: Manager, **options: Any) -> Callable[[Setting], Ledgers]:
    return _under(*chain, **FEW, **options)


LOADS = (
    Kind(
        "checkpointed",
        "ledgers under PeriodicCheckpoint(every=1) and SerializableRPC: nothing acknowledged lost, nothing twice",
        _under(AtLeastOnceRPC(), PeriodicCheckpoint(every=1), SerializableRPC()),
    ),
    Kind(
        "replicated",
        "ledgers under ConsensusRSM: nothing acknowledged lost, nothing twice, no read stale",
        _under(AtLeastOnceRPC(), ConsensusRSM()),
    ),
    Kind(
        "replicated-state",
        "ledgers under ConsensusRSM that ships states",
        _under(AtLeastOnceRPC(), ConsensusRSM(replicate="state")),
    ),
    Kind(
        "replicated-checkpointed",
        "ledgers under ConsensusRSM over PeriodicCheckpoint(every=1)",
        _under(AtLeastOnceRPC(), ConsensusRSM(), PeriodicCheckpoint(every=1)),
    ),
    Kind(
        "geo-nearby",
        "ledgers under ConsensusRSMGeo(read_staleness_s=1): no read older than that",
        _few(AtLeastOnceRPC(), ConsensusRSMGeo(regions=REGIONS, read_staleness_s=1.0), staleness_s=1.0),
    ),
    Kind(
        "master-slave",
        "ledgers under LoadBalancedMasterSlave: nothing acknowledged lost, nothing twice, no read older than staleness_s",
        _few(AtLeastOnceRPC(), LoadBalancedMasterSlave(replicas=3, staleness_s=0.5), staleness_s=0.5),
    ),
    Kind(
        "at-least-once",
        "ledgers under AtLeastOnceRPC alone: nothing twice; nothing acknowledged lost but with its server, and reported",
        _few(AtLeastOnceRPC()),
    ),
)
