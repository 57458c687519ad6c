"""Calls and values of Amino's own, beside those of the user's class: timers that fire, events that are read.

Owns their names and shapes. Leaves running them to ``kernel.own_calls``.
Invariant: they pass the server components of all managers, like calls of methods.
Failure behaviour: none.
"""

from __future__ import annotations

import msgspec

OWN_CALL = ":kernel:"
FIRE_CALL = f"{OWN_CALL}fire:"
"""Followed by the name of the method that the timer calls; arguments: name and id of the timer, number of the occurrence."""
EVENTS_CALL = f"{OWN_CALL}events"
"""Arguments: token to go on from (or ``newest``, ``oldest``), topic (empty for all), most events, seconds to wait for one; then perhaps
the name of a shard that has left, whose events are asked for."""
NEWEST, OLDEST = "newest", "oldest"


class Firing(msgspec.Struct, frozen=True):
    """The occurrence of a timer that a method runs for.

    Args:
        name: of the timer.
        due: wall-clock time that it was due.
        number: of this occurrence, from 0.
        missed: how many occurrences before it were passed over.
    """

    name: str
    due: float
    number: int
    missed: int


class TimerInfo(msgspec.Struct, frozen=True):
    """A timer that is set.

    Args:
        due: wall-clock time of its next occurrence. every_s: seconds between occurrences, None for only one.
        missed: what happens to occurrences that were missed: ``fire``, ``skip`` or ``coalesce``.
    """

    name: str
    method: str
    due: float
    every_s: float | None
    missed: str


class Missed(msgspec.Struct, frozen=True):
    """Events that a reader will never get: ``first`` to ``last``, by number.

    Args:
        why: ``dropped`` (never delivered to it) or ``lost`` (delivered, and gone with the state that held them).
    """

    why: str
    first: int
    last: int
