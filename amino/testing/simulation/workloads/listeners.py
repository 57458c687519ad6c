"""Listeners: subscribers of an object that emits, which come back with their tokens again and again.

Owns the judgement of what they hear: every event once, in order, without gap. Leaves how events are kept to ``kernel.outbox``.
Invariants: the object numbers its events from 1; listeners begin at the oldest.
Failure behaviour: a gap, a repetition, ``EventsMissed`` or an event that never comes is a finding.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import amino
from amino.dm import AtLeastOnceRPC, ConsensusRSM, Manager, PeriodicCheckpoint
from amino.errors import AminoError, EventsMissed, NotFound, StateLost
from amino.testing.simulation.workloads.base import DEADLINE_S, RETRY_S, Kind, Setting

if TYPE_CHECKING:
    from amino.stubs.events import Subscription
    from amino.testing.simulation.client import SimulatedClient

PAUSE_S = 0.8
PATIENCE_S = 30.0
AT_ONCE_MAX = 12
LAST_S = 30.0


class Speaker:
    """Emits numbers, one after the other."""

    def __init__(self) -> None:
        self.said = 0

    def say(self) -> int:
        """Emit the next number, and return it."""
        self.said += 1
        amino.emit("said", self.said)
        return self.said

    @amino.readonly
    def count(self) -> int:
        """Return how many there were."""
        return self.said


@dataclass(slots=True)
class Life:
    """One speaker: numbers told to callers, and for each listener the last number it heard, with its token."""

    stub: Any
    told: list[int] = field(default_factory=list)
    heard: dict[str, tuple[int, str]] = field(default_factory=dict)
    lost: bool = False


class Listeners:
    """The load.

    Args:
        chain: of managers that lose nothing.
    """

    def __init__(self, setting: Setting, chain: tuple[Manager, ...]) -> None:
        self._setting = setting
        self._chain = chain
        self._life: Life | None = None
        self._open: dict[str, Subscription] = {}

    def start(self) -> None:
        """See ``Load.start``."""
        clients = self._setting.clients
        self._setting.spawn(clients[0], self._keep(clients[0]), "keeper")
        for client in clients:
            self._setting.spawn(client, self._say(client), f"caller of {client.name}")
        for client in clients[:2]:
            self._setting.spawn(client, self._listen(client), f"listener on {client.name}")
        self._setting.spawn(self._setting.administrator, self._close(), "closing")

    async def _keep(self, client: SimulatedClient) -> None:
        spec = amino.spec(Speaker, name=f"{self._setting.name}-speaker", dms=self._chain)
        await self._setting.keep(client, spec, self._known_as)

    def _known_as(self, stub: Any | None) -> Life | None:
        self._life = None if stub is None else Life(stub)
        return self._life

    async def _close(self) -> None:
        """End the listeners that wait when the load is over."""
        while not self._setting.stopping:  # noqa: ASYNC110 - the time is virtual
            await asyncio.sleep(RETRY_S)
        for subscription in self._open.values():
            subscription.close()

    async def _say(self, client: SimulatedClient) -> None:
        random = self._setting.random_for(client.name)
        while not self._setting.stopping:
            await asyncio.sleep(random.expovariate(1 / PAUSE_S))
            life = self._life
            if life is None:
                continue
            try:
                with amino.deadline(DEADLINE_S):
                    said = amino.aio(client.cluster.bind(life.stub).say)()
                    life.told.append(await self._setting.timed(client, "say", said))
            except StateLost as error:
                self._setting.note("say", error)
                life.lost = True
            except AminoError as error:
                self._setting.note("say", error)

    async def _listen(self, client: SimulatedClient) -> None:
        random = self._setting.random_for(f"listener on {client.name}")
        while not self._setting.stopping:
            life = self._life
            if life is None:
                await asyncio.sleep(RETRY_S)
                continue
            last, token = life.heard.get(client.name, (0, "oldest"))
            left = random.randint(1, AT_ONCE_MAX)
            subscription = self._open[client.name] = client.cluster.subscribe(
                client.cluster.bind(life.stub), after=token, patience_s=PATIENCE_S
            )
            try:
                async for event in subscription:
                    last = self._heard(life, client.name, last, event)
                    left -= 1
                    if not left or self._setting.stopping:
                        break
            except EventsMissed as error:
                self._setting.find(3, f"{client.name} missed events after {last}: {error}")
                life.lost = True
            except (NotFound, StateLost) as error:
                self._setting.note("listen", error)
                await asyncio.sleep(RETRY_S)
            except AminoError as error:
                self._setting.note("listen", error)
            finally:
                subscription.close()

    def _heard(self, life: Life, who: str, last: int, event: Any) -> int:
        self._setting.count("heard")
        if event.payload != last + 1:
            self._setting.find(3, f"{who} heard {event.payload} after {last}")
        life.heard[who] = (event.payload, event.token)
        return int(event.payload)

    async def audit(self) -> None:
        """See ``Load.audit``: what nobody has heard yet is still to be had, to the last event."""
        life = self._life
        if life is None or life.lost:
            return
        client = self._setting.administrator
        stub = client.cluster.bind(life.stub)
        try:
            with amino.deadline(DEADLINE_S):
                count = await amino.aio(
                    stub.say
                )()  # events of calls that ended as unknown are released by the next one
        except StateLost as error:
            self._setting.note("audit", error)
            return
        except AminoError as error:
            self._setting.find(6, f"it cannot be read at rest: {error!r}")
            return
        if len(set(life.told)) != len(life.told) or max(life.told, default=0) > count:
            self._setting.find(3, f"{count} events were said, and callers were told {sorted(life.told)}")
        for who, (last, token) in {"latecomer": (0, "oldest"), **life.heard}.items():
            heard = last
            subscription = client.cluster.subscribe(stub, after=token, patience_s=PATIENCE_S)
            try:
                async with asyncio.timeout(LAST_S):
                    while heard < count:
                        heard = self._heard(life, who, heard, await anext(subscription))
            except (AminoError, TimeoutError) as error:
                self._setting.find(3, f"{who} heard {heard} of {count} events: {error!r}")
            finally:
                subscription.close()


def _listeners(*chain: Manager) -> Callable[[Setting], Listeners]:
    return lambda setting: Listeners(setting, chain)


LOADS = (
    Kind(
        "events",
        "subscribers of an object under PeriodicCheckpoint(every=1): each event once, in order, resumed without gap",
        _listeners(AtLeastOnceRPC(), PeriodicCheckpoint(every=1)),
    ),
    Kind("events-replicated", "the same under ConsensusRSM", _listeners(AtLeastOnceRPC(), ConsensusRSM())),
)
