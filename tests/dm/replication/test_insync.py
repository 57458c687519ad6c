"""Which in-sync set is proposed, and what a change of primary makes of the document."""

from __future__ import annotations

import pytest

from amino.dm.replication.insync import promoted, proposed
from amino.dm.replication.messages import Member
from amino.dm.replication.view import Options, View
from amino.errors import Invalid

A, B, C = Member("a", "s1", 1), Member("b", "s2", 1), Member("c", "s3", 1)
VIEW = View(4, 17, (A, B, C), "a", ("a", "b"))


@pytest.mark.parametrize(
    ("in_sync", "answering", "ready", "least", "expected"),
    [
        ("ab", "ab", "", 2, None),
        ("abc", "ab", "", 2, "ab"),
        ("abc", "a", "", 2, None),
        ("ab", "a", "", 2, None),
        ("ab", "a", "d", 2, "ad"),
        ("ab", "ab", "dc", 2, "abcd"),
        ("a", "a", "", 2, None),
        ("a", "a", "b", 3, "ab"),
        ("abc", "a", "d", 3, "abcd"),
        ("abc", "ab", "d", 3, "abd"),
        ("ab", "a", "", 1, "a"),
    ],
)
def test_proposed(in_sync, answering, ready, least, expected):
    """Silent members go if enough stay; joiners come; below the least number a set may only grow."""
    found = proposed(tuple(in_sync), set(answering), set(ready), least)
    assert found == (tuple(expected) if expected else None)


def test_a_successor_replaces_the_old_primary():
    """The old primary is listed no more, the epoch grows by one."""
    view = promoted(VIEW, "b", ())
    assert (view.epoch, view.primary, view.in_sync, view.replicas) == (5, "b", ("b",), (B, C))


def test_a_primary_may_follow_itself_without_the_dead():
    """A stuck primary goes on in a new epoch without members that are gone."""
    view = promoted(VIEW, "a", ["b"])
    assert (view.epoch, view.primary, view.in_sync, view.replicas) == (5, "a", ("a",), (A, C))


@pytest.mark.parametrize(("successor", "dead"), [("c", ()), ("b", ("b",)), ("x", ()), ("a", ("a",))])
def test_nobody_else_can_be_promoted(successor, dead):
    """Who is not in sync, or dead, is refused with the reason."""
    with pytest.raises(Invalid, match="cannot follow a"):
        promoted(VIEW, successor, dead)


def test_a_document_that_contradicts_itself_is_invalid():
    """Primary and in-sync members must be listed; a group without a primary is possible."""
    with pytest.raises(Invalid, match="group document"):
        View(1, 1, (A,), "b", ("b",))
    with pytest.raises(Invalid, match="group document"):
        View(1, 1, (A, B), "a", ("b",))
    assert View(1, 1, (A,), "", ()).member("a") == A


@pytest.mark.parametrize(
    "wrong",
    [
        {"min_in_sync": 0},
        {"min_in_sync": 10},
        {"append_timeout_s": 0},
        {"read_lease_s": -1},
        {"snapshot_every": 0},
        {"log_bytes_max": 0},
    ],
)
def test_options_out_of_range_are_invalid(wrong):
    """Each option has a range."""
    with pytest.raises(Invalid, match=next(iter(wrong))):
        Options(**wrong)
