"""What every load is, and what it runs in.

Owns the protocol, calls with deadlines and the count of their outcomes, and ending the load. Leaves what is called and how
it is judged to the loads.
Invariants: no call outlives its deadline by more than ``SLACK_S`` of its client's running time; each outcome is counted
once.
Failure behaviour: a caller that hangs or ends by anything but an ``AminoError`` is a finding.
"""

from __future__ import annotations

import asyncio
import random as random_module
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import amino
from amino.contracts.documents import GroupDocument, decode
from amino.errors import AminoError, NotFound
from amino.ids import ROOT, slot_of

if TYPE_CHECKING:
    from amino.stubs.spec import Spec
    from amino.testing.simulation.checks import Watchtower
    from amino.testing.simulation.client import SimulatedClient
    from amino.testing.simulation.cluster import SimulatedCluster

T = TypeVar("T")
DEADLINE_S = 8.0
SLACK_S = 0.5
END_S = 120.0
RETRY_S = 0.5


class Load(Protocol):
    """One load of one simulation, made with the ``Setting`` it runs in."""

    def start(self) -> None:
        """Begin: spawn, through ``Setting.spawn``, what ends soon after ``Setting.stopping``."""

    async def audit(self) -> None:
        """Judge at rest, when all faults are over and nothing of this load has been deleted yet."""


class Mortal(Protocol):
    """What callers know a microservice as; one of them says when its state is lost."""

    lost: bool


@dataclass(frozen=True, slots=True)
class Kind:
    """A load by name.

    Args:
        name: lower case, also the prefix of its microservices. about: what it shows, in one line.
        make: makes it.
        faults: further ones, by their names in ``faults.Nemesis``, with weights.
    """

    name: str
    about: str
    make: Callable[[Setting], Load]
    faults: Mapping[str, int] = field(default_factory=dict)


class Setting:
    """What one load runs in: the cluster, client processes, and where to say what happened.

    Args:
        name: of the load.
        outcomes: of all loads of the simulation, counted here under ``"<name>: <what> ok"`` or the error's name.
        clients: client processes, made by name on first use.

    Attributes:
        stopping: callers end. longest_s: the longest call, without the time its client stood still.
    """

    def __init__(
        self,
        cluster: SimulatedCluster,
        watchtower: Watchtower,
        name: str,
        outcomes: Counter[str],
        clients: Sequence[str] = ("client1", "client2", "client3"),
    ) -> None:
        self.cluster = cluster
        self.name = name
        self.clients = [cluster.client(one) for one in clients]
        self.stopping = False
        self.longest_s = 0.0
        self._watchtower = watchtower
        self._outcomes = outcomes
        self._tasks: list[tuple[SimulatedClient, asyncio.Task[Any]]] = []

    @property
    def now(self) -> float:
        """Virtual seconds."""
        return self.cluster.loop.now

    @property
    def administrator(self) -> SimulatedClient:
        """The client that no fault touches, for what is done at rest."""
        return self.cluster.client("administrator")

    def document(self, stub: Any, path: str = ROOT) -> GroupDocument | None:
        """Return the group document of a microservice as etcd has it now; None if there is none."""
        ms_id = stub.__amino_reference__.microservice
        record = self.cluster.etcd.get(self.cluster.keys.group(slot_of(ms_id), ms_id, path))
        return None if record is None else decode(record.value, GroupDocument, record.key)

    def random_for(self, purpose: str) -> random_module.Random:
        """Return a source of randomness of this load for ``purpose``."""
        return self.cluster.random_for(f"{self.name} {purpose}")

    def find(self, invariant: int, text: str) -> None:
        """Note a broken invariant."""
        self._watchtower.find(invariant, f"{self.name}: {text}")

    def note(self, what: str, error: AminoError) -> None:
        """Count the error that ended ``what``."""
        self.count(f"{what} {type(error).__name__}")

    def count(self, what: str) -> None:
        """Count ``what``, and make it part of the history."""
        self._outcomes[f"{self.name}: {what}"] += 1
        self._watchtower.record(f"{self.name} {what}")

    def spawn(self, client: SimulatedClient, coroutine: Coroutine[Any, Any, object], name: str) -> None:
        """Run ``coroutine`` as a task of ``client`` that belongs to this load; nobody waits for it if the client is killed."""
        self._tasks.append((client, client.spawn(coroutine, f"{self.name} {name}")))

    async def timed(self, client: SimulatedClient, what: str, call: Awaitable[T]) -> T:
        """Await a call made under ``amino.deadline(DEADLINE_S)``; count its result and how long it took."""
        began, frozen_s, killed = self.now, client.frozen_s, False
        try:
            result = await call
            self._outcomes[f"{self.name}: {what} ok"] += 1
            return result
        except asyncio.CancelledError:
            killed = True  # long ago perhaps: what is left of a process ends with the simulation
            raise
        finally:
            took_s = self.now - began - (client.frozen_s - frozen_s)
            self.longest_s = max(self.longest_s, took_s if not killed else 0.0)
            if not killed and took_s > DEADLINE_S + SLACK_S:
                self.find(5, f"{what} took {took_s:.3f} s with a deadline of {DEADLINE_S} s")

    async def create(self, client: SimulatedClient, spec: Spec[Any], *args: Any) -> Any | None:
        """Get or create ``spec``, again and again until it is there; returns its stub, or None if the load ends before."""
        while not self.stopping:
            try:
                with amino.deadline(DEADLINE_S):
                    return await self.timed(client, "create", amino.aio(client.cluster.get_or_create)(spec, *args))
            except AminoError as error:
                self.note("create", error)
                await asyncio.sleep(RETRY_S)
        return None

    async def until(self, holds: Callable[[], bool]) -> bool:
        """Wait until ``holds()``; returns False if the load ends before."""
        while not holds():
            if self.stopping:
                return False
            await asyncio.sleep(RETRY_S)
        return True

    async def keep(
        self, client: SimulatedClient, spec: Spec[Any], known_as: Callable[[Any | None], Mortal | None]
    ) -> None:
        """Have a microservice; delete it when its state is lost, and make another, until the load ends.

        Args:
            known_as: given its stub, returns what callers know it as; given None, has them know it no more.
        """
        while not self.stopping:
            stub = await self.create(client, spec)
            if stub is None:
                return
            if not await self.until(partial(getattr, known_as(stub), "lost")):
                return
            known_as(None)
            await self.delete(client, stub)

    async def delete(self, client: SimulatedClient, stub: Any) -> None:
        """Delete a microservice, again and again until it is gone or the load ends."""
        while not self.stopping:
            try:
                with amino.deadline(DEADLINE_S):
                    await self.timed(client, "delete", amino.aio(client.cluster.delete)(stub))
                return
            except NotFound:
                return
            except AminoError as error:
                self.note("delete", error)
                await asyncio.sleep(RETRY_S)

    async def end(self) -> None:
        """Have the load's tasks end; returns once every call has its outcome."""
        self.stopping = True
        until = self.now + END_S
        while (pending := self._pending()) and self.now < until:
            await asyncio.wait(pending, timeout=RETRY_S)
        for task in pending:
            self.find(5, f"{task.get_name()} hangs: {task.get_stack()}")
        for _, task in self._tasks:
            if task.done() and not task.cancelled() and task.exception() is not None:
                self.find(5, f"{task.get_name()} ended by {task.exception()!r}")

    def _pending(self) -> list[asyncio.Task[Any]]:
        return [task for client, task in self._tasks if not task.done() and not client.process.dead]
