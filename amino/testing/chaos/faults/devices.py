"""Faults of client devices: their processes die, stand still or leave, and they are cut off from everybody.

Owns whom they hit. Leaves what happens to ``processes`` and ``network``.
Invariants: as theirs; ``primary`` is the device with most primaries.
Failure behaviour: as ``Fault``.
"""

from __future__ import annotations

from collections.abc import Sequence

from amino.testing.chaos.clusters.port import Ability, Part
from amino.testing.chaos.faults import network, processes
from amino.testing.chaos.faults.fault import PRIMARY, Fault, Scene, Shape, comes_true


class _OfDevice(Fault):
    @classmethod
    def targets(cls, shape: Shape) -> Sequence[str]:
        """See ``Fault``."""
        return (*shape.devices, PRIMARY) if shape.devices else ()

    async def whom(self) -> str:
        """Return who is hit."""
        return await self.scene.device(self.target)


class KillDevice(_OfDevice, processes.KillServer):
    """SIGKILL of a client process that is a device, which nobody but its session tells; back after a while."""

    kind = "kill-device"
    needs = frozenset({Ability.SIGNALS, Ability.DEVICES})
    part = Part.KERNEL


class FreezeDevice(_OfDevice, processes.FreezeServer):
    """SIGSTOP of a client process that is a device, shorter than a session's TTL."""

    kind = "freeze-device"
    needs = frozenset({Ability.SIGNALS, Ability.DEVICES})
    part = Part.KERNEL


class FreezeDeviceLong(_OfDevice, processes.FreezeServerLong):
    """SIGSTOP of a client process that is a device, longer than a session's TTL: it comes back as another incarnation."""

    kind = "freeze-device-long"
    needs = frozenset({Ability.SIGNALS, Ability.DEVICES})
    part = Part.KERNEL


class LeaveDevice(_OfDevice):
    """A client process that is a device ends in order: it hands over what it has; back after a while."""

    kind = "leave-device"
    needs = frozenset({Ability.DRAIN, Ability.DEVICES})
    lasts = (0.2, 2.5)

    def __init__(self, scene: Scene, target: str) -> None:
        super().__init__(scene, target)
        self._told = False

    async def inject(self) -> None:
        """See ``Fault``."""
        self.hit = await self.whom()
        self._told = True
        await self.scene.cluster.drain(self.hit)
        self.text = f"{self.hit} left in order"

    async def happened(self) -> bool:
        """See ``Fault``: its process has ended, and it is on record no more."""

        async def gone() -> bool:
            return self.hit not in await self.scene.view.servers()

        return not self.scene.cluster.pid(self.hit, Part.KERNEL) and await comes_true(gone)

    async def heal(self) -> None:
        """See ``Fault``."""
        if self._told:
            await self.scene.cluster.revive(self.hit)


class IsolateDevice(_OfDevice, network.Isolate):
    """A device is cut off from everybody, both ways."""

    kind = "isolate-device"
    needs = frozenset({Ability.CUTS, Ability.DEVICES})
