"""The table of answered requests."""

from __future__ import annotations

import pytest

from amino.contracts.calls import RequestId
from amino.errors import Invalid, OutcomeUnknown, Overloaded
from amino.kernel.answered import Answer, AnsweredTable


def admit(table, sequence, *, client="c", path=(), floor=1, attempt=0, age_s=0.0, digest=5, now=0.0):
    request = RequestId(client, "m", sequence, path)
    return table.admit(request, floor=floor, attempt=attempt, age_s=age_s, digest=digest, now=now)


def settle(table, sequence, content=b"r", *, client="c", path=(), digest=5):
    table.settle(RequestId(client, "m", sequence, path), digest, Answer(0, b"", (content,)))


def test_a_retry_gets_the_saved_answer():
    """What was settled is returned and not run again."""
    table = AnsweredTable()
    assert admit(table, 1) is None
    settle(table, 1)
    assert admit(table, 1, attempt=1, age_s=200.0) == Answer(0, b"", (b"r",))


def test_nested_requests_are_answered_one_by_one():
    """Requests of one root differ by their path."""
    table = AnsweredTable()
    admit(table, 1, path=(1,))
    settle(table, 1, b"a", path=(1,))
    assert admit(table, 1, path=(1, 2)) is None
    assert admit(table, 1, path=(1,)).segments == (b"a",)


@pytest.mark.parametrize("floor", [4, 1000])
def test_below_the_floor_nothing_runs(floor):
    """A raised floor forgets answers (few or many), and what is below it is never run."""
    table = AnsweredTable()
    for sequence in range(1, 4):
        admit(table, sequence)
        settle(table, sequence)
    assert admit(table, floor, floor=floor) is None
    assert len(table) == 0
    with pytest.raises(OutcomeUnknown, match=f"floor {floor}"):
        admit(table, 3, floor=1)


def test_a_floor_that_falls_back_changes_nothing():
    """Frames arrive in any order; the highest floor counts."""
    table = AnsweredTable()
    admit(table, 9, floor=9)
    admit(table, 12, floor=2)
    with pytest.raises(OutcomeUnknown):
        admit(table, 8, floor=2)


def test_an_answer_that_comes_after_its_floor_is_not_kept():
    """A client that gave a call up does not fill the table."""
    table = AnsweredTable()
    admit(table, 1)
    admit(table, 2, floor=2)
    settle(table, 1)
    assert len(table) == 0


def test_one_id_names_one_call():
    """The same id with another digest is refused."""
    table = AnsweredTable()
    admit(table, 1)
    settle(table, 1)
    with pytest.raises(Invalid, match="another method"):
        admit(table, 1, digest=6)


def test_an_old_retry_of_an_unknown_client_may_have_run():
    """Beyond half the horizon a retry of a client that is not on record is not run; a young or first send is."""
    with pytest.raises(OutcomeUnknown, match="not on record"):
        admit(AnsweredTable(100.0), 1, attempt=1, age_s=50.0)
    assert admit(AnsweredTable(100.0), 1, attempt=1, age_s=49.0) is None
    assert admit(AnsweredTable(100.0), 1, attempt=0, age_s=99.0) is None


def test_a_full_table_is_overloaded_until_clients_are_forgotten():
    """Entries and bytes are bounded; past the horizon the silent client's answers go."""
    for table in (AnsweredTable(10.0, entries_max=2), AnsweredTable(10.0, bytes_max=2)):
        for sequence in (1, 2):
            admit(table, sequence)
            settle(table, sequence)
        with pytest.raises(Overloaded, match="2 answers"):
            admit(table, 1, client="d")
        assert admit(table, 1, client="d", now=11.0) is None
        assert len(table) == 0


def test_clients_are_bounded_too():
    """Clients that leave no answers behind cannot fill the memory, nor make every admission search all of them."""
    table = AnsweredTable(10.0, entries_max=3)
    for number in range(3):
        admit(table, 1, client=f"c{number}")
    with pytest.raises(Overloaded, match="3 clients"):
        admit(table, 1, client="more")
    assert admit(table, 1, client="c0") is None
    assert admit(table, 1, client="more", now=11.0) is None


def test_the_table_travels_with_the_state():
    """A restored table answers and refuses as the one before; contact times restart."""
    table = AnsweredTable(10.0)
    admit(table, 5, floor=4)
    settle(table, 5)
    other = AnsweredTable(10.0, entries_max=1)
    other.restore(table.snapshot(), 100.0)
    assert admit(other, 5, floor=4, now=105.0) == Answer(0, b"", (b"r",))
    with pytest.raises(OutcomeUnknown):
        admit(other, 3, now=105.0)
    with pytest.raises(Overloaded):
        admit(other, 6, now=109.0)
    assert admit(other, 1, client="d", now=120.0) is None
