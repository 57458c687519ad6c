"""What every fault is, and where it happens.

Owns the base class and the scene. Leaves each fault to its module, when it happens to ``schedule`` and ``nemesis``.
Invariants: ``heal`` may be called at any time, more than once, and undoes whatever ``inject`` did, however far it came.
Failure behaviour: ``inject`` and ``heal`` raise what prevented them; ``happened`` waits a little and says no.
"""

from __future__ import annotations

import abc
import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from amino.errors import Invalid, NotFound
from amino.testing.chaos.clusters.port import Ability, Cluster
from amino.testing.chaos.clusters.view import ClusterView

PRIMARY, COORDINATOR, LEADER = "primary", "coordinator", "leader"
HAPPENS_S = 3.0
ROLE_S = 10.0
_LOOK_EVERY_S = 0.01


@dataclass(frozen=True, slots=True)
class Shape:
    """What schedules know of a cluster: enough to choose targets.

    Args:
        servers: names. members: of etcd. abilities: see ``Ability``. ttl_s: of sessions. devices: names.
    """

    servers: tuple[str, ...]
    members: int
    abilities: frozenset[Ability]
    ttl_s: float
    devices: tuple[str, ...] = ()

    @classmethod
    def of(cls, cluster: Cluster) -> Shape:
        """Return the shape of a cluster."""
        return cls(
            tuple(cluster.servers), cluster.members, cluster.abilities, cluster.ttl_s, devices=tuple(cluster.devices)
        )


@dataclass(frozen=True, slots=True)
class Scene:
    """Where a fault happens: the cluster, and the view of it from outside."""

    cluster: Cluster
    view: ClusterView

    async def server(self, target: str) -> str:
        """Return the server that ``target`` names: itself, or who has the role, as soon as somebody has it.

        Raises:
            NotFound: nobody came to have the role in ``ROLE_S`` seconds, or there is no such server.
        """
        return await self._found(target, self.cluster.servers, "server")

    async def device(self, target: str) -> str:
        """Return the device that ``target`` names; as ``server``."""
        return await self._found(target, self.cluster.devices, "device")

    async def _found(self, target: str, names: tuple[str, ...], what: str) -> str:
        name = target

        async def found() -> bool:
            nonlocal name
            name = await (self.view.primary(names) if target == PRIMARY else self.view.coordinator())
            return name in names

        if target in (PRIMARY, COORDINATOR):
            await comes_true(found, ROLE_S)
        if name not in names:
            hint = "; create a microservice first" if target == PRIMARY else ""
            raise NotFound(f"no {what} is {target!r} now; there are {', '.join(names)}{hint}")
        return name

    def beside(self, name: str) -> list[str]:
        """Return all servers and devices but one."""
        return [one for one in (*self.cluster.servers, *self.cluster.devices) if one != name]

    async def member(self, target: str) -> int:
        """Return the index of the member of etcd that ``target`` names: ``m0``, or ``leader``."""
        return await self.view.leader() if target == LEADER else int(target.removeprefix("m"))


async def comes_true(condition: Callable[[], bool | Awaitable[bool]], within_s: float = HAPPENS_S) -> bool:
    """Wait until a condition holds; returns whether it did in time."""
    end = time.monotonic() + within_s
    while True:
        seen = condition()
        if seen if isinstance(seen, bool) else await seen:
            return True
        if time.monotonic() > end:
            return False
        await asyncio.sleep(_LOOK_EVERY_S)


class Fault(abc.ABC):
    """One fault, at one target, once.

    Args:
        scene: where. target: one of ``targets``.

    Attributes:
        kind: its name in the catalogue. needs: what the cluster must let be broken.
        lasts: shortest and longest duration, in TTLs of sessions; (0, 0) for what is over at once.
        unfolds: it goes on while it is injected, so it began before that ended. heals_within_s: how long undoing may take.
        hit: what was hit, once it was injected: the name behind a role.
        text: what was done, one line for people.
    """

    kind: str
    needs: ClassVar[frozenset[Ability]] = frozenset()
    lasts: ClassVar[tuple[float, float]] = (0.0, 0.0)
    unfolds = False
    heals_within_s = 60.0

    def __init__(self, scene: Scene, target: str) -> None:
        self.scene = scene
        self.target = target
        self.hit = target
        self.text = ""

    def __repr__(self) -> str:
        return f"{self.kind}({self.target})"

    @classmethod
    def what(cls) -> str:
        """Return what it is, one line."""
        return (cls.__doc__ or "").partition("\n")[0]

    @classmethod
    @abc.abstractmethod
    def targets(cls, shape: Shape) -> Sequence[str]:
        """Return what it can hit in such a cluster."""

    @abc.abstractmethod
    async def inject(self) -> None:
        """Cause it."""

    @abc.abstractmethod
    async def happened(self) -> bool:
        """Whether it really happened; waits a little for it to show."""

    @abc.abstractmethod
    async def heal(self) -> None:
        """Undo it, and wait until what was broken is there again. Idempotent."""


class Together(Fault):
    """Several faults at once; injected in order, undone in the opposite order."""

    kind = "together"

    def __init__(self, parts: Sequence[Fault]) -> None:
        if not parts:
            raise Invalid("no faults to put together; give at least one")
        super().__init__(parts[0].scene, "+".join(one.target for one in parts))
        self.parts = tuple(parts)
        self.kind = "+".join(one.kind for one in parts)
        self.unfolds = any(one.unfolds for one in parts)
        self.heals_within_s = sum(one.heals_within_s for one in parts)

    @classmethod
    def targets(cls, shape: Shape) -> Sequence[str]:  # noqa: ARG003 - those of its parts
        """Return nothing: its parts have targets."""
        return ()

    async def inject(self) -> None:
        """See ``Fault``."""
        for one in self.parts:
            await one.inject()
        self.hit = "+".join(one.hit for one in self.parts)
        self.text = "; ".join(one.text for one in self.parts)

    async def happened(self) -> bool:
        """See ``Fault``."""
        seen = [await one.happened() for one in self.parts]
        self.text = "; ".join(one.text for one in self.parts)
        return all(seen)

    async def heal(self) -> None:
        """See ``Fault``."""
        problem: Exception | None = None
        for one in reversed(self.parts):
            try:
                await one.heal()
            except Exception as error:  # noqa: BLE001 - the others must be undone all the same
                problem = problem or error
        if problem is not None:
            raise problem
