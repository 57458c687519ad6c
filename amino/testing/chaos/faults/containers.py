"""Faults of whole containers: killed, paused, disconnected from their network.

Owns asking Docker for it. Leaves containers to the cluster.
Invariant: each is proved by what Docker says of the container afterwards.
Failure behaviour: as ``Fault``.
"""

from __future__ import annotations

from collections.abc import Sequence

from amino.aio.mode import offload
from amino.errors import Invalid
from amino.testing.chaos.clusters.containers import ContainerCluster
from amino.testing.chaos.clusters.port import Ability
from amino.testing.chaos.faults.fault import COORDINATOR, PRIMARY, Fault, Scene, Shape, comes_true


class _OfContainer(Fault):
    needs = frozenset({Ability.CONTAINERS})
    lasts = (0.3, 2.5)

    def __init__(self, scene: Scene, target: str) -> None:
        super().__init__(scene, target)
        self._done = False

    @property
    def containers(self) -> ContainerCluster:
        """The cluster."""
        cluster = self.scene.cluster
        if not isinstance(cluster, ContainerCluster):
            raise Invalid(f"{cluster!r} has no containers")
        return cluster

    @classmethod
    def targets(cls, shape: Shape) -> Sequence[str]:
        """See ``Fault``."""
        return (*shape.servers, PRIMARY, COORDINATOR, *(f"m{index}" for index in range(shape.members)))

    async def inject(self) -> None:
        """See ``Fault``."""
        is_member = self.target.startswith("m")
        self.hit = self.target if is_member else await self.scene.server(self.target)
        self._done = True
        await offload(self.do)

    def do(self) -> None:
        """Do it. Blocks."""
        raise NotImplementedError

    async def heal(self) -> None:
        """See ``Fault``."""
        if self._done:
            if self.hit.startswith("m"):
                await self.containers.revive_member(int(self.hit[1:]))
            else:
                await self.containers.revive(self.hit)

    async def _is(self, state: str) -> bool:
        return await offload(self.containers.state, self.hit) == state


class KillContainer(_OfContainer):
    """A container is killed by Docker, with all its processes; started again after a while."""

    kind = "kill-container"

    def do(self) -> None:
        """See ``_OfContainer``."""
        self.containers.container(self.hit).kill()
        self.text = f"container {self.hit} killed"

    async def happened(self) -> bool:
        """See ``Fault``."""
        return await comes_true(lambda: self._is("exited"))


class FreezeContainer(_OfContainer):
    """A container is paused: all its processes are frozen at one instant."""

    kind = "freeze-container"

    def do(self) -> None:
        """See ``_OfContainer``."""
        self.containers.container(self.hit).pause()
        self.text = f"container {self.hit} paused"

    async def happened(self) -> bool:
        """See ``Fault``."""
        return await comes_true(lambda: self._is("paused"))


class Disconnect(_OfContainer):
    """A container is disconnected from the network: it has no address any more, and nobody reaches it."""

    kind = "disconnect-container"

    def do(self) -> None:
        """See ``_OfContainer``."""
        self.containers.connect_network(self.hit, on=False)
        self.text = f"container {self.hit} disconnected from the network"

    async def happened(self) -> bool:
        """See ``Fault``."""
        return not await offload(self.containers.address_of, self.hit)

    async def heal(self) -> None:
        """See ``Fault``."""
        if self._done and not await offload(self.containers.address_of, self.hit):
            await offload(lambda: self.containers.connect_network(self.hit, on=True))
        await super().heal()
