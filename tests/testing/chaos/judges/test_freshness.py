"""The judges of reads that may be old."""

from __future__ import annotations

import pytest

from amino.testing.chaos.judges.freshness import bounded_staleness, read_your_writes
from tests.testing.chaos.histories import Cells, did, right


@pytest.mark.parametrize("seed", range(10))
def test_right_histories_pass(seed):
    """What one cell answered is never old."""
    history = right(seed, Cells())
    assert bounded_staleness(history, 0.0).ok
    assert read_your_writes(history).ok


def writes():
    """Three writes by worker 0."""
    return [did(number, "write", "abc"[number], at=(10 * number, 10 * number + 1), worker=0) for number in range(3)]


def test_how_old_an_answer_is_counts_from_its_replacement():
    """A value may be read for as long as is allowed after the next one was written, and no longer."""
    stale = [*writes(), did(5, "read", None, "a", at=(13, 14), worker=1)]
    assert bounded_staleness(stale, 2.0).ok
    verdict = bounded_staleness(stale, 1.5)
    assert "2.000 s after" in verdict.text
    assert [one.argument for one in verdict.smallest] == ["a", "b", None]
    nothing = [*writes(), did(5, "read", None, None, at=(3, 4), worker=1)]
    assert bounded_staleness(nothing, 2.0).ok
    assert not bounded_staleness(nothing, 1.0).ok


def test_values_from_nowhere_are_caught():
    """What nobody wrote, and what was written only later, is not staleness."""
    assert "nobody wrote" in bounded_staleness([*writes(), did(5, "read", None, "z", at=(3, 4))], 99).text
    assert "before it was written" in bounded_staleness([*writes(), did(5, "read", None, "c", at=(3, 4))], 99).text


def test_workers_see_their_own_writes():
    """Somebody else may be shown an older value; who wrote a newer one may not."""
    other = did(5, "read", None, "a", at=(13, 14), worker=1)
    assert not read_your_writes([*writes(), did(5, "read", None, "a", at=(13, 14), worker=0)]).ok
    newer = did(6, "read", None, "c", at=(23, 24), worker=0)
    assert read_your_writes([*writes(), other, newer]).ok


def test_without_reads_nothing_is_proved():
    """Neither judge passes what it did not see."""
    assert bounded_staleness(writes(), 1).text.startswith("could not judge")
    assert read_your_writes(writes()).text.startswith("could not judge")
