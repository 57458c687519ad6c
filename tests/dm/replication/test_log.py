"""The log: indexes without gaps, truncation at the end, trimming at the front within its bounds."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from amino.dm.replication.log import Log
from amino.dm.replication.messages import Entry


def filled(count, size=10, epoch=1):
    """Return a log of that many entries."""
    log = Log()
    for index in range(1, count + 1):
        log.append(Entry(epoch, index, b"x" * size))
    return log


def test_an_empty_log_ends_where_it_begins():
    """A log that was reset has no entries and the epoch of its base."""
    log = Log(7, 3)
    assert (log.end, log.end_epoch, log.epoch_at(7), log.payload_bytes) == (7, 3, 3, 0)


def test_batches_are_bounded_in_count_and_bytes():
    """A batch holds at most the entries and bytes asked for, and always one."""
    log = filled(10)
    assert [entry.index for entry in log.between(2, 10, 3)] == [3, 4, 5]
    assert [entry.index for entry in log.between(2, 10, 9, 25)] == [3, 4]
    assert [entry.index for entry in log.between(2, 10, 9, 5)] == [3]
    assert log.between(10, 10) == ()


def test_truncation_drops_the_end():
    """What is truncated is gone, its bytes too, and other entries may follow."""
    log = filled(5)
    log.truncate(2)
    log.append(Entry(2, 3, b"other"))
    assert (log.end, log.end_epoch, log.epoch_at(2), log.payload_bytes) == (3, 2, 1, 25)


def test_trimming_waits_until_it_is_worth_it():
    """Few old entries stay; many go at once; the newest asked for stay."""
    log = filled(1000)
    log.trim(keep_after=100, droppable=1000, bytes_max=1 << 20)
    assert log.base == 0
    log.trim(keep_after=900, droppable=1000, bytes_max=1 << 20)
    assert (log.base, log.end, log.payload_bytes) == (900, 1000, 1000)


def test_the_byte_bound_goes_before_what_should_be_kept():
    """Over the bound, entries go although somebody may want them, but never those not droppable."""
    log = filled(100)
    log.trim(keep_after=0, droppable=80, bytes_max=500)
    assert (log.base, log.payload_bytes) == (50, 500)
    log.trim(keep_after=0, droppable=80, bytes_max=1)
    assert (log.base, log.payload_bytes) == (80, 200)


@given(st.lists(st.tuples(st.sampled_from(["append", "truncate", "trim", "reset"]), st.integers(0, 400)), max_size=30))
def test_bytes_and_indexes_agree_with_the_entries(steps):
    """Whatever is done to it, the log counts its bytes right and its entries have no gap."""
    log = Log()
    for step, number in steps:
        if step == "append":
            for _ in range(number):
                log.append(Entry(1, log.end + 1, b"x" * (log.end % 7)))
        elif step == "truncate":
            log.truncate(max(log.base, log.end - number))
        elif step == "trim":
            log.trim(log.end - number, log.end - number // 2, number)
        else:
            log.reset(number, 1)
        entries = log.between(log.base, log.end)
        assert [entry.index for entry in entries] == list(range(log.base + 1, log.end + 1))
        assert log.payload_bytes == sum(len(entry.payload) for entry in entries)
