"""The bounded history tells floods as a few events and their number."""

from amino.contracts.documents import EventRecord
from amino.oms.events import ALIKE_MAX, summed_up


def test_few_events_are_told_as_they_are():
    """Nothing is lost when little happens."""
    events = [EventRecord("created", float(n), f"m{n}") for n in range(ALIKE_MAX)]
    assert summed_up(events) == events


def test_a_flood_of_one_kind_leaves_room_for_the_others():
    """The first are told one by one, the rest by their number; rarer kinds stay, in order."""
    events = [EventRecord("created", float(n), f"m{n}") for n in range(500)]
    events.insert(300, EventRecord("server-lost", 300.5, server="s1"))
    told = summed_up(events)
    assert [event.kind for event in told] == ["created"] * ALIKE_MAX + ["server-lost", "created"]
    assert told[-1].text == f"and {500 - ALIKE_MAX} more"
