"""The steps of a group of shards."""

from __future__ import annotations

from typing import Any

import msgspec

from amino.contracts.documents import GroupDocument, Phase, ReplicaDocument
from amino.contracts.sharding import transition_of
from amino.oms.group_machine import REPLICATED, SHARDS, Done, Wait, Write
from amino.oms.shard_machine import (
    ADDED,
    CHANGES,
    CreateChild,
    RemoveChild,
    Reshard,
    first_children,
    next_step,
    settled,
)


def _root(count: int, **fields: Any) -> GroupDocument:
    return GroupDocument(kind=SHARDS, wanted=count, children=first_children(count), **fields)


def _child(*, made: bool = True, phase: str = Phase.ACTIVE) -> GroupDocument:
    replica = ReplicaDocument("1-a", "s1", 7, confirmed=made)
    return GroupDocument(phase=phase, replicas=(replica,), constructed=made, methods={"put": 64})


def _run(document: GroupDocument, children: dict[str, GroupDocument]) -> tuple[GroupDocument, list[str]]:
    """Carry out steps until none is left; returns the document and what was done."""
    done = []
    for _ in range(50):
        step = next_step(document, children)
        match step:
            case Done():
                return document, done
            case CreateChild(name):
                children[name] = _child()
                done.append(f"create {name}")
            case RemoveChild(name):
                del children[name]
                done.append(f"remove {name}")
            case Reshard(transition, finished):
                done.append(f"move {','.join(transition.before)} to {','.join(transition.after)}")
                document = finished
            case Write(written, _, _):
                document = written
            case _:
                raise AssertionError(step)
    raise AssertionError(done)


def test_a_creation_is_active_once_every_shard_is_made() -> None:
    """Shards are made one by one, and the root knows their methods."""
    children: dict[str, GroupDocument] = {}
    document, done = _run(_root(3), children)
    assert done == ["create 0", "create 1", "create 2"]
    assert document.phase == Phase.ACTIVE
    assert document.methods == {"put": 64}
    waiting = next_step(_root(1), {"0": _child(made=False)})
    assert isinstance(waiting, Wait)


def test_shards_come_and_go_one_at_a_time() -> None:
    """Three to five, then to two: a new shard is made before keys move, a leaving one removed after; epochs only grow."""
    children = {name: _child() for name in first_children(3)}
    active = _root(3, phase=Phase.ACTIVE, constructed=True)
    grown, done = _run(msgspec.structs.replace(active, wanted=5), children)
    assert done == ["create 3", "move 0,1,2 to 0,1,2,3", "create 4", "move 0,1,2,3 to 0,1,2,3,4"]
    assert grown.epoch == active.epoch + 2
    shrunk, done = _run(msgspec.structs.replace(grown, wanted=2), children)
    assert done == [
        "move 0,1,2,3,4 to 0,1,2,3",
        "remove 4",
        "move 0,1,2,3 to 0,1,2",
        "remove 3",
        "move 0,1,2 to 0,1",
        "remove 2",
    ]
    assert sorted(children) == ["0", "1"] == list(shrunk.children)


def test_names_of_shards_are_never_used_again() -> None:
    """A shard that comes after another left has a new name: nothing kept of the old one can be taken for its own."""
    children = {name: _child() for name in first_children(3)}
    document, _ = _run(_root(3, phase=Phase.ACTIVE, constructed=True), children)
    document, _ = _run(msgspec.structs.replace(document, wanted=2), children)
    document, _ = _run(msgspec.structs.replace(document, wanted=3), children)
    assert document.children == ("0", "1", "3")


def test_keys_do_not_move_while_a_shard_is_lost() -> None:
    """A change under way waits for the shards it needs."""
    children = {name: _child() for name in first_children(3)}
    step = next_step(_root(2, phase=Phase.ACTIVE, constructed=True, coordinator={}), children)
    assert isinstance(step, RemoveChild)  # a shard that no change needs any more
    leaving = _root(3, phase=Phase.ACTIVE, constructed=True)
    begun = next_step(msgspec.structs.replace(leaving, wanted=2), {**children, "2": _child()})
    assert isinstance(begun, Write)
    assert transition_of(begun.document.coordinator[CHANGES]) is not None
    children["1"] = _child(phase=Phase.LOST)
    assert isinstance(next_step(begun.document, children), Wait)


def test_nothing_changes_while_paused() -> None:
    """Growing is balancing; creations go on."""
    children = {name: _child() for name in first_children(3)}
    document = msgspec.structs.replace(_root(3, phase=Phase.ACTIVE, constructed=True), wanted=5)
    assert isinstance(next_step(document, children, paused=True), Wait)


def _growing(**fields: Any) -> tuple[GroupDocument, dict[str, GroupDocument]]:
    """Return a group of three shards of which four are wanted, with the fourth intended and made, and what is below it."""
    children = {name: _child() for name in first_children(3)}
    begun = next_step(_root(3, phase=Phase.ACTIVE, constructed=True), children)
    assert isinstance(begun, Done)
    begun = next_step(msgspec.structs.replace(_root(3, phase=Phase.ACTIVE, constructed=True), wanted=4), children)
    assert isinstance(begun, Write)
    assert isinstance(next_step(begun.document, children), CreateChild)
    return begun.document, {**children, "3": msgspec.structs.replace(_child(), **fields)}


def test_no_shard_hears_of_a_new_one_before_it_can_keep_keys() -> None:
    """A shard under ConsensusRSM takes part in no change while its in-sync set is too small for writes."""
    alone: dict[str, Any] = {"kind": REPLICATED, "primary": "1-a", "in_sync": ("1-a",), "wanted": 3, "min_in_sync": 2}
    document, children = _growing(**alone)
    assert isinstance(next_step(document, children), Wait)
    children["3"] = msgspec.structs.replace(children["3"], in_sync=("1-a", "1-b"))
    step = next_step(document, children)
    assert isinstance(step, Write)
    transition = transition_of(step.document.coordinator[CHANGES])
    assert transition is not None
    assert transition.after == ("0", "1", "2", "3")
    assert not settled(document)
    assert not settled(step.document)


def test_a_shard_that_is_lost_before_it_has_a_key_is_replaced() -> None:
    """Under another name, and what is left of it goes; once a change of shards names it, it may have keys, and is waited for."""
    document, children = _growing(phase=Phase.LOST)
    document, done = _run(document, children)
    assert done == ["create 4", "remove 3", "move 0,1,2 to 0,1,2,4"]
    assert settled(document)
    document, children = _growing()
    step = next_step(document, children)
    assert isinstance(step, Write)
    children["3"] = _child(phase=Phase.LOST)
    assert isinstance(next_step(step.document, children), Wait)


def test_a_shard_that_cannot_be_made_is_not_tried_for_ever_and_can_be_given_up() -> None:
    """Its constructor would fail again; scaling back takes it away."""
    document, children = _growing(phase=Phase.LOST, constructed=False, reason="ZeroDivisionError")
    step = next_step(document, children)
    assert isinstance(step, Wait)
    assert "ZeroDivisionError" in step.why
    back, done = _run(msgspec.structs.replace(document, wanted=3), children)
    assert done == ["remove 3"]
    assert settled(back)
    grown, done = _run(msgspec.structs.replace(back, wanted=4), children)
    assert grown.children == ("0", "1", "2", "4")


def test_a_first_shard_that_is_lost_before_the_creation_is_acknowledged_is_replaced() -> None:
    """Nobody knows of a microservice that is being created: nothing of it can be lost."""
    children = {"0": _child(), "1": _child(phase=Phase.LOST), "2": _child(made=False)}
    document = _root(3)
    step = next_step(document, children)
    assert isinstance(step, Write)
    document, done = _run(step.document, {**children, "2": _child()})
    assert done == ["create 3", "remove 1"]
    assert document.children == ("0", "3", "2")
    assert document.phase == Phase.ACTIVE


def test_a_change_under_way_goes_on_before_a_shard_that_was_being_made() -> None:
    """A leader of an earlier release knows nothing of shards being made, and may have begun a change beside one."""
    document, children = _growing()
    begun = next_step(document, children)
    assert isinstance(begun, Write)
    both = msgspec.structs.replace(begun.document, wanted=5, coordinator={**begun.document.coordinator, ADDED: b"4"})
    grown, done = _run(both, children)
    assert done == ["create 4", "move 0,1,2 to 0,1,2,3", "move 0,1,2,3 to 0,1,2,3,4"]
    assert settled(grown)
