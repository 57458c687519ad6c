"""Choosing servers: selectors, eligibility, spread, load, ties, and the words for it."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amino.contracts.documents import Placement, Requirement
from amino.errors import Invalid, NoEligibleServer
from amino.oms.placement import Candidate, Demand, check_placement, choose, selector_holds, why_not

EU = Requirement("region", "Equal", ("eu",))


def _server(name: str, replicas: int = 0, **fields) -> Candidate:
    labels = {"host": name, **fields.pop("labels", {})}
    return Candidate(name, 5, labels, replicas, **fields)


@pytest.mark.parametrize(
    ("requirement", "labels", "holds"),
    [
        (EU, {"region": "eu"}, True),
        (EU, {"region": "us"}, False),
        (EU, {}, False),
        (Requirement("region", "In", ("eu", "us")), {"region": "us"}, True),
        (Requirement("region", "In", ("eu", "us")), {"region": "asia"}, False),
        (Requirement("region", "NotIn", ("eu",)), {"region": "us"}, True),
        (Requirement("region", "NotIn", ("eu",)), {"region": "eu"}, False),
        (Requirement("region", "NotIn", ("eu",)), {}, True),
        (Requirement("gpu"), {"gpu": ""}, True),
        (Requirement("gpu"), {}, False),
    ],
)
def test_operators(requirement, labels, holds) -> None:
    """Each operator holds for what it names."""
    assert selector_holds(((requirement,),), labels) is holds


def test_terms_are_ored_and_requirements_anded() -> None:
    """One term must hold in full; an empty selector holds everywhere."""
    selector = ((EU, Requirement("gpu")), (Requirement("host", "Equal", ("s9",)),))
    assert not selector_holds(selector, {"region": "eu"})
    assert selector_holds(selector, {"region": "eu", "gpu": "1"})
    assert selector_holds(selector, {"host": "s9"})
    assert selector_holds((), {})


@pytest.mark.parametrize(
    ("requirement", "words"),
    [
        (Requirement("gpu", "Exists", ("1",)), "takes no values"),
        (Requirement("region", "Equal", ()), "exactly one value"),
        (Requirement("region", "In", ()), "at least one value"),
    ],
)
def test_malformed_requirements_are_refused(requirement, words) -> None:
    """The error names operator, label and rule."""
    with pytest.raises(Invalid, match=words):
        check_placement(Placement(((requirement,),)))


@pytest.mark.parametrize(
    ("server", "demand", "words"),
    [
        (_server("s1", cordoned="maintenance"), Demand("m"), "cordoned: maintenance"),
        (_server("s1", device=True), Demand("m"), "a device"),
        (_server("s1", replicas=3, capacity=3), Demand("m"), "full: 3 of 3"),
        (_server("s1"), Demand("m", Placement(((EU,),))), "match no term"),
        (_server("s1"), Demand("m", needs_store=True), "no checkpoint store"),
        (_server("s1", store_id="b"), Demand("m", needs_store=True, store_id="a"), "another checkpoint store"),
        (_server("s1"), Demand("m", refused={"s1@5": "No module named shop"}), "No module"),
        (_server("s1"), Demand("m", excluded={"s1": "it is there"}), "it is there"),
        (_server("s1"), Demand("m", only="s2"), "not the server asked for"),
    ],
)
def test_why_a_server_may_not(server, demand, words) -> None:
    """Each rule says why; and without another server the refusal carries it."""
    assert words in why_not(demand, server)
    with pytest.raises(NoEligibleServer):
        choose(demand, [server])


def test_a_refusal_of_another_incarnation_does_not_count() -> None:
    """A restarted server may have the code now."""
    assert choose(Demand("m", refused={"s1@4": "no"}), [_server("s1")]).server.name == "s1"


def test_devices_are_used_when_asked_for() -> None:
    """By name, or by a requirement on the label device."""
    device = _server("d1", device=True, labels={"device": "phone"})
    assert choose(Demand("m", only="d1"), [device]).server is device
    assert choose(Demand("m", Placement(((Requirement("device"),),))), [device, _server("s1")]).server is device


@pytest.mark.parametrize(
    ("here", "elsewhere", "chosen"), [(0, 0, "s1"), (1, 0, "s2"), (9, 8, "s1"), (10, 8, "s2"), (900, 800, "s1")]
)
def test_the_preferred_server_goes_before_a_small_difference(here, elsewhere, chosen) -> None:
    """An eighth more replicas than the emptiest is small; the explanation says so."""
    choice = choose(Demand("m", prefer="s1"), [_server("s1", here), _server("s2", elsewhere)])
    assert choice.server.name == chosen
    assert ("hardly more" in choice.explanation) is (chosen == "s1" and here > elsewhere)


def test_spread_goes_before_the_preferred_server() -> None:
    """A server that shares the label to spread over with another replica is not preferred."""
    demand = Demand("m", Placement(spread=("zone",)), prefer="s1", neighbours=({"zone": "a"},))
    servers = [_server("s1", labels={"zone": "a"}), _server("s2", labels={"zone": "b"})]
    assert choose(demand, servers).server.name == "s2"


def test_the_least_loaded_is_chosen_and_explained() -> None:
    """The explanation names loads and why others were not eligible."""
    choice = choose(Demand("m"), [_server("s2", 5), _server("s1", 3), _server("s3", 0, cordoned="maintenance")])
    assert choice.server.name == "s1"
    assert choice.explanation == ("s1: fewest replicas (3) among 2 eligible: s1 3, s2 5; s3 cordoned: maintenance")


def test_spread_comes_before_load() -> None:
    """A host without a neighbour is chosen though it has more replicas."""
    servers = [_server("s1", 1), _server("s2", 9)]
    choice = choose(Demand("m", neighbours=[{"host": "s1"}]), servers)
    assert choice.server.name == "s2"
    assert "best spread over host" in choice.explanation


def test_a_store_that_most_share_is_preferred() -> None:
    """A lone server with a store of its own gets nothing that recovery would look for elsewhere."""
    servers = [_server("s1", store_id="own"), _server("s2", 7, store_id="shared"), _server("s3", 8, store_id="shared")]
    assert choose(Demand("m", needs_store=True), servers).server.name == "s2"
    assert choose(Demand("m"), servers).server.name == "s1"


def test_nobody_lists_everyone() -> None:
    """NoEligibleServer gives each server's reason, and says what to do when there is none at all."""
    with pytest.raises(NoEligibleServer, match=r"s1 cordoned: x; s2 full: 1 of 1"):
        choose(Demand("m"), [_server("s1", cordoned="x"), _server("s2", 1, capacity=1)])
    with pytest.raises(NoEligibleServer, match="amino server"):
        choose(Demand("m"), [])
    with pytest.raises(NoEligibleServer, match="no live server 's9'"):
        choose(Demand("m", only="s9"), [_server("s1")])


def test_equal_servers_share_evenly() -> None:
    """Ties are broken per microservice: a burst that sees the same loads does not pile up on one server."""
    servers = [_server(name) for name in ("s1", "s2", "s3")]
    counts = Counter(choose(Demand(f"m{n}"), servers).server.name for n in range(3000))
    assert min(counts.values()) > 800


@given(st.permutations([_server("s1", 2), _server("s2", 2), _server("s3", 4)]), st.text())
def test_the_order_of_servers_does_not_matter(servers, key) -> None:
    """The same cluster gives the same choice, however it is listed."""
    assert choose(Demand(key), servers) == choose(Demand(key), sorted(servers, key=lambda one: one.name))
