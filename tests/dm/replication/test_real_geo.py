"""ConsensusRSMGeo on real servers in three regions."""

from __future__ import annotations

import time
from typing import Any

import pytest

import amino
from amino.dm import AtLeastOnceRPC, ConsensusRSMGeo
from tests.dm.replication.real_world import PATIENCE_S, World
from tests.dm.replication.services import Counters, Whereabouts
from tests.dm.replication.storm import Storm
from tests.waiting import until

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(300)]
LABELS = {"s1": {"region": "us"}, "s2": {"region": "eu"}, "s3": {"region": "ap"}, "s4": {"region": "ap"}}
GEO = {"servers": 4, "server_labels": LABELS}


def geo(**options: Any) -> tuple[Any, ...]:
    return (
        AtLeastOnceRPC(timeout_s=30),
        ConsensusRSMGeo(regions=("eu", "us", "ap"), preferred_region="eu", **options),
    )


@pytest.mark.parametrize("world", [GEO], indirect=True)
def test_the_primary_is_in_its_region_while_that_is_up(world: World) -> None:
    """One replica per region; the primary leaves with its region and is handed back when that returns, under load."""
    counters = world.client.new(amino.spec(Counters, name="counters", dms=geo()))
    with Storm(counters, writers=3) as storm:
        storm.write_after(0.0, PATIENCE_S)
        document = world.wait_whole(counters)
        assert {LABELS[one.server]["region"] for one in document.replicas} == {"eu", "us", "ap"}
        assert world.primary(counters).server == "s2"
        world.local.server("s2").kill()
        lost = time.perf_counter()
        storm.write_after(lost, PATIENCE_S)
        until(lambda: world.primary(counters).server != "s2", PATIENCE_S, lambda: "nobody took over")
        world.local.server("s2").wait_ended()
        world.local.server("s2").start()
        until(lambda: world.primary(counters).server == "s2", PATIENCE_S, lambda: "it is not handed back")
        world.wait_whole(counters)
    storm.judge(counters.all_changes())
    assert not storm.failed()


@pytest.mark.parametrize("world", [GEO], indirect=True)
def test_reads_nearby(world: World) -> None:
    """With ``read_staleness_s`` reads go to the replica that answers fastest, and are at most that old."""
    where = world.client.new(amino.spec(Whereabouts, name="where", dms=geo(read_staleness_s=1.0)))
    document = world.wait_whole(where)
    far = [one.server for one in document.replicas if one.server != "s1"]
    for server in far:
        world.network.delay("clients", server, 0.05)
    answers = [where.host() for _ in range(300)]
    assert answers.count("s1") > 200, {server: answers.count(server) for server in set(answers)}
    world.network.heal()
