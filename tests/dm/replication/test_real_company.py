"""Followers, slot leaders and members of etcd that fail; replicas that move, join and catch up; what a call costs etcd."""

from __future__ import annotations

import statistics
import threading
import time
import urllib.request

import pytest

import amino
from amino.dm import AtLeastOnceRPC, ConsensusRSM
from tests.acceptance.figures import Figures, rounds, slack
from tests.dm.replication.real_world import PATIENCE_S, World
from tests.dm.replication.services import Blob, Counters
from tests.dm.replication.storm import Storm
from tests.waiting import until

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(600)]
DMS = (AtLeastOnceRPC(timeout_s=30), ConsensusRSM())
FIGURES = Figures("ConsensusRSM: company lost")


@pytest.mark.parametrize("fault", ["kill_kernel", "stop", "isolate"])
def test_a_follower_fails(world: World, fault: str) -> None:
    """Writes go on after a fraction of a second without it, and it is replaced or returns."""
    counters = world.client.new(amino.spec(Counters, name="counters", dms=DMS))
    gaps = []
    with Storm(counters, writers=3) as storm:
        storm.write_after(0.0, PATIENCE_S)
        for _ in range(max(1, rounds() // 3)):
            world.wait_whole(counters)
            server = world.followers(counters)[0]
            before, broken = server.incarnation, time.perf_counter()
            if fault == "isolate":
                world.network.isolate(server.name)
            else:
                getattr(server, fault)()
            gaps.append(storm.write_after(broken, PATIENCE_S).ended_s - broken)
            if fault != "kill_kernel":
                until(lambda: len(world.group(counters).in_sync) == 2, PATIENCE_S, lambda: "it stays in sync")
            if fault == "stop":
                server.resume()
            world.network.heal()
            if fault == "kill_kernel":
                server.wait_serving(after=before)
            world.wait_whole(counters)
    storm.judge(counters.all_changes())
    assert not storm.failed()
    FIGURES.note(f"follower, {fault}: next write", statistics.median(gaps), "s", at_most=1.0)


def test_the_slot_leader_dies_in_the_middle(world: World) -> None:
    """A leader killed together with a primary, or while a replica joins, is continued by its successor."""
    counters = world.client.new(amino.spec(Counters, name="counters", dms=DMS))
    with Storm(counters, writers=3) as storm:
        storm.write_after(0.0, PATIENCE_S)
        for moment_s in (0.0, 0.03, 0.1)[: max(2, rounds())]:
            world.wait_whole(counters)
            victim = world.primary_server(counters)
            broken = time.perf_counter()
            before = victim.incarnation
            victim.kill_kernel()
            leader = world.local.server(world.client.describe(counters).slot_leader or victim.name)
            threading.Event().wait(moment_s)  # how far the leader gets before it dies is what is tested
            others = leader.incarnation
            if leader.name != victim.name:
                leader.kill_kernel()
            storm.write_after(broken, PATIENCE_S)
            victim.wait_serving(after=before)
            if leader.name != victim.name:
                leader.wait_serving(after=others)
        world.wait_whole(counters)
    storm.judge(counters.all_changes())
    assert not storm.failed()


@pytest.mark.parametrize("world", [{"etcd_members": 3}], indirect=True)
def test_a_member_of_etcd_dies(world: World) -> None:
    """Calls do not notice."""
    counters = world.client.new(amino.spec(Counters, name="counters", dms=DMS))
    world.wait_whole(counters)
    with Storm(counters, writers=3) as storm:
        storm.write_after(0.0, PATIENCE_S)
        for member in range(3):
            world.local.etcd.kill(member)
            broken = time.perf_counter()
            took = storm.write_after(broken, PATIENCE_S).ended_s - broken
            assert took < 4.0 * slack()
            world.local.etcd.start(member)
    storm.judge(counters.all_changes())
    assert not storm.failed()


@pytest.mark.parametrize("world", [{"servers": 4}], indirect=True)
def test_replicas_move_under_load(world: World) -> None:
    """The primary, and a server with replicas that is drained, move without a failed call."""
    counters = world.client.new(amino.spec(Counters, name="counters", dms=DMS))
    with Storm(counters, writers=3) as storm:
        storm.write_after(0.0, PATIENCE_S)
        for _ in range(rounds()):
            document = world.wait_whole(counters)
            free = next(iter(set(world.local.servers) - {one.server for one in document.replicas}))
            world.client.move(counters, free)
            assert world.primary(counters).server == free
        document = world.wait_whole(counters)
        drained = world.primary_server(counters)
        drained.drain()
        assert drained.name not in {one.server for one in world.wait_whole(counters).replicas}
    storm.judge(counters.all_changes())
    assert not storm.failed()


def test_a_replica_that_was_away_catches_up(world: World) -> None:
    """A frozen follower returns, or its successor joins, with thousands of entries to take, and no write waits for that."""
    entries = 5000
    counters = world.client.new(amino.spec(Blob, name="blob", dms=DMS))
    world.wait_whole(counters)
    away = world.followers(counters)[0]
    away.stop()
    until(lambda: len(world.group(counters).in_sync) == 2, PATIENCE_S, lambda: "it stays in sync")
    for _ in range(entries):
        counters.add()
    away.resume()
    began, slowest = time.perf_counter(), 0.0
    while len(world.group(counters).in_sync) < 3:
        at = time.perf_counter()
        counters.add()
        slowest = max(slowest, time.perf_counter() - at)
        assert at - began < PATIENCE_S, world.group(counters)
    FIGURES.note("back in sync after 5,000 entries", time.perf_counter() - began, "s")
    FIGURES.note("slowest write meanwhile", slowest, "s", at_most=0.3)


def test_calls_cost_etcd_nothing(world: World) -> None:
    """In steady state etcd's revision and its count of requests stay, but for sessions and elections."""
    counters = world.client.new(amino.spec(Counters, name="counters", dms=DMS))
    world.wait_whole(counters)
    idle_s = 3.0
    before = _requests(world)
    threading.Event().wait(idle_s)  # a measured while
    idle = _requests(world) - before
    before, began, calls = _requests(world), time.perf_counter(), 0
    while time.perf_counter() - began < idle_s:
        counters.add("key", "me", calls)
        counters.get("key")
        calls += 2
    busy = _requests(world) - before
    assert calls > 200
    assert busy <= idle * 1.5 + 10, f"{calls} calls cost {busy} requests to etcd, as many seconds without calls {idle}"


def _requests(world: World) -> float:
    total = 0.0
    for endpoint in world.local.etcd_endpoints:
        with urllib.request.urlopen(f"http://{endpoint}/metrics", timeout=5) as answer:
            for line in answer.read().decode().splitlines():
                if line.startswith("grpc_server_started_total") and "Lease" not in line and "Watch" not in line:
                    total += float(line.rpartition(" ")[2])
    return total
