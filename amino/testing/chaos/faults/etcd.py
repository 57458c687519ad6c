"""Faults of etcd: members, leader, majority or all killed or frozen; compaction, defragmentation, quota.

Owns which members are hit. Leaves starting them again to the cluster.
Invariants: what was killed is started with its data; what etcd was filled with is removed.
Failure behaviour: as ``Fault``; without a leader, roles cannot be resolved and the fault is not caused.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Sequence

from amino.errors import AminoError, CoordinationUnavailable, Invalid
from amino.testing.chaos.clusters.port import Ability, is_gone
from amino.testing.chaos.faults.fault import LEADER, Fault, Scene, Shape, comes_true
from amino.testing.chaos.faults.processes import stands_still

ALL = "all"
_AROUND_S = 15.0


class _OfMembers(Fault):
    """A fault of some members' processes."""

    needs = frozenset({Ability.MEMBERS})
    lasts = (0.5, 3.0)

    def __init__(self, scene: Scene, target: str) -> None:
        super().__init__(scene, target)
        self._pids: dict[int, int] = {}

    @classmethod
    def targets(cls, shape: Shape) -> Sequence[str]:
        """See ``Fault``."""
        return [LEADER, *(f"m{index}" for index in range(shape.members))]

    async def _members(self) -> list[int]:
        return [await self.scene.member(self.target)]

    async def _send(self, number: signal.Signals) -> None:
        indexes = await self._members()
        self.hit = "+".join(f"m{index}" for index in indexes)
        self.text = f"{number.name} to {self.hit} of etcd{', its leader' if self.target == LEADER else ''}"
        for index in indexes:
            pid = self.scene.cluster.member_pid(index)
            if not pid:
                raise Invalid(f"member m{index} of etcd does not run")
            self._pids[index] = pid
        if number is signal.SIGKILL:
            for index in indexes:
                await self.scene.cluster.kill_member(index)
            return
        for pid in self._pids.values():
            os.kill(pid, number)

    async def heal(self) -> None:
        """See ``Fault``."""
        for pid in self._pids.values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        await asyncio.gather(*(self.scene.cluster.revive_member(index) for index in self._pids))
        for index in self._pids:
            await comes_true(lambda index=index: self._answers(index), _AROUND_S)  # type: ignore[misc]

    async def _answers(self, index: int) -> bool:
        return await self.scene.view.member(index) is not None


class _KillMembers(_OfMembers):
    async def inject(self) -> None:
        """See ``Fault``."""
        await self._send(signal.SIGKILL)

    async def happened(self) -> bool:
        """See ``Fault``."""
        return bool(self._pids) and await comes_true(lambda: all(is_gone(pid) for pid in self._pids.values()))


class _FreezeMembers(_OfMembers):
    async def inject(self) -> None:
        """See ``Fault``."""
        await self._send(signal.SIGSTOP)

    async def happened(self) -> bool:
        """See ``Fault``."""
        return bool(self._pids) and await comes_true(lambda: all(stands_still(pid) for pid in self._pids.values()))


class KillMember(_KillMembers):
    """SIGKILL of a member of etcd, perhaps its leader."""

    kind = "kill-member"


class FreezeMember(_FreezeMembers):
    """SIGSTOP of a member of etcd, perhaps its leader."""

    kind = "freeze-member"


class _Majority(_OfMembers):
    @classmethod
    def targets(cls, shape: Shape) -> Sequence[str]:
        """See ``Fault``: the one member that is left."""
        return [f"but-m{index}" for index in range(shape.members)]

    async def _members(self) -> list[int]:
        left = int(self.target.removeprefix("but-m"))
        return [index for index in range(self.scene.cluster.members) if index != left]


class KillMajority(_Majority, _KillMembers):
    """SIGKILL of two of three members of etcd."""

    kind = "kill-majority"


class FreezeMajority(_Majority, _FreezeMembers):
    """SIGSTOP of two of three members of etcd."""

    kind = "freeze-majority"


class RestartEtcd(_KillMembers):
    """SIGKILL of all members of etcd, which are then started again."""

    kind = "restart-etcd"
    lasts = (0.0, 1.5)

    @classmethod
    def targets(cls, shape: Shape) -> Sequence[str]:  # noqa: ARG003 - always all
        """See ``Fault``."""
        return [ALL]

    async def _members(self) -> list[int]:
        return list(range(self.scene.cluster.members))


class _Maintenance(Fault):
    needs = frozenset({Ability.MEMBERS})

    @classmethod
    def targets(cls, shape: Shape) -> Sequence[str]:  # noqa: ARG003 - always all
        """See ``Fault``."""
        return [ALL]

    async def heal(self) -> None:
        """See ``Fault``: nothing is left to undo."""


class Compact(_Maintenance):
    """etcd's history is compacted up to this moment, under all watches."""

    kind = "compact"

    def __init__(self, scene: Scene, target: str) -> None:
        super().__init__(scene, target)
        self._revision = 0

    async def inject(self) -> None:
        """See ``Fault``."""
        self._revision = await self.scene.view.compact()
        self.text = f"etcd compacted to revision {self._revision}"

    async def happened(self) -> bool:
        """See ``Fault``: what lies before can be read no more."""
        return bool(self._revision) and await self.scene.view.is_compacted(self._revision - 1)


class Defragment(_Maintenance):
    """All members of etcd are defragmented, one after the other; each answers nobody meanwhile."""

    kind = "defragment"

    def __init__(self, scene: Scene, target: str) -> None:
        super().__init__(scene, target)
        self._done: list[int] = []

    async def inject(self) -> None:
        """See ``Fault``."""
        for index in range(self.scene.cluster.members):
            await self.scene.view.defragment(index)
            self._done.append(index)
        self.text = f"{len(self._done)} members of etcd defragmented"

    async def happened(self) -> bool:
        """See ``Fault``: every member has said that it is done."""
        return len(self._done) == self.scene.cluster.members


class Quota(Fault):
    """etcd is filled until it raises its alarm for space and refuses writes; then emptied."""

    kind = "etcd-full"
    needs = frozenset({Ability.QUOTA})
    lasts = (0.5, 3.0)

    @classmethod
    def targets(cls, shape: Shape) -> Sequence[str]:  # noqa: ARG003 - always all
        """See ``Fault``."""
        return [ALL]

    async def inject(self) -> None:
        """See ``Fault``."""
        written = await self.scene.view.fill()
        self.text = f"etcd's quota reached with {written >> 20} MiB"

    async def happened(self) -> bool:
        """See ``Fault``."""
        return "NOSPACE" in await self.scene.view.alarms()

    async def heal(self) -> None:
        """See ``Fault``."""
        with contextlib.suppress(AminoError, OSError):
            await self.scene.view.empty()
        if await self.scene.view.alarms():
            raise CoordinationUnavailable("etcd's alarm for space could not be taken back")
