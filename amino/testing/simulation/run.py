"""One simulation from seed to verdict.

Owns its phases: start, load under faults, rest, audit, deletion of everything. Leaves load, faults and checks to their
modules.
Invariants: a run is a function of its seed and options; it ends in bounded simulated time.
Failure behaviour: whatever goes wrong is in the report, exceptions of the simulation itself included.
"""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import Callable
from typing import Any

import msgspec

from amino.errors import AminoError
from amino.testing.simulation.checks import Watchtower
from amino.testing.simulation.cluster import SimulatedCluster, simulate
from amino.testing.simulation.faults import ADMINISTRATOR, Nemesis
from amino.testing.simulation.loop import STARTS_AT_S
from amino.testing.simulation.workload import Workload

SECONDS = 172.8
REST_S = 5.0
REST_S_MAX = 180.0


class RunReport(msgspec.Struct):
    """What one seed showed.

    Args:
        findings: broken invariants as text, empty when all held.
        simulated_s: how long the cluster lived. real_s: how long that took here.
        trace: digest of the history.
    """

    seed: int
    findings: list[str]
    simulated_s: float
    real_s: float
    steps: int
    replies: int
    outcomes: dict[str, int]
    faults: dict[str, int]
    longest_s: float
    trace: str


def run_seed(
    seed: int, seconds: float = SECONDS, *, prepare: Callable[[SimulatedCluster, Nemesis], None] | None = None
) -> RunReport:
    """Simulate a cluster under load and faults, and return what was found.

    Args:
        seed: decides everything.
        seconds: of load under faults, rest included.
        prepare: changes cluster and faults before they begin.
    """
    began = time.perf_counter()
    parts: dict[str, Any] = {}

    async def main(cluster: SimulatedCluster) -> None:
        tower = parts["tower"] = Watchtower(cluster)
        nemesis = parts["nemesis"] = Nemesis(cluster)
        load = parts["load"] = Workload(cluster, tower)
        parts["cluster"] = cluster
        cluster.client(ADMINISTRATOR)
        if prepare is not None:
            prepare(cluster, nemesis)
        await _phases(cluster, tower, nemesis, load, max(seconds - REST_S, 10.0))

    try:
        simulate(main, seed)
    except Exception as error:
        if "tower" not in parts:
            raise
        where = "".join(traceback.format_exception(error)[-4:])
        parts["tower"].find(6, f"the simulation ended by {type(error).__name__}: {error}: {where}")
    tower: Watchtower = parts["tower"]
    cluster: SimulatedCluster = parts["cluster"]
    return RunReport(
        seed=seed,
        findings=[str(finding) for finding in tower.findings],
        simulated_s=cluster.loop.now - STARTS_AT_S,
        real_s=time.perf_counter() - began,
        steps=cluster.loop.steps,
        replies=tower.replies,
        outcomes=dict(parts["load"].outcomes),
        faults=dict(parts["nemesis"].caused),
        longest_s=parts["load"].longest_s,
        trace=tower.trace,
    )


async def _phases(
    cluster: SimulatedCluster, tower: Watchtower, nemesis: Nemesis, load: Workload, seconds: float
) -> None:
    trouble = asyncio.get_running_loop().create_task(nemesis.run(seconds))
    await load.run(seconds)
    await trouble
    await _rest(tower, nemesis, "after the faults")
    await load.audit()
    try:
        await load.delete_all()
    except AminoError as error:
        tower.find(6, f"microservices cannot be deleted at rest: {error!r}")
    await _rest(tower, nemesis, "after deleting everything")
    left = [record.key for record in cluster.etcd.list(cluster.keys.root)[0]]
    kept = (cluster.keys.servers_prefix, cluster.keys.slots_prefix, cluster.keys.events_prefix)
    for key in left:
        if not key.startswith(kept) and key != cluster.keys.cluster:
            tower.find(6, f"{key} is left after deleting everything")
    for file in tower.orphan_files(set()):
        tower.find(6, f"file {file} is left after deleting everything")


async def _rest(tower: Watchtower, nemesis: Nemesis, when: str) -> None:
    """Wait until records and reality agree, for so long as the slowest round of repair may take."""
    waited_s = 0.0
    while tower.differences():
        if waited_s >= REST_S_MAX:
            for difference in tower.differences():
                tower.find(6, f"{when}, at rest for {waited_s:.0f} s: {difference}")
            return
        await nemesis.reopen()
        await asyncio.sleep(1.0)
        waited_s += 1.0
