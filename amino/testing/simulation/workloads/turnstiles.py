"""Turnstiles: objects that notice when two calls are inside at once.

Owns the guarantee of ``SerializableRPC`` without any other manager: one call at a time, in the order in which calls arrived at
the server, an exception frees the turn, a call that was acknowledged has happened once. Leaves objects that outlive their server to ``ledgers``.
Invariants: as ``ledgers``; nothing is retried here, so nothing may have run twice, whatever the caller was told.
Failure behaviour: state that is lost with its server must be reported by ``StateLost`` for as long as the object is there.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import amino
from amino.contracts.calls import CURRENT, decode_call_head
from amino.dm import SerializableRPC
from amino.errors import AminoError, NotExecuted, StateLost
from amino.testing.simulation.workloads.base import DEADLINE_S, Kind, Setting

if TYPE_CHECKING:
    from amino.rpc.port import Inbound
    from amino.testing.simulation.client import SimulatedClient
    from amino.testing.simulation.kernel import Kernel

INSIDE_S = 0.004
PAUSE_S = 0.6
OBJECTS = 1
Request = tuple[str, int]
"""A request's client and number."""


class Turnstile:
    """Counts who passes, and who meets another inside."""

    def __init__(self) -> None:
        self.passed: dict[tuple[str, int], int] = {}
        self.order: list[Request] = []
        self.inside = 0
        self.met = 0

    async def walk(self, caller: str, number: int, *, stumble: bool) -> tuple[str, int]:
        """Pass; takes a moment. Raises ``RuntimeError`` at the end if ``stumble``."""
        running = CURRENT.get()
        assert running is not None, "a method is running"
        self.order.append((running.request.client, running.request.sequence))
        self.met += self.inside
        self.inside += 1
        await asyncio.sleep(INSIDE_S)
        self.passed[caller, number] = self.passed.get((caller, number), 0) + 1
        self.inside -= 1
        if stumble:
            raise RuntimeError(f"{caller} {number}")
        return caller, number

    @amino.readonly
    async def look(self) -> int:
        """Return how many are inside; changes nothing."""
        return self.inside

    @amino.readonly
    def audit(self) -> tuple[dict[tuple[str, int], int], int, list[Request]]:
        """Return who has passed how often, how many met another, and in which order requests began."""
        return self.passed, self.met, self.order


@dataclass(slots=True)
class Life:
    """One turnstile as its callers know it."""

    name: str
    stub: Any
    told: set[tuple[str, int]] = field(default_factory=set)
    refused: set[tuple[str, int]] = field(default_factory=set)
    lost: bool = False


class Turnstiles:
    """The load. See the module.

    Args:
        setting: of the simulation.
    """

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._lives: dict[str, Life] = {}
        self._numbers: Counter[str] = Counter()
        self._arrivals: dict[tuple[str, Request], list[tuple[str, int]]] = {}
        self._arrived = 0

    def start(self) -> None:
        """See ``Load.start``."""
        self._setting.cluster.on_call.append(self._note_arrival)
        for number, client in enumerate(self._setting.clients):
            if number < OBJECTS:
                self._setting.spawn(client, self._keep(client, f"{self._setting.name}-{number}"), f"keeper {number}")
            self._setting.spawn(client, self._call(client), f"caller of {client.name}")

    def _note_arrival(self, kernel: Kernel, inbound: Inbound) -> None:
        """Note at which kernel process a request arrived as which; not where it has to wait for the session to be valid."""
        head = decode_call_head(inbound.head)
        self._arrived += 1
        where = f"{kernel.name}#{kernel.number}" if kernel.valid else ""
        request = (head.client, head.sequence)
        self._arrivals.setdefault((head.microservice, request), []).append((where, self._arrived))

    async def _keep(self, client: SimulatedClient, name: str) -> None:
        """Have a turnstile of that name; make another when the state of one is lost."""
        spec = amino.spec(Turnstile, name=name, dms=(SerializableRPC(),))
        while not self._setting.stopping:
            stub = await self._setting.create(client, spec)
            if stub is None:
                return
            life = self._lives[name] = Life(name, stub)
            if not await self._setting.until(partial(getattr, life, "lost")):
                return
            await asyncio.sleep(2.0)  # in which it stays lost
            del self._lives[name]
            await self._setting.delete(client, stub)

    async def _call(self, client: SimulatedClient) -> None:
        random = self._setting.random_for(client.name)
        while not self._setting.stopping:
            await asyncio.sleep(random.expovariate(1 / PAUSE_S))
            if self._lives:
                life = random.choice(list(self._lives.values()))
                many = random.choice((1, 1, 3))
                await asyncio.gather(*(self._once(client, life, random.random()) for _ in range(many)))

    async def _once(self, client: SimulatedClient, life: Life, which: float) -> None:
        setting = self._setting
        stub = client.cluster.bind(life.stub)
        number = self._numbers[client.name] = self._numbers[client.name] + 1
        call, lost = (client.name, number), life.lost
        try:
            with amino.deadline(DEADLINE_S):
                if which < 0.2:
                    inside = await setting.timed(client, "look", stub.look())
                    if inside:
                        setting.find(4, f"{life.name} let a reader in beside {inside} others")
                    answer = call
                else:
                    answer = tuple(await setting.timed(client, "walk", stub.walk(*call, stumble=which > 0.9)))
                    life.told.add(call)
            if answer != call:
                setting.find(5, f"{call} on {life.name} was answered {answer}")
            if lost:
                setting.find(3, f"{life.name} answered {call} after its state was said to be lost")
        except RuntimeError as error:
            setting.count("walk stumbled")
            if f"{call[0]} {call[1]}" not in str(error):
                setting.find(5, f"{call} on {life.name} stumbled as another: {error}")
            life.told.add(call)
        except StateLost as error:
            setting.note("walk", error)
            life.lost = True
        except NotExecuted as error:
            setting.note("walk", error)
            life.refused.add(call)
        except AminoError as error:
            setting.note("walk", error)

    async def audit(self) -> None:
        """See ``Load.audit``."""
        client = self._setting.administrator
        for life in self._lives.values():
            try:
                passed, met, order = await amino.aio(client.cluster.bind(life.stub).audit)()
            except StateLost as error:
                self._setting.note("audit", error)
                continue
            except AminoError as error:
                self._setting.find(6, f"{life.name} cannot be read at rest: {error!r}")
                continue
            if met:
                self._setting.find(4, f"{met} calls met another one inside {life.name}")
            self._judge_order(life, [(client, number) for client, number in order])
            for call in sorted(life.told - set(passed)):
                self._setting.find(3, f"{life.name} forgot {call}")
            for call in sorted(life.refused & set(passed)):
                self._setting.find(4, f"{life.name} ran {call}, which was told not to have run")
            for call, times in passed.items():
                if times != 1:
                    self._setting.find(4, f"{life.name} ran {call} {times} times")

    def _judge_order(self, life: Life, order: list[Request]) -> None:
        """At each kernel process requests began in the order in which they arrived; those that arrived twice are left out."""
        ms_id = life.stub.__amino_reference__.microservice
        newest: dict[str, tuple[int, Request]] = {}
        for request in order:
            arrivals = self._arrivals.get((ms_id, request), [])
            if len(arrivals) != 1 or not arrivals[0][0]:
                continue
            where, arrived = arrivals[0]
            last, before = newest.get(where, (0, request))
            if arrived < last:
                self._setting.find(4, f"{life.name} ran {request} after {before}, which had arrived later at {where}")
            newest[where] = arrived, request


LOADS = (
    Kind(
        "serializable",
        "turnstiles under SerializableRPC alone: one call inside at a time, in the order they arrived, an exception frees the turn, loss is reported",
        Turnstiles,
    ),
)
