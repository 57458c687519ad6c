"""Pressure on memory: a server's kernel process has nearly none left, until it says so.

Owns choosing the process and waiting for its word. Leaves control groups to ``clusters.memory``.
Invariant: nothing is left of the pressure after ``heal``, and the server has had time to see that: the next time it says so again.
Failure behaviour: as ``Fault``; a kernel process that the system ends for want of memory is started again by its supervisor.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from amino.aio.mode import offload
from amino.errors import NotFound
from amino.kernel.pressure import EVERY_S
from amino.testing.chaos.clusters.memory import Squeeze
from amino.testing.chaos.clusters.port import Ability, Part
from amino.testing.chaos.faults.fault import COORDINATOR, PRIMARY, Fault, Scene, Shape, comes_true

SAYS_S = 4 * EVERY_S
_LOOKS_S = EVERY_S + 1.0


class MemoryPressure(Fault):
    """A server's kernel process may take hardly any more memory, and its managers are told that memory is short."""

    kind = "memory-pressure"
    needs = frozenset({Ability.MEMORY})
    lasts = (0.0, 2.0)

    def __init__(self, scene: Scene, target: str) -> None:
        super().__init__(scene, target)
        self._squeeze: Squeeze | None = None
        self._told_before = 0
        self._pressed = False

    @classmethod
    def targets(cls, shape: Shape) -> Sequence[str]:
        """See ``Fault``."""
        return (*shape.servers, PRIMARY, COORDINATOR)

    async def _told(self) -> int:
        told = await self.scene.view.history()
        return sum(one.kind == "memory-short" and one.server == self.hit for one in told)

    async def inject(self) -> None:
        """See ``Fault``."""
        self.hit = await self.scene.server(self.target)
        pid = self.scene.cluster.pid(self.hit, Part.KERNEL)
        if not pid:
            raise NotFound(f"{self.hit} has no kernel process now")
        self._told_before = await self._told()
        contained = Ability.CONTAINERS in self.scene.cluster.abilities
        self._squeeze = squeeze = await offload(lambda: Squeeze(pid, contained=contained))
        self._pressed = True
        limit = await offload(squeeze.press)
        self.text = f"memory of {self.hit} limited to {limit >> 20} MiB, of which nearly all is taken"

    async def happened(self) -> bool:
        """See ``Fault``: the server says in the cluster's history that its memory is short."""

        async def said() -> bool:
            return await self._told() > self._told_before

        return self._squeeze is not None and self._squeeze.presses and await comes_true(said, SAYS_S)

    async def heal(self) -> None:
        """See ``Fault``."""
        if self._squeeze is not None:
            await offload(self._squeeze.release)
            await self.scene.cluster.revive(self.hit)
            if self._pressed:
                self._pressed = False
                await asyncio.sleep(_LOOKS_S)
