"""Clients that call, create and delete, and remember exactly what they were told.

Owns the load and the judgement of its outcomes (invariants 4 and 5, and 3 for what was checkpointed). Leaves causing
trouble to ``faults`` and the servers' side to ``checks``.
Invariants: everything random comes from the seed; each call has an id of its own, and its outcome is recorded once.
Failure behaviour: an outcome that no correct cluster gives is a finding; errors that a broken cluster may give are
counted.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import amino
from amino.dm import AtLeastOnceRPC, PeriodicCheckpoint, SerializableRPC
from amino.errors import AlreadyExists, AminoError, NotExecuted, NotFound, StateLost
from amino.testing.simulation.services import Ledger, Scratch

if TYPE_CHECKING:
    from amino.testing.simulation.checks import Watchtower
    from amino.testing.simulation.client import SimulatedClient
    from amino.testing.simulation.cluster import SimulatedCluster

DEADLINE_S = 8.0
SLACK_S = 0.5
LIFE_S = (20.0, 90.0)
CHAIN = (AtLeastOnceRPC(), PeriodicCheckpoint(every=1), SerializableRPC())


@dataclass(slots=True)
class Life:
    """One microservice from its creation to its deletion, as its clients know it.

    Args:
        acknowledged: (client, number) -> total that the answer told.
        refused: calls that certainly did not run.
        newest: highest total told by an answer so far.
    """

    name: str
    stub: Any
    acknowledged: dict[tuple[str, int], int] = field(default_factory=dict)
    refused: set[tuple[str, int]] = field(default_factory=set)
    newest: int = 0
    over: bool = False


class Workload:
    """The load of one simulation.

    Args:
        clients: client processes. ledgers: checkpointed objects. scratches: objects whose state may be lost.
        pause_s: mean pause of each caller between two calls.
    """

    def __init__(
        self,
        cluster: SimulatedCluster,
        watchtower: Watchtower,
        *,
        clients: int = 3,
        callers: int = 2,
        ledgers: int = 5,
        scratches: int = 2,
        pause_s: float = 0.4,
    ) -> None:
        self.outcomes: Counter[str] = Counter()
        self.longest_s = 0.0
        self._cluster = cluster
        self._watchtower = watchtower
        self._pause_s = pause_s
        self._random = cluster.random_for("workload")
        self._clients = [cluster.client(f"client{number}") for number in range(1, clients + 1)]
        self._callers = callers
        self._ledgers: dict[str, Life | None] = {f"ledger{number}": None for number in range(ledgers)}
        self._scratches: dict[str, Life | None] = {f"scratch{number}": None for number in range(scratches)}
        self._numbers: Counter[str] = Counter()
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []

    async def run(self, seconds: float) -> None:
        """Load the cluster for so long; returns once every call has its outcome."""
        names = [*self._ledgers, *self._scratches]
        for number, name in enumerate(names):
            client = self._clients[number % len(self._clients)]
            self._tasks.append(client.spawn(self._churn(client, name), f"churn {name}"))
        for client in self._clients:
            for number in range(self._callers):
                self._tasks.append(client.spawn(self._call_on(client, number), f"caller {number}"))
        await asyncio.sleep(seconds)
        self._stopping = True
        _, pending = await asyncio.wait(self._tasks, timeout=120.0)
        for task in pending:
            self._watchtower.find(5, f"{task.get_name()} hangs: {task.get_stack()}")
        for task in self._tasks:
            if task.done() and not task.cancelled() and task.exception() is not None:
                self._watchtower.find(5, f"{task.get_name()} ended by {task.exception()!r}")

    # --- creating and deleting --------------------------------------------------------------------------------------

    async def _churn(self, client: SimulatedClient, name: str) -> None:
        lives = self._ledgers if name in self._ledgers else self._scratches
        while not self._stopping:
            life = await self._create(client, name)
            lives[name] = life
            ends = self._cluster.loop.now + self._random.uniform(*LIFE_S)
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
        while not self._stopping:
            if life.over or self._cluster.loop.now >= ends:
                return True
            await asyncio.sleep(0.5)
        return False

    async def _create(self, client: SimulatedClient, name: str) -> Life | None:
        spec = (
            amino.spec(Ledger, name=name, dms=CHAIN)
            if name in self._ledgers
            else amino.spec(Scratch, name=name, on_loss="recreate" if name.endswith("1") else "fail")
        )
        try:
            with amino.deadline(DEADLINE_S):
                stub = await self._timed(client, "create", amino.aio(client.cluster.get_or_create)(spec))
        except AminoError as error:
            self._note("create", error)
            return None
        return Life(name, stub)

    async def _delete(self, client: SimulatedClient, life: Life) -> None:
        while True:
            try:
                with amino.deadline(DEADLINE_S):
                    await self._timed(client, "delete", amino.aio(client.cluster.delete)(life.stub))
                return
            except NotFound:
                return
            except AminoError as error:
                self._note("delete", error)
                if self._stopping:
                    return
                await asyncio.sleep(0.2)

    # --- calling ----------------------------------------------------------------------------------------------------

    async def _call_on(self, client: SimulatedClient, number: int) -> None:
        me = f"{client.name}.{number}"
        random = self._cluster.random_for(me)
        while not self._stopping:
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
                self._note("call", error)
                life.over = True
            except AminoError as error:
                self._note("call", error)

    async def _call_ledger(self, client: SimulatedClient, me: str, life: Life, which: float) -> None:
        stub = client.cluster.bind(life.stub)
        number = self._numbers[me] = self._numbers[me] + 1
        # upwards only: two objects that serialise their calls and call each other at once would wait for each other
        others = [one for one in self._ledgers.values() if one is not None and one.name > life.name]
        before = life.newest
        if which < 0.2:
            count = await self._timed(client, "count", amino.aio(stub.count)())
            if count < before:
                self._watchtower.find(3, f"{life.name} counts {count} calls after an answer told {before}")
            return
        other = min(others, key=lambda one: one.name) if others else None
        if other is not None and which < 0.4:
            call = stub.pass_on(me, number, client.cluster.bind(other.stub))
        elif other is not None and which < 0.5:
            call = stub.around(me, number, client.cluster.bind(other.stub), stub)
        else:
            call = amino.aio(stub.add)(me, number)
        try:
            answer = await self._timed(client, "add", call)
        except NotExecuted:
            life.refused.add((me, number))
            raise
        self._judge(life, (me, number), before, answer)

    def _judge(self, life: Life, call: tuple[str, int], before: int, answer: Any) -> None:
        if tuple(answer[:2]) != call:
            self._watchtower.find(5, f"{call} on {life.name} got the answer of another call: {answer}")
        total = int(answer[2])
        if total <= before:
            self._watchtower.find(3, f"{call} on {life.name} is number {total}, though {before} had been told before")
        if total in life.acknowledged.values():
            self._watchtower.find(3, f"{call} on {life.name} is number {total}, as another call was")
        life.acknowledged[call] = total
        life.newest = max(life.newest, total)

    async def _call_scratch(self, client: SimulatedClient, me: str, life: Life) -> None:
        stub = client.cluster.bind(life.stub)
        number = self._numbers[me] = self._numbers[me] + 1
        if number % 2:
            answer = await self._timed(client, "put", amino.aio(stub.put)(number))
        else:
            answer = await self._timed(client, "echo", stub.echo(number))
        if answer != number:
            self._watchtower.find(5, f"{me} sent {number} to {life.name} and got {answer}")

    async def _timed(self, client: SimulatedClient, what: str, call: Any) -> Any:
        loop = self._cluster.loop
        began, frozen_s = loop.now, client.frozen_s
        try:
            result = await call
            self.outcomes[f"{what} ok"] += 1
            return result
        finally:
            took_s = loop.now - began - (client.frozen_s - frozen_s)
            self.longest_s = max(self.longest_s, took_s)
            if took_s > DEADLINE_S + SLACK_S:
                self._watchtower.find(5, f"{what} took {took_s:.3f} s with a deadline of {DEADLINE_S} s")

    def _note(self, what: str, error: AminoError) -> None:
        self.outcomes[f"{what} {type(error).__name__}"] += 1
        self._watchtower.record(f"{what} {type(error).__name__}")

    # --- at rest ----------------------------------------------------------------------------------------------------

    async def audit(self) -> None:
        """Compare what every ledger has seen with what its clients were told."""
        client = self._cluster.client("administrator")
        for life in [one for one in self._ledgers.values() if one is not None]:
            try:
                seen, doubled, total = await amino.aio(client.cluster.bind(life.stub).audit)()
            except AminoError as error:
                self._watchtower.find(6, f"{life.name} cannot be read at rest: {error!r}")
                continue
            if doubled:
                self._watchtower.find(4, f"{life.name} ran twice: {doubled}")
            for (caller, number), told in life.acknowledged.items():
                if not seen.get(caller, 0) >> number & 1:
                    self._watchtower.find(3, f"{life.name} forgot {caller}'s call {number}, acknowledged as {told}")
                if told > total:
                    self._watchtower.find(3, f"{life.name} has {total} calls, but one was told {told}")
            for caller, number in sorted(life.refused):
                if seen.get(caller, 0) >> number & 1:
                    self._watchtower.find(
                        4, f"{life.name} ran {caller}'s call {number}, which was told not to have run"
                    )

    async def delete_all(self) -> None:
        """Delete every microservice there is."""
        cluster = self._cluster.client("administrator").cluster
        for _ in range(10):
            rows = await amino.aio(cluster.find)()
            if not rows:
                return
            for row in rows:
                try:
                    await amino.aio(cluster.delete)(row.name)
                except (NotFound, AlreadyExists):
                    continue
                except AminoError as error:
                    self._note("delete", error)
        self._watchtower.find(6, "microservices cannot be deleted at rest")
