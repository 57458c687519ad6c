"""Ledgers on devices that come and go, called by servers' clients and by the devices themselves.

Owns starting the devices, their own calls, and judging where replicas are at rest. Leaves what happens to devices to ``faults``,
everything else to ``ledgers``.
Invariants: as ``ledgers``; a device's calls to the replica beside it cross no network, and are judged as all others.
Failure behaviour: as ``ledgers``; a replica that is on a server at rest, while devices are free, is a finding.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from amino.contracts.documents import Phase
from amino.dm import AtLeastOnceRPC, ConsensusRSMP2P
from amino.testing.simulation.workloads.base import Kind, Setting
from amino.testing.simulation.workloads.ledgers import FEW, Ledgers, Life

if TYPE_CHECKING:
    from amino.testing.simulation.client import SimulatedClient

DEVICES = ("d1", "d2", "d3")
SETTLED_S = 60.0
FAULTS = {"kill_device": 5, "freeze_device": 4, "partition_device": 4, "leave_device": 6}


class DeviceLedgers(Ledgers):
    """Ledgers on devices."""

    def start(self) -> None:
        """See ``Load.start``."""
        for name in DEVICES:
            device = self.setting.cluster.device(name)
            device.on_started.append(self._joined)
            device.start()
        super().start()

    def _joined(self, client: SimulatedClient) -> None:
        """A device's program has started: it calls, too, for as long as it lives."""
        self.setting.spawn(client, self._call_on(client, 0), f"caller of {client.name}")

    async def audit(self) -> None:
        """See ``Load.audit``; also: replicas are on devices."""
        for life in self.alive():
            waited_s = 0.0
            while (problem := self._misplaced(life)) and waited_s < SETTLED_S:
                await asyncio.sleep(1.0)
                waited_s += 1.0
            if problem:
                self.setting.find(6, f"{life.name}, {waited_s:.0f} s at rest: {problem}")
        await super().audit()

    def _misplaced(self, life: Life) -> str:
        document = self.setting.document(life.stub)
        if document is None or document.phase != Phase.ACTIVE:
            return ""
        where = sorted(each.server for each in document.replicas)
        return f"its replicas are on {where}" if where != sorted(DEVICES) else ""


def _on_devices(setting: Setting, staleness_s: float = 0.0) -> DeviceLedgers:
    chain = (AtLeastOnceRPC(), ConsensusRSMP2P(replicas=len(DEVICES), read_staleness_s=staleness_s))
    return DeviceLedgers(setting, chain, staleness_s=staleness_s, **FEW)


LOADS = (
    Kind(
        "p2p",
        "ledgers under ConsensusRSMP2P on three devices that come and go: as replicated; at rest all replicas on devices",
        _on_devices,
        FAULTS,
    ),
    Kind(
        "p2p-nearby",
        "ledgers under ConsensusRSMP2P(read_staleness_s=1): no read older than that, wherever it is served",
        lambda setting: _on_devices(setting, 1.0),
        FAULTS,
    ),
)
