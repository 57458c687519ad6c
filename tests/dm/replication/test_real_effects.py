"""What replicated methods take from outside, and classes that cheat."""

from __future__ import annotations

import time
from typing import Any

import pytest

import amino
from amino.dm import AtLeastOnceRPC, ConsensusRSM
from tests.dm.replication.real_world import PATIENCE_S, World
from tests.dm.replication.services import Blob, Cheat, Counters, Worldly
from tests.waiting import until

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(300)]
DMS = (AtLeastOnceRPC(timeout_s=20), ConsensusRSM())


def each_replica(world: World, target: Any, method: str) -> list[Any]:
    """Return what ``method`` answers at each of the present replicas: the primary is killed until the last is it.

    Who joins meanwhile, a copy, is promoted after those that were there.
    """
    world.wait_whole(target)
    answers = []
    for last in (False, False, True):
        answers.append(getattr(target, method)())
        if not last:
            world.primary_server(target).kill_kernel()
    return answers


def divergences(world: World) -> list[Any]:
    """Return the events about replicas that differ or were mended."""
    return [one for one in world.events() if one.kind in ("replica-diverged", "replica-repaired")]


def mended(world: World, target: Any) -> bool:
    """Return whether each follower was found to differ, was mended, and nothing has happened for a while."""
    followers = {server.name for server in world.followers(target)}
    last = {one.server: one for one in divergences(world)}
    quiet = all(time.time() - one.at > 2.5 for one in last.values())
    return quiet and followers <= {name for name, one in last.items() if one.kind == "replica-repaired"}


def test_what_comes_from_outside_is_recorded(world: World) -> None:
    """Time, chance, the order of a set and nested calls give equal replicas, and nested calls run once."""
    other = world.client.new(amino.spec(Counters, name="other", dms=DMS))
    worldly = world.client.new(amino.spec(Worldly, name="worldly", dms=DMS))
    for _ in range(5):
        worldly.look(other)
        with pytest.raises(ValueError, match="seen"):
            worldly.refuse(other)
    assert other.get("looked") == 5
    assert other.get("refused") == 5
    states = each_replica(world, worldly, "all_seen")
    assert states[0] == states[1] == states[2]
    assert not divergences(world)


@pytest.mark.parametrize("method", ["mark", "mark_silently"])
def test_a_class_that_cheats_is_noticed_and_repaired(world: World, method: str) -> None:
    """A clock's reading in the state, told by results or not, is noticed as divergence, and replicas are copied afresh."""
    cheat = world.client.new(amino.spec(Cheat, name="cheat", dms=DMS))
    world.wait_whole(cheat)
    for _ in range(10):
        getattr(cheat, method)()
    until(lambda: mended(world, cheat), PATIENCE_S, lambda: f"not mended: {divergences(world)}")
    marks = cheat.all_marks()
    assert len(marks) == 10
    assert each_replica(world, cheat, "all_marks") == [marks] * 3


def test_shipping_the_state(world: World) -> None:
    """With ``replicate="state"`` a class that is not deterministic has equal replicas, and survives its primary."""
    dms = (AtLeastOnceRPC(timeout_s=20), ConsensusRSM(replicate="state"))
    cheat = world.client.new(amino.spec(Cheat, name="cheat", dms=dms))
    world.wait_whole(cheat)
    for _ in range(10):
        cheat.mark()
    marks = cheat.all_marks()
    assert each_replica(world, cheat, "all_marks") == [marks] * 3
    world.wait_whole(cheat)
    world.primary_server(cheat).kill_kernel()
    assert cheat.all_marks() == marks
    cheat.mark()
    assert cheat.all_marks()[:-1] == marks
    assert not divergences(world)


def test_state_in_parts(world: World) -> None:
    """A state of several parts reaches replicas that join, and is there after the primary was killed."""
    blob = world.client.new(amino.spec(Blob, name="blob", dms=DMS), 20 * 1024 * 1024)
    world.wait_whole(blob)
    assert blob.add() == 1
    before = world.primary_server(blob)
    before.kill_kernel()
    assert blob.add() == 2
    world.wait_whole(blob)
    assert blob.get() == 2
