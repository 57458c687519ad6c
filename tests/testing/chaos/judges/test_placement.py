"""The judge of places."""

import pytest

from amino.contracts.documents import GroupDocument, Phase, ReplicaDocument
from amino.testing.chaos.clusters.port import labels_of
from amino.testing.chaos.judges.placement import placed

REGIONS = {"s1": "north", "s2": "east", "s3": "south", "s4": "north"}


def group(*servers, in_sync=3, preferred="north", wanted=("north", "east", "south")):
    """Return a group with its first replica as primary."""
    replicas = tuple(ReplicaDocument(f"r{at}", server, 1) for at, server in enumerate(servers))
    return GroupDocument(
        phase=Phase.ACTIVE,
        epoch=1,
        version=1,
        replicas=replicas,
        primary="r0",
        in_sync=tuple(one.id for one in replicas[:in_sync]),
        regions=wanted,
        preferred_region=preferred,
    )


def test_replicas_where_they_are_wanted_are_placed():
    """One in each region, the primary in the preferred one; groups that want none do not count."""
    verdict = placed([group("s1", "s2", "s3"), group("s2", wanted=(), preferred="")], REGIONS)
    assert (verdict.ok, verdict.figures["groups"]) == (True, 1.0)


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        (group("s1", "s2", "s4"), "in sync in south"),
        (group("s1", "s2", "s3", in_sync=2), "in sync in south"),
        (group("s2", "s1", "s3"), "primary is in 'east'"),
        (group("s9", "s2", "s3"), "in sync in north"),
    ],
)
def test_what_is_elsewhere_is_told(bad, text):
    """A region without a replica in sync, a primary away from home, a server that nobody knows."""
    verdict = placed([bad], REGIONS)
    assert not verdict.ok
    assert text in verdict.text


def test_servers_get_regions_one_after_the_other():
    """With none given they have no label."""
    assert labels_of(["s1", "s2", "s3"], ["a", "b"])["s3"] == {"region": "a"}
    assert labels_of(["s1"], []) == {"s1": {}}
