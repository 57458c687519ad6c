"""Where replicas and the primary go by region, decision by decision."""

from __future__ import annotations

from amino.contracts.documents import GroupDocument
from amino.oms.group_machine import Add, Done, View, Write
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
