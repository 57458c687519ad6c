"""Ledgers whose place matters: moved by the application while they are called, or spread over regions.

Owns moving them, and judging where they are at rest. Leaves everything else to ``ledgers``.
Invariants: as ``ledgers``.
Failure behaviour: as ``ledgers``; a replica in the wrong place at rest is a finding.
"""

from __future__ import annotations

import asyncio

import amino
from amino.contracts.documents import Phase
from amino.dm import AtLeastOnceRPC, ConsensusRSMGeo, ExplicitMigration, PeriodicCheckpoint
from amino.errors import AminoError, NotFound
from amino.testing.simulation.workloads.base import DEADLINE_S, Kind
from amino.testing.simulation.workloads.ledgers import FEW, REGIONS, Ledgers, Life

HANDOVER_S = 60.0
MOVE_EVERY_S = (0.5, 3.0)


class MovingLedgers(Ledgers):
    """Ledgers that one client moves from server to server."""

    def start(self) -> None:
        """See ``Load.start``."""
        super().start()
        client = self.setting.clients[0]
        self.setting.spawn(client, self._move(), "mover")

    async def _move(self) -> None:
        setting, client = self.setting, self.setting.clients[0]
        random = setting.random_for("moves")
        while not setting.stopping:
            await asyncio.sleep(random.uniform(*MOVE_EVERY_S))
            lives = self.alive()
            if not lives:
                continue
            stub = client.cluster.bind(random.choice(lives).stub)
            target = random.choice([*setting.cluster.servers, "nowhere"])
            try:
                with amino.deadline(DEADLINE_S):
                    await amino.aio(stub.count)()  # so that the client knows the chain
                    control = amino.control(stub, ExplicitMigration)
                    moved_to = await setting.timed(client, "move", amino.aio(control.migrate_to)(target))
                if moved_to != target:
                    setting.find(5, f"asked to be on {target}, it is said to be on {moved_to}")
            except NotFound as error:
                setting.note("move", error)
                if target != "nowhere" and "nowhere" in str(error):
                    setting.find(5, f"moving to {target} was answered for another call: {error}")
            except AminoError as error:
                setting.note("move", error)


class GeoLedgers(Ledgers):
    """Ledgers with a replica in each region."""

    async def audit(self) -> None:
        """See ``Load.audit``; also: replicas are in distinct regions, the primary in the preferred one."""
        for life in self.alive():
            waited_s = 0.0
            while (problem := self._misplaced(life)) and waited_s < HANDOVER_S:
                await asyncio.sleep(1.0)
                waited_s += 1.0
            if problem:
                self.setting.find(6, f"{life.name}, {waited_s:.0f} s at rest: {problem}")
        await super().audit()

    def _misplaced(self, life: Life) -> str:
        document, servers = self.setting.document(life.stub), self.setting.cluster.servers
        if document is None or document.phase != Phase.ACTIVE:
            return ""
        regions = {each.id: servers[each.server].labels["region"] for each in document.replicas}
        if sorted(regions.values()) != sorted(REGIONS):
            return f"its replicas are in {regions}"
        if regions.get(document.primary) != REGIONS[0]:
            return f"its primary is in {regions.get(document.primary)}, not in {REGIONS[0]}"
        return ""


LOADS = (
    Kind(
        "geo",
        "ledgers under ConsensusRSMGeo: as replicated; at rest a replica in each region, the primary in the preferred one",
        lambda setting: GeoLedgers(
            setting, (AtLeastOnceRPC(), ConsensusRSMGeo(regions=REGIONS, preferred_region=REGIONS[0])), **FEW
        ),
    ),
    Kind(
        "migrating",
        "ledgers moved by ExplicitMigration while they are called: nothing acknowledged lost, nothing twice",
        lambda setting: MovingLedgers(
            setting, (AtLeastOnceRPC(), ExplicitMigration(), PeriodicCheckpoint(every=1)), **FEW
        ),
    ),
)
