"""Keyed objects: calls go to whoever owns the key, while shards come and go and managers are changed.

Owns the judgement of keys: each acknowledged call is there, once, on one shard. Leaves objects without keys to ``ledgers``.
Invariants: as ``ledgers``, for each key.
Failure behaviour: a change that fails is counted; a key that is lost, doubled or goes back is a finding.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import amino
from amino.dm import DHT, AtLeastOnceRPC, ConsensusRSM, Manager, PeriodicCheckpoint
from amino.errors import AminoError, NotExecuted, StateLost
from amino.oms.group_machine import SHARDS
from amino.oms.shard_machine import settled
from amino.testing.simulation.workloads.base import DEADLINE_S, Kind, Setting

if TYPE_CHECKING:
    from amino.testing.simulation.client import SimulatedClient

PAUSE_S = 0.5
CHANGE_PAUSE_S = (1.0, 5.0)
CHANGE_S = 20.0
SHARDS_MAX = 4
CHANGED_S = 60.0
"""For a change of shards to be over, in which a broadcast is not one instant; longer only if a shard is lost."""
KEYS = 24
Call = tuple[str, int]


class Tallies:
    """For each key the calls that it has seen, in order."""

    def __init__(self) -> None:
        self.calls: dict[str, list[Call]] = {}

    @amino.key
    def add(self, key: str, caller: str, number: int) -> tuple[str, str, int, int]:
        """Note a call; returns it, and how many calls the key has seen."""
        calls = self.calls.setdefault(key, [])
        calls.append((caller, number))
        return key, caller, number, len(calls)

    @amino.key
    @amino.readonly
    def count(self, key: str) -> int:
        """Return how many calls the key has seen."""
        return len(self.calls.get(key, ()))

    @amino.broadcast
    @amino.readonly
    def everything(self) -> list[tuple[str, list[Call]]]:
        """Return every key that is here, with its calls."""
        return list(self.calls.items())


@dataclass(slots=True)
class Life:
    """One keyed object as its callers know it: (key, call) -> total told; and the newest total of each key."""

    stub: Any
    told: dict[tuple[str, Call], int] = field(default_factory=dict)
    refused: set[tuple[str, Call]] = field(default_factory=set)
    newest: Counter[str] = field(default_factory=Counter)
    lost: bool = False


class Sharded:
    """The load.

    Args:
        chains: of managers; made with the first, and changed to any of them while it is called if there are several.
        scale: whether shards are added and removed.
    """

    def __init__(self, setting: Setting, chains: Sequence[tuple[Manager, ...]], *, scale: bool) -> None:
        self._setting = setting
        self._chains = chains
        self._scale = scale
        self._life: Life | None = None
        self._changing = False
        self._numbers: Counter[str] = Counter()

    def start(self) -> None:
        """See ``Load.start``."""
        setting = self._setting
        setting.spawn(setting.clients[0], self._keep(setting.clients[0]), "keeper")
        for client in setting.clients:
            setting.spawn(client, self._call(client), f"caller of {client.name}")
        changer = setting.clients[-1]
        setting.spawn(changer, self._change(changer), "changer")

    def _spec(self, chain: tuple[Manager, ...]) -> Any:
        return amino.spec(Tallies, name=f"{self._setting.name}-tallies", dms=chain)

    async def _keep(self, client: SimulatedClient) -> None:
        """Have the object; make another when its state is lost."""
        await self._setting.keep(client, self._spec(self._chains[0]), self._known_as)

    def _known_as(self, stub: Any | None) -> Life | None:
        self._life = None if stub is None else Life(stub)
        return self._life

    # --- changing ---------------------------------------------------------------------------------------------------

    async def _change(self, client: SimulatedClient) -> None:
        random = self._setting.random_for("changes")
        while not self._setting.stopping:
            await asyncio.sleep(random.uniform(*CHANGE_PAUSE_S))
            life = self._life
            if life is None:
                continue
            try:
                if len(self._chains) > 1:
                    with amino.deadline(DEADLINE_S):
                        spec = self._spec(random.choice(self._chains))
                        await self._setting.timed(client, "apply", amino.aio(client.cluster.apply)(spec))
                else:
                    shards = random.randint(1, SHARDS_MAX)
                    scale = amino.aio(client.cluster.scale)
                    await scale(client.cluster.bind(life.stub), shards=shards, timeout_s=CHANGE_S)
                    self._setting.count("scale ok")
            except StateLost as error:
                self._setting.note("change", error)
                life.lost = True
            except AminoError as error:
                self._setting.note("change", error)

    # --- calling ----------------------------------------------------------------------------------------------------

    async def _call(self, client: SimulatedClient) -> None:
        random = self._setting.random_for(client.name)
        while not self._setting.stopping:
            await asyncio.sleep(random.expovariate(1 / PAUSE_S))
            if self._life is not None:
                await self._once(client, self._life, f"key{random.randrange(KEYS)}", random.random())

    async def _once(self, client: SimulatedClient, life: Life, key: str, which: float) -> None:
        setting, stub = self._setting, client.cluster.bind(life.stub)
        number = self._numbers[client.name] = self._numbers[client.name] + 1
        call, before = (client.name, number), life.newest[key]
        try:
            with amino.deadline(DEADLINE_S):
                if which < 0.2:
                    count = await setting.timed(client, "count", amino.aio(stub.count)(key))
                    if count < before:
                        setting.find(3, f"{key} has seen {count} calls after an answer told {before}")
                    return
                answer = tuple(await setting.timed(client, "add", amino.aio(stub.add)(key, *call)))
        except NotExecuted as error:
            setting.note("call", error)
            life.refused.add((key, call))
            return
        except StateLost as error:
            setting.note("call", error)
            life.lost = True
            return
        except AminoError as error:
            setting.note("call", error)
            return
        if answer[:3] != (key, *call):
            setting.find(5, f"{call} for {key} was answered {answer}")
        if answer[3] <= before:
            setting.find(3, f"{call} is number {answer[3]} of {key}, though {before} had been told before")
        life.told[key, call] = answer[3]
        life.newest[key] = max(before, life.newest[key], answer[3])

    # --- judging ----------------------------------------------------------------------------------------------------

    async def audit(self) -> None:
        """See ``Load.audit``."""
        life = self._life
        if life is None:
            return
        client = self._setting.administrator
        end = self._setting.now + CHANGED_S
        while self._changes(life) and self._setting.now < end:  # noqa: ASYNC110 - the time is virtual
            await asyncio.sleep(1.0)
        try:
            with amino.deadline(DEADLINE_S):
                found = await amino.aio(client.cluster.bind(life.stub).everything)()
        except StateLost as error:
            self._setting.note("audit", error)
            return
        except AminoError as error:
            self._setting.find(6, f"it cannot be read at rest: {error!r}")
            return
        self._judge(life, found)

    def _changes(self, life: Life) -> bool:
        """Return whether shards come or go."""
        root = self._setting.document(life.stub)
        return root is not None and root.kind == SHARDS and not settled(root)

    def _judge(self, life: Life, found: list[tuple[str, list[Call]]]) -> None:
        setting = self._setting
        calls: dict[str, list[Call]] = {}
        for key, seen in found:
            if key in calls:
                setting.find(4, f"{key} is on two shards")
            calls[key] = [(caller, number) for caller, number in seen]
            for call, times in Counter(calls[key]).items():
                if times > 1:
                    setting.find(4, f"{key} ran {call} {times} times")
        for (key, call), told in life.told.items():
            seen = calls.get(key, [])
            if call not in seen:
                setting.find(3, f"{key} forgot {call}, acknowledged as {told}")
            elif seen[told - 1 : told] != [call]:
                setting.find(3, f"{key} has {call} at another place than {told}")
        for key, call in sorted(life.refused):
            if call in calls.get(key, ()):
                setting.find(4, f"{key} ran {call}, which was told not to have run")


def _sharded(*chains: tuple[Manager, ...], scale: bool) -> Callable[[Setting], Sharded]:
    return lambda setting: Sharded(setting, chains, scale=scale)


RETRY = AtLeastOnceRPC()
EACH = PeriodicCheckpoint(every=1)
LOADS = (
    Kind(
        "dht",
        "keys under DHT over PeriodicCheckpoint(every=1) while shards come and go: none lost, none doubled, each on one",
        _sharded((RETRY, DHT(shards=2), EACH), scale=True),
    ),
    Kind(
        "dht-replicated",
        "keys under DHT over ConsensusRSM while shards come and go",
        _sharded((RETRY, DHT(shards=2), ConsensusRSM()), scale=True),
    ),
    Kind(
        "live-change",
        "keys while managers change: PeriodicCheckpoint, ConsensusRSM, DHT over either; nothing acknowledged lost or doubled",
        _sharded(
            (RETRY, EACH),
            (RETRY, ConsensusRSM()),
            (RETRY, ConsensusRSM(), EACH),
            (RETRY, DHT(shards=2), EACH),
            (RETRY, DHT(shards=2), ConsensusRSM()),
            scale=False,
        ),
    ),
)
