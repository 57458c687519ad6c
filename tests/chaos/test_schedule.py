"""Schedules of faults: the same seed gives the same, everything applicable comes up, nothing else does."""

from __future__ import annotations

import random

import pytest

from amino.errors import Invalid
from amino.testing.chaos.clusters.port import Ability
from amino.testing.chaos.faults import FAULTS, Shape, applicable, plan
from amino.testing.chaos.faults.catalogue import parts_of
from amino.testing.chaos.faults.schedule import draw

ALL = Shape(("s1", "s2", "s3"), 3, frozenset(Ability), 2.0, devices=("d1", "d2"))
SIGNALS = Shape(("s1", "s2", "s3"), 1, frozenset({Ability.SIGNALS}), 2.0)


def test_one_seed_one_schedule() -> None:
    """A seed gives the same faults at the same times; another gives others."""
    kinds = dict.fromkeys(FAULTS, 1)
    assert plan(kinds, ALL, 7, 300.0) == plan(kinds, ALL, 7, 300.0)
    assert plan(kinds, ALL, 7, 300.0) != plan(kinds, ALL, 8, 300.0)


def test_every_kind_comes_up_before_one_comes_again() -> None:
    """A schedule goes through all kinds before it repeats one."""
    kinds = dict.fromkeys(FAULTS, 1)
    seen = [one.kind for one in plan(kinds, ALL, 1, 1000.0)]
    assert set(seen[: len(kinds)]) == set(kinds)


def test_no_fault_begins_near_the_end() -> None:
    """The last fifth of a run, at most a minute, is left to recover in, and times only grow."""
    planned = plan(dict.fromkeys(FAULTS, 1), ALL, 3, 100.0)
    assert all(one.at_s < 80.0 for one in planned)
    assert planned == sorted(planned, key=lambda one: one.at_s)
    last_s = plan(dict.fromkeys(FAULTS, 1), ALL, 3, 3600.0)[-1].at_s
    assert 3600.0 - 120.0 < last_s < 3600.0 - 60.0, "a long run is broken to within a minute of its end"


def test_a_short_run_has_a_fault() -> None:
    """However short a run is, something breaks in it."""
    assert len(plan({"kill-kernel": 1}, SIGNALS, 1, 1.0)) == 1


def test_what_does_not_apply_is_left_out() -> None:
    """A cluster without three members of etcd and without a network to break has faults of processes only."""
    assert set(applicable(FAULTS, SIGNALS)) == {kind for kind in FAULTS if kind.startswith(("kill-", "freeze-"))} - {
        "kill-member", "freeze-member", "kill-majority", "freeze-majority",
        "kill-container", "freeze-container", "kill-device", "freeze-device", "freeze-device-long",
    }  # fmt: skip
    assert not applicable(["kill-device"], Shape(("s1",), 1, frozenset(Ability), 2.0)), "there are none"
    with pytest.raises(Invalid, match="none of"):
        plan({"kill-member": 1}, SIGNALS, 1, 10.0)


def test_faults_at_once_hit_different_targets() -> None:
    """Two faults at once never have the same target, and roles are not paired with servers they might be."""
    for seed in range(50):
        one = draw("kill-server+freeze-server-long", ALL, random.Random(seed))
        first, second = one.target.split("+")
        assert first != second
        assert second.startswith("s")
        assert 1.3 * 2 <= one.lasts_s <= 2.5 * 2


def test_unknown_kinds_are_refused() -> None:
    """A kind that does not exist is refused with those that do."""
    with pytest.raises(Invalid, match="kill-kernel"):
        parts_of("kill-kernel+set-on-fire")


def test_every_fault_says_what_it_is() -> None:
    """Each fault has a line for people, and a name in the form of the others."""
    for kind, fault in FAULTS.items():
        assert fault.what().endswith("."), kind
        assert kind == kind.lower().replace("_", "-").replace(" ", "-")
