"""Rolling through a cluster: every server in turn drains, ends and starts again, as the same release or another.

Owns the order. Leaves draining and starting to the cluster, and releases to whoever gave it one.
Invariants: the next server begins to drain only when the one before serves again; after ``heal`` all run the release that they
were started with.
Failure behaviour: as ``Fault``; a server that does not end in time is not killed but told of.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from amino.errors import CoordinationUnavailable, Invalid
from amino.testing.chaos.clusters.port import Ability, Part
from amino.testing.chaos.faults.fault import Fault, Scene, Shape, comes_true

ALL = "all"
DRAIN_S = 90.0
_SEEN_S = 10.0


class _Rolling(Fault):
    unfolds = True
    heals_within_s = 300.0

    def __init__(self, scene: Scene, target: str) -> None:
        super().__init__(scene, target)
        self._before: dict[str, int] = {}
        self._left: list[str] = []

    @classmethod
    def targets(cls, shape: Shape) -> Sequence[str]:
        """See ``Fault``: one server alone has nobody to drain to."""
        return [ALL] if len(shape.servers) > 1 else []

    async def _roll(self, release: Path | None) -> None:
        """Drain each server that is left, and start it again as that release."""
        cluster = self.scene.cluster
        self._before |= await self._incarnations()
        while self._left:
            name = self._left[0]
            self.text = f"{len(cluster.servers) - len(self._left)} of {len(cluster.servers)} servers started again"
            async with asyncio.timeout(DRAIN_S):
                await cluster.drain(name)
            await cluster.revive(name, release=release)
            self._left.pop(0)
        self.text = f"{len(cluster.servers)} servers drained and started again, one after the other"

    async def _incarnations(self) -> dict[str, int]:
        try:
            return {name: incarnation for name, (incarnation, _) in (await self.scene.view.servers()).items()}
        except CoordinationUnavailable:
            return {}

    async def _all_anew(self) -> bool:
        now = await self._incarnations()
        return all(now.get(name, 0) not in {0, self._before.get(name)} for name in self.scene.cluster.servers)

    async def happened(self) -> bool:
        """See ``Fault``: no server is the incarnation that it was."""
        return bool(self._before) and not self._left and await comes_true(self._all_anew, _SEEN_S)

    async def heal(self) -> None:
        """See ``Fault``."""
        for name in self.scene.cluster.servers:
            await self.scene.cluster.revive(name)


class RollingRestart(_Rolling):
    """Every server in turn drains, ends and starts again, as operators do it."""

    kind = "rolling-restart"
    needs = frozenset({Ability.DRAIN})

    async def inject(self) -> None:
        """See ``Fault``."""
        self._left = list(self.scene.cluster.servers)
        await self._roll(None)


class RollingUpgrade(_Rolling):
    """Every server in turn drains, ends and starts as another release; after a while all go back in the same way."""

    kind = "rolling-upgrade"
    needs = frozenset({Ability.DRAIN, Ability.RELEASES})
    lasts = (0.5, 2.0)

    def __init__(self, scene: Scene, target: str) -> None:
        super().__init__(scene, target)
        self._forward: list[str] = []

    async def inject(self) -> None:
        """See ``Fault``."""
        release = self.scene.cluster.release
        if release is None:
            raise Invalid(f"{self.scene.cluster!r} was given no other release; make it with release=FOLDER")
        self._left = list(self.scene.cluster.servers)
        self._forward = list(self._left)
        await self._roll(release)
        self.text += f" as the release in {release.name}"

    async def happened(self) -> bool:
        """See ``Fault``: no server is the incarnation that it was, and each runs what is in the other release's folder."""
        return await super().happened() and all(map(self._runs_other, self.scene.cluster.servers))

    def _runs_other(self, name: str) -> bool:
        cluster = self.scene.cluster
        return bool(cluster.pid(name, Part.KERNEL)) and cluster.runs_release(name)

    async def heal(self) -> None:
        """See ``Fault``: roll back."""
        await super().heal()
        self._left = [name for name in self._forward if self.scene.cluster.runs_release(name)]
        told = self.text
        await self._roll(None)
        self.text = told
