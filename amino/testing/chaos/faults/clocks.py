"""Faults of wall clocks: a server's, or every server's, jumps ahead or back, once or again and again.

Owns how far. Leaves setting clocks to ``clusters.clocks``.
Invariant: after ``heal`` all clocks are the machine's, which is a jump again.
Failure behaviour: as ``Fault``.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import ClassVar

from amino.aio.tasks import TaskOwner
from amino.errors import Invalid
from amino.testing.chaos.clusters.clocks import Clocks
from amino.testing.chaos.clusters.port import Ability, Part
from amino.testing.chaos.faults.fault import COORDINATOR, PRIMARY, Fault, Scene, Shape, comes_true

ALL = "all"
HOUR_S = 3600.0
_ASKED_S = 2.0


class _Jump(Fault):
    needs = frozenset({Ability.CLOCK})
    lasts = (0.5, 3.0)
    ahead_s: ClassVar[float]

    def __init__(self, scene: Scene, target: str) -> None:
        super().__init__(scene, target)
        self._servers: list[str] = []
        self._bent = False

    @classmethod
    def targets(cls, shape: Shape) -> Sequence[str]:
        """See ``Fault``: one server, or all at once."""
        return (*shape.servers, PRIMARY, COORDINATOR, ALL)

    @property
    def clocks(self) -> Clocks:
        """The clocks of the cluster."""
        clocks = self.scene.cluster.clocks
        if clocks is None:
            raise Invalid(f"the clocks of {self.scene.cluster!r} cannot be set")
        return clocks

    async def inject(self) -> None:
        """See ``Fault``."""
        every = self.target == ALL
        self._servers = list(self.scene.cluster.servers) if every else [await self.scene.server(self.target)]
        self.hit = ALL if every else self._servers[0]
        self._set(self.ahead_s)
        cluster = self.scene.cluster
        self._bent = all(self.clocks.is_bent(name, cluster.pid(name, Part.KERNEL)) for name in self._servers)
        self.text = f"wall clock of {self.hit} set {'ahead' if self.ahead_s > 0 else 'back'} by {abs(self.ahead_s):g} s"

    def _set(self, ahead_s: float) -> None:
        for name in self._servers:
            self.clocks.set(name, ahead_s)

    async def happened(self) -> bool:
        """See ``Fault``: kernel processes were told that time; those that do not ask now will be told when they do."""
        if self._bent and not await comes_true(lambda: any(map(self.clocks.is_told, self._servers)), _ASKED_S):
            self.text += "; nobody has asked for the time yet"
        return self._bent

    async def heal(self) -> None:
        """See ``Fault``."""
        self._set(0.0)


class ClockForward(_Jump):
    """The wall clock of a server, or of all, is set ahead by an hour, and set right again after a while."""

    kind = "clock-forward"
    ahead_s = HOUR_S


class ClockBack(_Jump):
    """The wall clock of a server, or of all, is set back by an hour, and set right again after a while."""

    kind = "clock-back"
    ahead_s = -HOUR_S


class ClockStrobe(_Jump):
    """The wall clock of a server, or of all, jumps ahead by a minute and back again, twenty times a second."""

    kind = "clock-strobe"
    ahead_s = 60.0
    pause_s: ClassVar[float] = 0.05

    def __init__(self, scene: Scene, target: str) -> None:
        super().__init__(scene, target)
        self._tasks = TaskOwner("clock strobe")

    async def happened(self) -> bool:
        """See ``Fault``; from then on it jumps."""
        seen = await super().happened()
        self._tasks.spawn(self._strobe(), "strobe")
        return seen

    async def _strobe(self) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            while True:
                await asyncio.sleep(self.pause_s)
                self._set(0.0 if self.clocks.ahead(self._servers[0]) else self.ahead_s)

    async def heal(self) -> None:
        """See ``Fault``."""
        await self._tasks.aclose()
        await super().heal()
