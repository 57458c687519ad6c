"""The bytes of an operation log: what is read back, where it ends, and what counts as damage."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amino.checkpoint.format import NotIntact
from amino.checkpoint.log_format import Content, frame, read, seed_of

SEED = seed_of("checkpoints/m/1-1-a")
RECORDS = st.lists(st.lists(st.binary(max_size=40), min_size=1, max_size=4), max_size=5)


def written(batches: list[list[bytes]], *, marked: bool = True) -> bytes:
    """Return a log of ``batches``, each followed by the mark that it was synced; the last only if ``marked``."""
    frames = []
    for number, records in enumerate(batches, 1):
        frames += [frame(SEED, number, records), frame(SEED, number, ())]
    return b"".join(frames if marked else frames[:-1])


@given(RECORDS)
def test_reads_back_what_was_written(batches: list[list[bytes]]) -> None:
    """All records in order, empty ones too, and the size is that of the whole."""
    data = written(batches)
    assert read(SEED, data) == Content([record for records in batches for record in records], len(data))


@given(RECORDS.filter(bool), st.data())
def test_a_cut_leaves_whole_frames(batches: list[list[bytes]], data: st.DataObject) -> None:
    """Wherever a write was cut off, what was synced before is there, and nothing else."""
    whole = written(batches, marked=False)
    start = len(written(batches[:-1]))
    cut = data.draw(st.integers(start, len(whole) - 1))
    garbage = data.draw(st.sampled_from([b"", bytes(7), bytes(90)])) if cut == start else b""
    assert read(SEED, whole[:cut] + garbage) == Content([r for rs in batches[:-1] for r in rs], start)


@given(RECORDS.filter(bool), st.data())
def test_a_flipped_bit_is_reported(batches: list[list[bytes]], data: st.DataObject) -> None:
    """Where something was synced, no change passes: a log is never cut short before its last mark."""
    whole = bytearray(written(batches))
    place = data.draw(st.integers(0, len(written(batches, marked=False)) - 1))
    whole[place] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(NotIntact, match="damaged"):
        read(SEED, bytes(whole))


@given(RECORDS.filter(bool), st.data())
def test_a_log_of_known_size_is_all_or_nothing(batches: list[list[bytes]], data: st.DataObject) -> None:
    """Once the manifest says how much counts, what follows is ignored and anything less is damage."""
    whole = written(batches)
    records = [record for each in batches for record in each]
    assert read(SEED, whole + b"late", size=len(whole)) == Content(records, len(whole))
    with pytest.raises(NotIntact):
        read(SEED, whole[: data.draw(st.integers(0, len(whole) - 1))], size=len(whole))


def test_where_appends_are_whole_nothing_can_be_cut_off() -> None:
    """In a store of objects a broken end is damage."""
    data = written([[b"a"], [b"b"]], marked=False)
    with pytest.raises(NotIntact):
        read(SEED, data[:-1], whole=True)


def test_a_frame_of_another_log_is_no_sign_of_damage() -> None:
    """Somebody may keep the bytes of logs in records; a cut record with such bytes is still a cut one."""
    foreign = frame(seed_of("another"), 99, [b"x"])
    data = written([[b"a"]]) + frame(SEED, 2, [foreign, b"y" * 50])[:-10]
    assert read(SEED, data).records == [b"a"]
