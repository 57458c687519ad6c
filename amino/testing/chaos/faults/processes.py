"""Faults of processes: kernel process, supervisor or both are killed or stand still.

Owns the signals. Leaves which process is meant to the cluster.
Invariants: a signal goes to a process of the cluster, by id, and is proved by what the system says of that process.
Failure behaviour: as ``Fault``.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Sequence

import psutil

from amino.errors import CoordinationUnavailable, NotFound
from amino.testing.chaos.clusters.port import Ability, Part, is_gone
from amino.testing.chaos.faults.fault import COORDINATOR, PRIMARY, Fault, Scene, Shape, comes_true

_AGAIN_S = 30.0
PARTS = {
    Part.KERNEL: (Part.KERNEL,),
    Part.SUPERVISOR: (Part.SUPERVISOR,),
    Part.BOTH: (Part.SUPERVISOR, Part.KERNEL),  # killed the other way round, it would start another child
}


def stands_still(pid: int) -> bool:
    """Whether a process is stopped."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_STOPPED
    except psutil.NoSuchProcess:
        return False


class _OfServer(Fault):
    """A fault of a server's processes."""

    needs = frozenset({Ability.SIGNALS})
    part = Part.BOTH

    def __init__(self, scene: Scene, target: str) -> None:
        super().__init__(scene, target)
        self._pids: tuple[int, ...] = ()
        self._before = 0

    @classmethod
    def targets(cls, shape: Shape) -> Sequence[str]:
        """See ``Fault``."""
        return (*shape.servers, PRIMARY, COORDINATOR)

    async def whom(self) -> str:
        """Return who is hit."""
        return await self.scene.server(self.target)

    async def _send(self, number: signal.Signals) -> None:
        self.hit = await self.whom()
        self._before = await self._incarnation()
        pids = [self.scene.cluster.pid(self.hit, part) for part in PARTS[self.part]]
        if not all(pids):
            raise NotFound(f"{self.hit} has no {self.part} process now")
        self._pids = tuple(pids)
        self.text = f"{number.name} to {' and '.join(PARTS[self.part])} of {self.hit}"
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):  # who is killed second may have ended with the first
                os.kill(pid, number)

    async def _incarnation(self) -> int:
        """Return the incarnation that etcd has of the server, 0 if it has none or does not answer."""
        try:
            return (await self.scene.view.servers())[self.hit][0]
        except (KeyError, CoordinationUnavailable):
            return 0


class _Kill(_OfServer):
    async def inject(self) -> None:
        """See ``Fault``."""
        await self._send(signal.SIGKILL)

    async def happened(self) -> bool:
        """See ``Fault``."""
        return bool(self._pids) and await comes_true(lambda: all(is_gone(pid) for pid in self._pids))

    async def heal(self) -> None:
        """See ``Fault``."""
        if self._pids:
            await self.scene.cluster.revive(self.hit)
            await comes_true(self._another_serves, _AGAIN_S)

    async def _another_serves(self) -> bool:
        return await self._incarnation() not in {0, self._before}


class KillKernel(_Kill):
    """SIGKILL of a server's kernel process."""

    kind = "kill-kernel"
    part = Part.KERNEL


class KillSupervisor(_Kill):
    """SIGKILL of a server's supervisor alone; back after a while, as whoever starts services again lets pass."""

    kind = "kill-supervisor"
    lasts = (0.25, 1.25)
    part = Part.SUPERVISOR


class KillServer(_Kill):
    """SIGKILL of a server's supervisor and kernel process at once, as the loss of a machine; back after a while."""

    kind = "kill-server"
    lasts = (0.2, 2.5)


class _Freeze(_OfServer):
    lasts = (0.1, 0.6)

    async def inject(self) -> None:
        """See ``Fault``."""
        await self._send(signal.SIGSTOP)

    async def happened(self) -> bool:
        """See ``Fault``."""
        return bool(self._pids) and await comes_true(lambda: all(stands_still(pid) for pid in self._pids))

    async def heal(self) -> None:
        """See ``Fault``."""
        for pid in reversed(self._pids):  # the kernel process first: the order in which a late reply is most likely
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        if self._pids:
            await self.scene.cluster.revive(self.hit)


class FreezeKernel(_Freeze):
    """SIGSTOP of a server's kernel process, shorter than a session's TTL."""

    kind = "freeze-kernel"
    part = Part.KERNEL


class FreezeKernelLong(FreezeKernel):
    """SIGSTOP of a server's kernel process, longer than a session's TTL: its supervisor kills it."""

    kind = "freeze-kernel-long"
    lasts = (1.3, 2.5)

    async def happened(self) -> bool:
        """See ``Fault``: it may have been killed already."""
        return bool(self._pids) and await comes_true(
            lambda: all(stands_still(pid) or is_gone(pid) for pid in self._pids)
        )


class FreezeSupervisor(_Freeze):
    """SIGSTOP of a server's supervisor alone, shorter than a session's TTL."""

    kind = "freeze-supervisor"
    part = Part.SUPERVISOR


class FreezeSupervisorLong(FreezeSupervisor):
    """SIGSTOP of a server's supervisor alone, longer than a session's TTL: nobody renews the session."""

    kind = "freeze-supervisor-long"
    lasts = (1.3, 2.5)


class FreezeServer(_Freeze):
    """SIGSTOP of both processes of a server, shorter than a session's TTL."""

    kind = "freeze-server"


class FreezeServerLong(FreezeServer):
    """SIGSTOP of both processes of a server, longer than a session's TTL, as a machine that stands still."""

    kind = "freeze-server-long"
    lasts = (1.3, 2.5)
