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
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

import amino
from amino.errors import AlreadyExists, AminoError, NotFound
from amino.oms.housekeeping import SWEEP_EVERY_S
from amino.testing.simulation.checks import Watchtower
from amino.testing.simulation.cluster import SimulatedCluster, simulate
from amino.testing.simulation.faults import ADMINISTRATOR, Nemesis
from amino.testing.simulation.loop import STARTS_AT_S
from amino.testing.simulation.workloads import LOADS, Load, Setting

SECONDS = 172.8
SERVERS = {"s1": {"region": "north"}, "s2": {"region": "east"}, "s3": {"region": "south"}}
SHORT_S = 60.0
SHORT_PAUSE_S = (0.3, 2.5)
"""Between faults, in lives that are short."""
REST_S = 5.0
REST_S_MAX = 180.0
DELETIONS_MAX = 10


class RunReport(msgspec.Struct):
    """What one seed showed.

    Args:
        loads: that ran.
        findings: broken invariants as text, empty when all held.
        simulated_s: how long the cluster lived. real_s: how long that took here.
        trace: digest of the history.
    """

    seed: int
    loads: list[str]
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
    seed: int,
    seconds: float = SECONDS,
    *,
    loads: Sequence[str] = ("checkpointed",),
    prepare: Callable[[SimulatedCluster, Nemesis], None] | None = None,
) -> RunReport:
    """Simulate a cluster under load and faults, and return what was found.

    Args:
        seed: decides everything.
        seconds: of load under faults, rest included.
        loads: names of ``workloads.LOADS``, all at once on the same cluster.
        prepare: changes cluster and faults before they begin.
    """
    began = time.perf_counter()
    parts: dict[str, Any] = {}
    outcomes: Counter[str] = Counter()

    async def main(cluster: SimulatedCluster) -> None:
        tower = parts["tower"] = Watchtower(cluster)
        nemesis = parts["nemesis"] = Nemesis(cluster)
        if seconds < SHORT_S:
            nemesis.pause_s = SHORT_PAUSE_S
        settings = parts["settings"] = [Setting(cluster, tower, name, outcomes) for name in loads]
        running = [LOADS[setting.name].make(setting) for setting in settings]
        for name in loads:
            nemesis.allow(LOADS[name].faults)
        parts["cluster"] = cluster
        cluster.client(ADMINISTRATOR)
        if prepare is not None:
            prepare(cluster, nemesis)
        await _phases(cluster, tower, nemesis, settings, running, max(seconds - REST_S, 10.0))

    try:
        simulate(main, seed, servers=SERVERS)
    except Exception as error:
        if "tower" not in parts:
            raise
        where = "".join(traceback.format_exception(error)[-4:])
        parts["tower"].find(6, f"the simulation ended by {type(error).__name__}: {error}: {where}")
    tower: Watchtower = parts["tower"]
    cluster: SimulatedCluster = parts["cluster"]
    return RunReport(
        seed=seed,
        loads=list(loads),
        findings=[str(finding) for finding in tower.findings],
        simulated_s=cluster.loop.now - STARTS_AT_S,
        real_s=time.perf_counter() - began,
        steps=cluster.loop.steps,
        replies=tower.replies,
        outcomes=dict(outcomes),
        faults=dict(parts["nemesis"].caused),
        longest_s=max((setting.longest_s for setting in parts["settings"]), default=0.0),
        trace=tower.trace,
    )


async def _phases(
    cluster: SimulatedCluster,
    tower: Watchtower,
    nemesis: Nemesis,
    settings: Sequence[Setting],
    loads: Sequence[Load],
    seconds: float,
) -> None:
    trouble = asyncio.get_running_loop().create_task(nemesis.run(seconds))
    for load in loads:
        load.start()
    await asyncio.sleep(seconds)
    for setting in settings:
        setting.stopping = True
    for setting in settings:
        await setting.end()
    await trouble
    await _end_of_slow_writes(cluster)
    await _rest(tower, nemesis, "after the faults")
    await asyncio.gather(*(load.audit() for load in loads))
    await _delete_all(cluster, tower)
    await _rest(tower, nemesis, "after deleting everything")
    await _swept(cluster)
    left = [record.key for record in cluster.etcd.list(cluster.keys.root)[0]]
    kept = (
        cluster.keys.servers_prefix,
        cluster.keys.beats_prefix,
        cluster.keys.slots_prefix,
        cluster.keys.events_prefix,
    )
    for key in left:
        if not key.startswith(kept) and key != cluster.keys.cluster:
            tower.find(6, f"{key} is left after deleting everything")
    for file in tower.orphan_files(set()):
        tower.find(6, f"file {file} is left after deleting everything")


async def _end_of_slow_writes(cluster: SimulatedCluster) -> None:
    """Wait for what a slow store still holds: until then a checkpoint, and the read that waits for it, may fail."""
    kernels = [server.kernel for server in cluster.servers.values() if server.kernel is not None]
    until_s = max((kernel.access.slow_until_s for kernel in kernels), default=0.0)
    if until_s > cluster.loop.now:
        await asyncio.sleep(until_s - cluster.loop.now)


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


async def _swept(cluster: SimulatedCluster) -> None:
    """Wait until housekeeping has removed the decisions on what had lost its state, for two of its rounds at most."""
    waited_s = 0.0
    while cluster.etcd.list(cluster.keys.decisions_prefix)[0] and waited_s < 2 * SWEEP_EVERY_S:
        await asyncio.sleep(1.0)
        waited_s += 1.0


async def _delete_all(cluster: SimulatedCluster, tower: Watchtower) -> None:
    """Delete every microservice there is."""
    administrator = cluster.client(ADMINISTRATOR).cluster
    problem: AminoError | None = None
    try:
        for _ in range(DELETIONS_MAX):
            rows = await amino.aio(administrator.find)()
            if not rows:
                return
            for row in rows:
                try:
                    await amino.aio(administrator.delete)(row.name)
                except (NotFound, AlreadyExists):
                    continue
                except AminoError as error:
                    problem = error
    except AminoError as error:
        problem = error
    tower.find(6, f"microservices cannot be deleted at rest: {problem!r}")
