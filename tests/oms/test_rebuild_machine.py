"""What is written into an empty etcd for a microservice whose checkpoints are in the store: pure."""

from __future__ import annotations

from typing import Any

import msgspec

from amino.checkpoint.description import Description
from amino.checkpoint.inventory import FoundCheckpoint, FoundGroup
from amino.contracts.documents import CheckpointEntry, GroupDocument, MicroserviceRecord, MicroserviceSpec, Phase
from amino.contracts.levels import Level
from amino.contracts.sharding import Transition, transition_of
from amino.oms import group_machine, shard_machine
from amino.oms.rebuild_machine import (
    EPOCH_STEP,
    UNDESCRIBED,
    Rebuilt,
    Refused,
    above,
    is_unfinished,
    manifest_of,
    plan,
    record_of,
    state_of,
    unfinished,
)

RECORD = MicroserviceRecord(MicroserviceSpec("shop:Counter", name="hits"))
SHARDS = (Level("DHT", 0, "shards", 2),)
COPIES = (Level("ConsensusRSM", 0, "replicated", 3, 2),)


def _checkpoint(epoch: int, sequence: int, problem: str = "", *, log: int | None = None) -> FoundCheckpoint:
    """A checkpoint, damaged if it has a problem, with a log of so many bytes."""
    url = f"checkpoints/id/{epoch}-{sequence}-aa"
    digest = "" if problem else "d" * 64
    entry = CheckpointEntry(
        epoch, sequence, url, digest, 10, float(sequence), log is not None, -1 if log is None else log
    )
    return FoundCheckpoint(entry, problem, bool(log))


def _group(*checkpoints: FoundCheckpoint, **about: Any) -> FoundGroup:
    return FoundGroup(checkpoints, Description(about.pop("record", RECORD), **about))


def _rebuilt(groups: dict[str, FoundGroup], levels: tuple[Level, ...] = ()) -> Rebuilt:
    made = plan(groups, levels, "store")
    assert isinstance(made, Rebuilt), made
    return made


def _refused(groups: dict[str, FoundGroup], levels: tuple[Level, ...] = ()) -> str:
    made = plan(groups, levels, "store")
    assert isinstance(made, Refused), made
    return made.why


def test_a_microservice_waits_for_a_server_to_restore_it() -> None:
    """Its document is one that slot leaders recover from a checkpoint, at an epoch above all it can have had."""
    made = _rebuilt({"/": _group(_checkpoint(7, 30), _checkpoint(6, 29))})
    document = made.documents["/"]
    assert (document.phase, document.epoch, document.constructed, document.store_id) == (
        "active",
        EPOCH_STEP,
        True,
        "store",
    )
    step = group_machine.next_step(document, group_machine.View("id", {"s1": 5}, recovery="checkpoint"))
    assert isinstance(step, group_machine.Place)
    assert step.source == "checkpoint"
    assert [entry.sequence for entry in made.manifests["/"].entries] == [30, 29]
    assert made.newest == made.manifests["/"].entries[0]
    assert made.notes == ()


def test_epochs_are_above_every_earlier_one() -> None:
    """Of files and documents, of all groups and changes of shards, and after an earlier rebuilding."""
    assert above([]) == EPOCH_STEP
    assert above([1, 999_999]) == EPOCH_STEP
    assert above([EPOCH_STEP]) == 2 * EPOCH_STEP
    assert above([3], at_least=EPOCH_STEP + 5) == 2 * EPOCH_STEP
    known = {"/": _group(_checkpoint(1, 1), group=GroupDocument(epoch=EPOCH_STEP + 9))}
    assert _rebuilt(known).documents["/"].epoch == 2 * EPOCH_STEP


def test_the_newest_record_counts() -> None:
    """A change of the spec that was acknowledged is in force again."""
    later = MicroserviceRecord(MicroserviceSpec("shop:Counter", labels={"a": "b"}), generation=2)
    groups = {"/": _group(_checkpoint(1, 1), record=later), "/0": _group(_checkpoint(1, 1))}
    assert record_of(groups) == later
    assert _rebuilt(groups).documents["/"].generation == 2
    assert record_of({"/": FoundGroup((_checkpoint(1, 1),))}) is None


def test_what_cannot_come_back_says_why() -> None:
    """Without a description, without a checkpoint, without an intact one, or half-made."""
    assert _refused({"/": FoundGroup((_checkpoint(1, 1),))}) == UNDESCRIBED
    assert _refused({"/": _group()}) == "the store has no checkpoint of it"
    assert _refused({"/": _group(_checkpoint(1, 1, "torn"))}) == "none of its 1 checkpoints is intact: torn"
    assert _refused({"/0": _group()}, SHARDS) == "the store has no checkpoint of any of its shards"
    assert _refused({"/0": _group(_checkpoint(1, 1))}, SHARDS) == (
        "its creation was not finished: shards 1 have no checkpoint"
    )


def test_the_newest_intact_checkpoint_is_taken_and_damage_told() -> None:
    """A damaged one without a log is left out, so that it is never fallen back to."""
    entries, notes = manifest_of([_checkpoint(2, 3, "torn"), _checkpoint(2, 2), _checkpoint(1, 1)])
    assert [entry.sequence for entry in entries] == [2, 1]
    assert notes == ["checkpoint 2-3 is damaged (torn); taken instead: 2-2"]
    entries, notes = manifest_of([_checkpoint(2, 3), _checkpoint(2, 2, "torn"), _checkpoint(1, 1)])
    assert [entry.sequence for entry in entries] == [3, 1]
    assert notes == []


def test_a_damaged_checkpoint_with_a_log_stays_listed() -> None:
    """What its log holds was acknowledged: the one before and its own log lead up to it."""
    entries, notes = manifest_of(
        [_checkpoint(2, 3, "torn", log=50), _checkpoint(2, 2, log=70), _checkpoint(1, 1, log=90)]
    )
    assert [(entry.sequence, entry.log_size) for entry in entries] == [(3, -1), (2, 70), (1, 90)]
    assert entries[0].sha256 == ""
    assert notes == ["checkpoint 2-3 is damaged (torn); its log leads on from 2-2"]


def test_an_older_checkpoint_is_kept_only_if_its_log_leads_on() -> None:
    """One without a log, or with a damaged one, would bring back less than was acknowledged."""
    for older in (_checkpoint(1, 1), _checkpoint(1, 1, log=-1)):
        entries, _ = manifest_of([_checkpoint(2, 2, log=70), older])
        assert [entry.sequence for entry in entries] == [2]
    assert manifest_of([])[0] == ()


def test_copies_are_as_many_as_were_wanted() -> None:
    """A replicated group comes back with one replica and gets the others by itself."""
    known = GroupDocument(kind="replicated", wanted=5, coordinator={"x": b"y"})
    document = _rebuilt({"/": _group(_checkpoint(1, 1), group=known)}, COPIES).documents["/"]
    assert (document.kind, document.wanted, document.min_in_sync, document.coordinator) == (
        "replicated",
        5,
        2,
        {"x": b"y"},
    )
    other = GroupDocument(wanted=5)
    assert _rebuilt({"/": _group(_checkpoint(1, 1), group=other)}, COPIES).documents["/"].wanted == 3


def test_shards_come_back_under_their_root() -> None:
    """As many as there were; one that left stays away, and no name is used again."""
    root = GroupDocument(
        kind="shards", wanted=2, children=("0", "2"), constructed=True, coordinator={"shards-named": b"3"}
    )
    groups = {path: _group(_checkpoint(1, 1), root=root) for path in ("/0", "/1", "/2")}
    made = _rebuilt(groups, SHARDS)
    assert set(made.documents) == {"/", "/0", "/2"}
    assert made.documents["/"].children == ("0", "2")
    assert shard_machine.next_number(made.documents["/"]) == 3
    assert set(made.manifests) == {"/0", "/2"}


def test_first_shards_come_back_without_a_known_root() -> None:
    """Their first checkpoints may be older than what their servers had heard of the root."""
    made = _rebuilt({path: _group(_checkpoint(1, 1)) for path in ("/0", "/1")}, SHARDS)
    assert made.documents["/"].children == ("0", "1")


def test_a_change_of_shards_is_gone_through_again() -> None:
    """Whatever of it was done: a shard repeats nothing, and keys that had left are not lost."""
    transition = Transition(("0", "1"), ("0", "1", "2"), 4)
    root = GroupDocument(kind="shards", wanted=3, children=("0", "1"), constructed=True, epoch=3)
    groups = {path: _group(_checkpoint(1, 1), root=root, shards=transition) for path in ("/0", "/1", "/2")}
    groups["/1"] = _group(_checkpoint(1, 1), root=root)
    made = _rebuilt(groups, SHARDS)
    document = made.documents["/"]
    assert document.children == ("0", "1")
    assert transition_of(document.coordinator[shard_machine.CHANGES]) == transition
    assert set(made.documents) == {"/", "/0", "/1", "/2"}
    children = {name: msgspec.structs.replace(document, kind="") for name in "012"}
    assert isinstance(shard_machine.next_step(document, children), shard_machine.Reshard)
    assert document.epoch >= transition.version


def test_a_shard_that_was_coming_is_made_anew() -> None:
    """Without a checkpoint it had no key; one that was leaving, too, has nothing any more."""
    coming = Transition(("0", "1"), ("0", "1", "2"), 4)
    made = _rebuilt({path: _group(_checkpoint(1, 1), shards=coming) for path in ("/0", "/1")}, SHARDS)
    assert set(made.documents) == {"/", "/0", "/1"}
    leaving = Transition(("0", "1"), ("0",), 4)
    made = _rebuilt({"/0": _group(_checkpoint(1, 1), shards=leaving)}, SHARDS)
    assert set(made.documents) == {"/", "/0"}


def test_a_change_that_no_shard_heard_of_is_not_begun() -> None:
    """It is begun anew if still wanted, with a name of its own."""
    coordinator = {shard_machine.ADDED: b"2", shard_machine.USED: b"3"}
    root = GroupDocument(kind="shards", wanted=3, children=("0", "1"), constructed=True, coordinator=coordinator)
    made = _rebuilt({path: _group(_checkpoint(1, 1), root=root) for path in ("/0", "/1", "/2")}, SHARDS)
    assert made.documents["/"].coordinator == {shard_machine.USED: b"3"}
    assert set(made.documents) == {"/", "/0", "/1"}


def test_a_shard_that_cannot_come_back_is_seen() -> None:
    """The others come back; that one ends as lost."""
    root = GroupDocument(kind="shards", wanted=2, children=("0", "1"), constructed=True)
    groups = {"/0": _group(_checkpoint(1, 1), root=root), "/1": _group(_checkpoint(1, 1, "torn"), root=root)}
    made = _rebuilt(groups, SHARDS)
    assert set(made.documents) == {"/", "/0", "/1"}
    assert made.notes == ("shard 1: none of its 1 checkpoints is intact",)
    groups["/1"] = _group(root=root)
    made = _rebuilt(groups, SHARDS)
    assert made.notes == ("shard 1: it has no checkpoint",)
    assert "/1" not in made.manifests


def test_a_root_is_lost_while_its_shards_are_written() -> None:
    """Nothing is made in their place meanwhile, and a later run knows where to go on."""
    document = _rebuilt({path: _group(_checkpoint(1, 1)) for path in ("/0", "/1")}, SHARDS).documents["/"]
    assert not is_unfinished(document)
    between = unfinished(document)
    assert is_unfinished(between)
    assert isinstance(group_machine.next_step(between, group_machine.View("id", {})), group_machine.Done)


def test_the_state_shown_is_that_of_the_worst_group() -> None:
    """One lost shard is what an operator has to know."""
    good = GroupDocument(phase=Phase.ACTIVE, kind="shards")
    lost = GroupDocument(phase=Phase.LOST, reason="torn")
    assert state_of({"/": good}) == ("active", "")
    assert state_of({"/": good, "/0": GroupDocument(phase=Phase.ACTIVE, ineligible={"s1@4": "no code"})}) == (
        "recovering",
        "no code",
    )
    assert state_of({"/": good, "/0": GroupDocument(phase=Phase.ACTIVE), "/1": lost}) == ("lost", "shard 1: torn")
