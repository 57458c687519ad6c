"""Who may publish, and what a manifest holds afterwards: pure functions."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amino.checkpoint.publication import Holder, added, next_sequence, refusal
from amino.contracts.documents import CheckpointEntry, GroupDocument, Manifest, Phase, ReplicaDocument

HOLDER = Holder("m", "/", "r1", "s1", 7, epoch=3)
PLACED = GroupDocument(phase=Phase.ACTIVE, epoch=3, replicas=(ReplicaDocument("r1", "s1", 7),))


def _entry(sequence: int, epoch: int = 1) -> CheckpointEntry:
    return CheckpointEntry(epoch, sequence, f"f{sequence}", "0" * 64, 1)


def test_the_placed_replica_may_publish() -> None:
    """The incarnation and epoch that the document names may publish, confirmed or still being made."""
    assert refusal(HOLDER, PLACED) == ""
    assert refusal(HOLDER, msgspec.structs.replace(PLACED, phase=Phase.CREATING)) == ""


@pytest.mark.parametrize(
    ("document", "why"),
    [
        (None, "deleted"),
        (msgspec.structs.replace(PLACED, phase=Phase.DELETING), "deleting"),
        (msgspec.structs.replace(PLACED, phase=Phase.LOST), "lost"),
        (msgspec.structs.replace(PLACED, phase=Phase.QUARANTINED), "quarantined"),
        (msgspec.structs.replace(PLACED, epoch=4), "epoch 4"),
        (msgspec.structs.replace(PLACED, epoch=2), "epoch 2"),
        (msgspec.structs.replace(PLACED, replicas=()), "not of the group"),
        (msgspec.structs.replace(PLACED, replicas=(ReplicaDocument("r1", "s2", 9),)), "placed on s2"),
        (msgspec.structs.replace(PLACED, replicas=(ReplicaDocument("r1", "s1", 8),)), "placed on s1"),
    ],
)
def test_nobody_else_may(document: GroupDocument | None, why: str) -> None:
    """Every other document refuses, and says why."""
    assert why in refusal(HOLDER, document)


@given(st.integers(1, 5), st.integers(1, 20))
def test_keeps_the_newest(keep: int, count: int) -> None:
    """After any number of additions the manifest has the newest ``keep``, in order; the rest was handed out once."""
    manifest, removed = Manifest(), []
    for _ in range(count):
        entry = _entry(next_sequence(manifest))
        manifest, dropped = added(manifest, entry, keep)
        removed += [old.sequence for old in dropped]
    kept = [entry.sequence for entry in manifest.entries]
    assert kept == list(range(count, max(count - keep, 0), -1))
    assert sorted(kept + removed) == list(range(1, count + 1))


def test_damaged_entries_go_at_the_next_addition() -> None:
    """An entry found damaged is dropped although newer than the one restored; sequences go on above it."""
    manifest = Manifest(entries=(_entry(9), _entry(8), _entry(7)))
    after, dropped = added(manifest, _entry(next_sequence(manifest)), 2, rejected={"f9"})
    assert [entry.sequence for entry in after.entries] == [10, 8]
    assert {entry.sequence for entry in dropped} == {9, 7}


def test_sequences_go_on_over_epochs() -> None:
    """A new epoch continues the count, so that (epoch, sequence) and sequence order alike."""
    assert next_sequence(Manifest(entries=(_entry(4, epoch=2), _entry(3, epoch=1)))) == 5
    assert next_sequence(Manifest()) == 1
