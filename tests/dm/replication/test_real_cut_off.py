"""Primaries that lose etcd, their replicas or all their company: bounded answers, recovery without help, no second truth."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

import amino
from amino.dm import AtLeastOnceRPC, ConsensusRSM
from amino.errors import AminoError, NotExecuted, OutcomeUnknown, StateLost
from tests.acceptance.background import let_last
from tests.acceptance.figures import Figures
from tests.dm.replication.attempts import Attempts
from tests.dm.replication.conftest import TTL_S
from tests.dm.replication.real_world import PATIENCE_S, World
from tests.dm.replication.services import Counters
from tests.dm.replication.storm import Storm
from tests.waiting import until

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(300)]
RETRIED = (AtLeastOnceRPC(timeout_s=30), ConsensusRSM())
HOLD_S = 2.0
APPEND_S = 0.5
FIGURES = Figures("ConsensusRSM")


def test_primary_cut_off_from_etcd(world: World) -> None:
    """It answers while its session lasts, then each attempt in hold_s + 1 s with a clear error; another goes on."""
    counters = world.client.new(amino.spec(Counters, name="counters", dms=RETRIED))
    world.wait_whole(counters)
    server = world.primary_server(counters)
    with Storm(counters, writers=3) as storm, Attempts(world, counters) as attempts:
        storm.write_after(0.0, PATIENCE_S)
        cut = time.perf_counter()
        world.network.separate(server.name, "etcd")
        assert storm.write_after(cut, 1.0).ended_s - cut < 1.0, "a primary with a valid session goes on"
        again = storm.write_after(cut + TTL_S + 0.5, PATIENCE_S)
        assert again.ended_s - cut < 2 * TTL_S + 3
        let_last(2.0)
        world.network.heal()
    slowest_s = max(one.took_s for one in attempts.made)
    FIGURES.note(
        "cut off from etcd: slowest attempt", slowest_s, "s", at_most=HOLD_S + 1.0, note=f"of {len(attempts.made)}"
    )
    attempts.judge(HOLD_S + 1.0)
    world.wait_whole(counters)
    storm.judge(counters.all_changes())
    assert not storm.failed()


def test_primary_cut_off_from_its_replicas(world: World) -> None:
    """Each attempt is answered in append_timeout_s + 1 s; the slot leader has another replica take over."""
    counters = world.client.new(amino.spec(Counters, name="counters", dms=RETRIED))
    world.wait_whole(counters)
    before = world.primary(counters)
    epoch = world.group(counters).epoch
    with Storm(counters, writers=3) as storm, Attempts(world, counters) as attempts:
        storm.write_after(0.0, PATIENCE_S)
        cut = time.perf_counter()
        for other in world.local.servers:
            if other != before.server:
                world.network.separate(before.server, other)
        good = storm.write_after(cut, PATIENCE_S)
        took = good.ended_s - cut
        assert world.group(counters).epoch > epoch
        assert world.primary(counters).id != before.id
        assert took < 2 * TTL_S + 3, f"writes resumed after {took:.1f} s"
        world.network.heal()
    slowest_s = max(one.took_s for one in attempts.made)
    FIGURES.note(
        "cut off from its replicas: slowest attempt",
        slowest_s,
        "s",
        at_most=APPEND_S + 1.0,
        note=f"of {len(attempts.made)}",
    )
    attempts.judge(APPEND_S + 1.0)
    world.wait_whole(counters)
    storm.judge(counters.all_changes())
    assert not storm.failed()


@pytest.mark.parametrize("how", ["kill_kernel", "kill", "stop"])
@pytest.mark.parametrize("world", [{"servers": 4}], indirect=True)
def test_all_but_the_primary_lost(world: World, how: str) -> None:
    """A primary that lost both its replicas at once keeps its state; replacements are made, and writes go on by themselves."""
    counters = world.client.new(amino.spec(Counters, name="counters", dms=RETRIED))
    world.wait_whole(counters)
    with Storm(counters, writers=3) as storm:
        storm.write_after(0.0, PATIENCE_S)
        broken = world.followers(counters)
        primary = world.primary(counters)
        at = time.perf_counter()
        for server in broken:
            getattr(server, how)()
        good = storm.write_after(at + 0.5, PATIENCE_S)
        for server in broken:
            if how == "kill":
                server.start()
            elif how == "stop":
                server.resume()
        world.wait_whole(counters)
    storm.judge(counters.all_changes())
    assert not storm.failed()
    assert good.ended_s - at < PATIENCE_S
    assert primary.server in [one.server for one in world.group(counters).replicas]


@pytest.mark.parametrize("world", [{"servers": 4}], indirect=True)
def test_all_but_a_follower_lost(world: World) -> None:
    """A follower whose primary and fellow died at once has everything, and the group grows again from it."""
    counters = world.client.new(amino.spec(Counters, name="counters", dms=RETRIED))
    world.wait_whole(counters)
    with Storm(counters, writers=3) as storm:
        storm.write_after(0.0, PATIENCE_S)
        at = time.perf_counter()
        world.primary_server(counters).kill_kernel()
        world.followers(counters)[0].kill_kernel()
        storm.write_after(at, PATIENCE_S)
        world.wait_whole(counters)
    storm.judge(counters.all_changes())
    assert not storm.failed()


def test_all_lost(world: World) -> None:
    """When every replica is lost calls raise ``StateLost``, and no fresh object ever answers."""
    counters = world.client.new(amino.spec(Counters, name="counters", dms=[ConsensusRSM()]))
    world.wait_whole(counters)
    assert counters.add("key", "me", 1) == 1
    for server in world.local.servers.values():
        server.kill()
    for server in world.local.servers.values():
        server.wait_ended()
    threads = [threading.Thread(target=server.start) for server in world.local.servers.values()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    def lost() -> Any:
        try:
            with amino.deadline(2.0):
                return f"answered {counters.get('key')}"
        except StateLost as error:
            return error
        except (NotExecuted, OutcomeUnknown, AminoError):
            return None

    outcome = until(lost, PATIENCE_S, lambda: "no StateLost")
    assert isinstance(outcome, StateLost), outcome
    FIGURES.note("all replicas lost: calls answered by a fresh object", 0, "calls", at_most=0, note="StateLost")
    with pytest.raises(StateLost):
        counters.add("key", "me", 2)
