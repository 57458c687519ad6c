"""Alarms: objects whose timers must fire exactly as their policies say, whatever happens to their servers.

Owns the judgement of occurrences, and at rest of how late they come. Leaves other guarantees of the managers to ``ledgers``.
Invariants: each occurrence is noted by the operation that goes past it, so the object's own list is the truth.
Failure behaviour: an occurrence that is doubled, early, left out or missing is a finding.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

import amino
from amino.dm import AtLeastOnceRPC, ConsensusRSM, Manager, PeriodicCheckpoint
from amino.errors import AminoError, StateLost
from amino.testing.simulation.workloads.base import DEADLINE_S, Kind, Setting

if TYPE_CHECKING:
    from amino.testing.simulation.client import SimulatedClient

PAUSE_S = 1.2
EVERY_S = 0.8
LATE_S = 1.0
SLACK_S = 0.5
SETTLED_S = 5.0
ERROR_S = 0.1
"""How late a timer may fire at rest."""
CALM_S = 3.0
"""Until what was asked of etcd while its answers got lost has timed out and been asked again; calls wait for it."""
Missed = Literal["fire", "skip", "coalesce"]
POLICIES: tuple[Missed, ...] = get_args(Missed)


class Alarms:
    """Three periodic timers, one for each policy, and as many single ones as are set."""

    def __init__(self) -> None:
        self.rung: list[tuple[str, int, int, float, float]] = []
        for missed in POLICIES:
            amino.timer(self._ring, every_s=EVERY_S, name=missed, missed=missed)

    def arm(self, name: str, missed: Missed, after_s: float) -> tuple[str, float]:
        """Set a single timer; returns its name and when it is due."""
        due_s = amino.now() + after_s
        amino.timer(self._ring, after_s=after_s, name=name, missed=missed)
        return name, due_s

    def disarm(self, name: str) -> bool:
        """Cancel a timer; returns whether there was one."""
        return amino.cancel_timer(name)

    def _ring(self) -> None:
        timer = amino.current().timer
        assert timer is not None, "timers call this, and nobody else"
        self.rung.append((timer.name, timer.number, timer.missed, timer.due, amino.now()))

    @amino.readonly
    def audit(self) -> list[tuple[str, int, int, float, float]]:
        """Return (name, number, missed, due, when) of all that has rung."""
        return self.rung


@dataclass(slots=True)
class Life:
    """One object as its callers know it: armed timers with policy and due time, and those cancelled in time."""

    stub: Any
    armed: dict[str, tuple[Missed, float]] = field(default_factory=dict)
    cancelled: set[str] = field(default_factory=set)
    lost: bool = False


class AlarmLoad:
    """The load.

    Args:
        chain: of managers that lose nothing.
    """

    def __init__(self, setting: Setting, chain: tuple[Manager, ...]) -> None:
        self._setting = setting
        self._chain = chain
        self._life: Life | None = None
        self._numbers: Counter[str] = Counter()

    def start(self) -> None:
        """See ``Load.start``."""
        clients = self._setting.clients
        self._setting.spawn(clients[0], self._keep(clients[0]), "keeper")
        for client in clients:
            self._setting.spawn(client, self._call(client), f"caller of {client.name}")

    async def _keep(self, client: SimulatedClient) -> None:
        spec = amino.spec(Alarms, name=f"{self._setting.name}-alarms", dms=self._chain)
        await self._setting.keep(client, spec, self._known_as)

    def _known_as(self, stub: Any | None) -> Life | None:
        self._life = None if stub is None else Life(stub)
        return self._life

    async def _call(self, client: SimulatedClient) -> None:
        random = self._setting.random_for(client.name)
        while not self._setting.stopping:
            await asyncio.sleep(random.expovariate(1 / PAUSE_S))
            life = self._life
            if life is None:
                continue
            number = self._numbers[client.name] = self._numbers[client.name] + 1
            name, missed, after_s = f"{client.name}-{number}", random.choice(POLICIES), random.uniform(0.0, 6.0)
            stub = client.cluster.bind(life.stub)
            try:
                with amino.deadline(DEADLINE_S):
                    answer, due_s = await self._setting.timed(client, "arm", amino.aio(stub.arm)(name, missed, after_s))
                    life.armed[name] = (missed, due_s)
                    if answer != name:
                        self._setting.find(5, f"arming {name} was answered {answer}")
                    if random.random() < 0.2 and await self._setting.timed(
                        client, "disarm", amino.aio(stub.disarm)(name)
                    ):
                        life.cancelled.add(name)
            except StateLost as error:
                self._setting.note("call", error)
                life.lost = True
            except AminoError as error:
                self._setting.note("call", error)

    async def audit(self) -> None:
        """See ``Load.audit``."""
        life = self._life
        if life is None:
            return
        client = self._setting.administrator
        now_s = self._setting.cluster.clock.wall()
        calm_s = now_s + CALM_S
        last_s = max((due_s for _, due_s in life.armed.values()), default=now_s)
        await asyncio.sleep(max(last_s - now_s, 0.0) + SETTLED_S)
        try:
            with amino.deadline(DEADLINE_S):
                rung = await amino.aio(client.cluster.bind(life.stub).audit)()
        except StateLost as error:
            self._setting.note("audit", error)
            return
        except AminoError as error:
            self._setting.find(6, f"it cannot be read at rest: {error!r}")
            return
        self._judge(life, [tuple(each) for each in rung], self._setting.cluster.clock.wall())
        late = [(name, at_s - due_s) for name, _, _, due_s, at_s in rung if due_s > calm_s and at_s - due_s > ERROR_S]
        for name, late_s in late:
            self._setting.find(3, f"{name} rang {late_s:.3f} s late at rest; it may be {ERROR_S} s")

    def _judge(self, life: Life, rung: list[tuple[str, int, int, float, float]], now_s: float) -> None:
        by_name: dict[str, list[tuple[int, int, float, float]]] = {}
        for name, number, missed, due_s, at_s in rung:
            by_name.setdefault(name, []).append((number, missed, due_s, at_s))
            if at_s < due_s:
                self._setting.find(4, f"{name} rang at {at_s:.3f}, before it was due at {due_s:.3f}")
        for policy in POLICIES:
            self._judge_periodic(policy, by_name.get(policy, []), now_s)
        for name, (policy, due_s) in life.armed.items():
            rings = by_name.get(name, [])
            if len(rings) > 1:
                self._setting.find(4, f"{name} ({policy}) rang {len(rings)} times: {rings}")
            if name in life.cancelled and rings:
                self._setting.find(4, f"{name} rang after it was cancelled: {rings}")
            if not rings and policy != "skip" and name not in life.cancelled:
                self._setting.find(3, f"{name} ({policy}), due at {due_s:.3f}, did not ring by {now_s:.3f}")
            if rings and policy == "skip" and rings[0][3] - due_s > LATE_S + SLACK_S:
                self._setting.find(4, f"{name} (skip) rang {rings[0][3] - due_s:.3f} s late")

    def _judge_periodic(self, policy: Missed, rings: list[tuple[int, int, float, float]], now_s: float) -> None:
        following = 0
        for number, missed, due_s, _ in rings:
            first = number - missed
            exact = first == following and (policy != "fire" or not missed)
            if not (exact or (policy == "skip" and first > following)):
                self._setting.find(
                    4, f"{policy}: occurrence {number}, {missed} missed, came where {following} was next"
                )
            following = number + 1
            if abs(due_s - rings[0][2] - (number - rings[0][0]) * EVERY_S) > 1e-6 * max(number, 1):
                self._setting.find(4, f"{policy}: occurrence {number} was due at {due_s}, off its grid")
        last_s = rings[-1][2] if rings else 0.0
        if now_s - last_s > EVERY_S + LATE_S:
            self._setting.find(3, f"{policy}: at rest, and nothing rang since {now_s - last_s:.1f} s")


def _alarms(*chain: Manager) -> Callable[[Setting], AlarmLoad]:
    return lambda setting: AlarmLoad(setting, chain)


LOADS = (
    Kind(
        "timers",
        "timers under PeriodicCheckpoint(every=1): each fires exactly as its policy says, none early, none after its end",
        _alarms(AtLeastOnceRPC(), PeriodicCheckpoint(every=1)),
    ),
    Kind("timers-replicated", "the same under ConsensusRSM", _alarms(AtLeastOnceRPC(), ConsensusRSM())),
)
