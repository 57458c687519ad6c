"""The primary is killed, frozen and cut off under five writers, again and again (20 times in a full run)."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import pytest

import amino
from amino.dm import AtLeastOnceRPC, ConsensusRSM
from amino.testing import LocalServer
from tests.acceptance.figures import Figures, rounds
from tests.dm.replication.conftest import TTL_S
from tests.dm.replication.real_world import PATIENCE_S, World
from tests.dm.replication.services import Counters
from tests.dm.replication.storm import Storm

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(900)]
DMS = (AtLeastOnceRPC(timeout_s=30), ConsensusRSM())
FIGURES = Figures("ConsensusRSM: primary lost")


def break_primary(
    world: World, fault: Callable[[LocalServer], object], mend: Callable[[LocalServer, int], object]
) -> list[float]:
    """Break whichever server has the primary, wait for writes to resume, mend; returns the seconds it took."""
    counters = world.client.new(amino.spec(Counters, name="counters", dms=DMS))
    took = []
    with Storm(counters) as storm:
        storm.write_after(0.0, PATIENCE_S)
        for _ in range(rounds()):
            world.wait_whole(counters)
            server = world.primary_server(counters)
            before = server.incarnation
            broken = time.perf_counter()
            fault(server)
            took.append(storm.write_after(broken, PATIENCE_S).ended_s - broken)
            mend(server, before)
            server.wait_serving(after=before)
        world.wait_whole(counters)
    storm.judge(counters.all_changes())
    assert not storm.failed(), storm.failed()[:3]
    return took


def note(what: str, took: list[float], p50: float) -> None:
    FIGURES.note(f"{what}: p50", statistics.median(took), "s", at_most=p50, note=f"{len(took)} times, TTL {TTL_S} s")
    FIGURES.note(f"{what}: worst", max(took), "s")


def test_its_process_is_killed(world: World) -> None:
    """A SIGKILL of the primary's process costs a fraction of a second and nothing else."""
    took = break_primary(world, lambda server: server.kill_kernel(), lambda server, before: None)
    note("process killed, next write", took, 0.5)


def test_its_machine_freezes(world: World) -> None:
    """A frozen machine with the primary is replaced within TTL + 1 s, and thawed again answers nothing."""
    took = break_primary(world, lambda server: server.stop(), lambda server, before: server.resume())
    note("machine frozen, next write", took, TTL_S + 1)


def test_it_is_cut_off_from_all(world: World) -> None:
    """A primary that reaches nobody, etcd neither, is replaced within TTL + 1 s."""
    took = break_primary(
        world,
        lambda server: world.network.isolate(server.name),
        lambda server, before: world.network.heal(),
    )
    note("cut off, next write", took, TTL_S + 1)
