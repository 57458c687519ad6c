"""Where replicas and the primary go by region, decision by decision."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from amino.contracts.documents import GroupDocument
from amino.oms.group_machine import Add, Done, View, Wait, Write
from amino.oms.patience import Patience
from amino.oms.placement import Candidate, Demand, choose, why_not
from amino.oms.replica_machine import next_step
from tests.oms import replicated

REGIONS = {"s1": "eu", "s2": "us", "s3": "ap", "s4": "eu", "s5": "ap"}


def group(*servers: str, **fields: object) -> GroupDocument:
    return replicated.group(*servers, **{"regions": ("eu", "us", "ap"), "preferred_region": "eu", **fields})


def view(*gone: str) -> View:
    live = {server: 7 for server in REGIONS if server not in gone}
    return View("m1", live, regions={server: REGIONS[server] for server in live})


def test_a_well_spread_group_is_left_alone() -> None:
    """One replica per region, the primary in the preferred one: nothing to do."""
    assert next_step(group("s1", "s2", "s3"), view()) == Done()


def test_the_primary_is_handed_back() -> None:
    """A primary elsewhere gives way to an in-sync replica in the preferred region, once the group is whole."""
    step = next_step(group("s2", "s1", "s3"), view())
    assert isinstance(step, Write)
    assert step.document.primary == "1-s1"
    assert [one.id for one in step.document.leftovers] == ["1-s2"]
    short = group("s2", "s1", "s3", in_sync=("1-s2", "1-s1"))
    assert next_step(short, view()) == Done()


def test_the_primary_is_not_handed_back_to_who_just_joined() -> None:
    """It would have to wait before it serves; after the loss of the primary it takes over none the less."""
    young = replace(view(), young=frozenset({"1-s1"}))
    assert next_step(group("s2", "s1", "s3"), young) == Wait("the primary is wanted in eu: s1 has just joined")
    assert isinstance(next_step(group("s2", "s1", "s3"), replace(young, young=frozenset({"1-s3"}))), Write)
    lost = next_step(group("s2", "s1", "s3"), replace(view("s2"), young=young.young))
    assert isinstance(lost, Write)
    assert lost.document.primary == "1-s1"


async def test_who_was_in_sync_for_long_enough_is_settled() -> None:
    """Only the first time counts, each replica has its own clock, and who is not known has just begun."""
    patience = Patience(0.2)
    patience.begin("1-s1")
    assert not patience.is_over("1-s1")
    deadline = asyncio.get_running_loop().time() + 0.2
    while asyncio.get_running_loop().time() < deadline:
        patience.begin("1-s1")
        await asyncio.sleep(0)
    assert patience.is_over("1-s1")
    assert not patience.is_over("1-s2")
    patience.end("1-s1")
    assert not patience.is_over("1-s1")


def test_a_lost_primary_is_followed_in_the_preferred_region() -> None:
    """Of two that could take over, the one in the preferred region does."""
    step = next_step(group("s1", "s2", "s4", regions=()), view("s1"))
    assert isinstance(step, Write)
    assert step.document.primary == "1-s4"


def test_a_region_that_is_back_gets_its_replica() -> None:
    """One of two replicas of a region goes to a region without any; the preferred region takes one in any case."""
    assert next_step(group("s2", "s3", "s5"), view()) == Add(
        "a replica is wanted in eu rather than at s3", "1-s3", "eu"
    )
    assert next_step(group("s2", "s3", "s5"), view("s1", "s4")) == Done()


def test_placement_by_region() -> None:
    """The first replica goes to the preferred region, the next ones to regions without any, none outside the regions."""
    servers = [Candidate(name, 7, {"region": region}) for name, region in REGIONS.items()]
    first = Demand("key", regions=("eu", "us"), preferred_region="eu")
    assert choose(first, servers).server.labels["region"] == "eu"
    second = Demand("key", regions=("eu", "us"), preferred_region="eu", neighbours=({"region": "eu"},))
    assert choose(second, servers).server.name == "s2"
    assert why_not(first, servers[2]) == "its region (ap) is none of eu, us"
