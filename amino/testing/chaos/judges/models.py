"""What objects do when they are called one call at a time, and what a whole history tells about calls that were not answered.

Owns two models: a cell (its values are unique) and a counter. Leaves searching for an order to ``linearizability``.
Invariants: pure; settling an unknown outcome never changes whether a history is linearizable (the reasons stand beside it).
Failure behaviour: a history that breaks the rules of recording (a value written twice) is ``ValueError``.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from amino.testing.chaos.history import Operation


class Unsaid:
    """Of a call that does not tell the state it leaves."""


UNSAID = Unsaid()


class Model(Protocol):
    """What one part of an object (what one key names) does.

    Attributes:
        name: for texts. initial: the state before anything happened.
    """

    name: str
    initial: Hashable

    def step(self, state: Any, operation: Operation, whole: bool) -> tuple[bool, Hashable]:
        """Return whether the call fits in ``state``, and the state after it.

        Args:
            whole: False: calls were left out of the history; whatever they might explain fits.
        """

    def after(self, operation: Operation) -> Hashable | Unsaid:
        """Return the state that a call leaves if no other runs beside it."""

    def settle(self, operations: Sequence[Operation]) -> list[Operation]:
        """Return one key's calls without those that did not happen, and with what is known of the others."""

    def needs(self, operation: Operation) -> Hashable | None:
        """Return what another call must have written for this one to be possible; None: nothing."""

    def gives(self, operation: Operation) -> Hashable | None:
        """Return what other calls may need of this one; None: nothing."""


class Cell:
    """Holds one value: ``write(value)``, ``swap(value)`` returning the one before, ``read``. No value is written twice.

    Unknown outcomes are settled: a value that nobody was told leaves no trace, since whatever came after it wrote over it
    unseen, so leaving the call out changes nothing; one that somebody was told was written before that answer came.
    """

    name = "cell"
    initial: Hashable = None

    def step(self, state: Any, operation: Operation, whole: bool) -> tuple[bool, Hashable]:  # noqa: ARG002 - as Model
        """See ``Model``. What was left out of a part of a history was never read in it, so it explains nothing."""
        if operation.function == "read":
            return state == operation.value, state
        if operation.function == "swap":
            return operation.outcome != "ok" or state == operation.value, operation.argument
        return True, operation.argument

    def after(self, operation: Operation) -> Hashable | Unsaid:
        """See ``Model``."""
        answer: Hashable = operation.value if operation.function == "read" else operation.argument
        return answer

    def settle(self, operations: Sequence[Operation]) -> list[Operation]:
        """See ``Model``."""
        told: dict[Hashable, float] = {}
        written: set[Hashable] = set()
        for one in operations:
            if one.function != "read":
                if one.argument in written:
                    raise ValueError(f"{one.argument!r} is written twice to {one.key!r}")
                written.add(one.argument)
            if one.outcome == "ok" and one.function in ("read", "swap"):
                told[one.value] = min(told.get(one.value, math.inf), one.ended_s)
        settled = []
        for one in operations:
            if one.outcome == "ok":
                settled.append(one)
            elif one.outcome == "unknown" and one.function != "read" and one.argument in told:
                ended_s = max(told[one.argument], one.began_s)  # an answer before it began is for the search to refuse
                settled.append(msgspec.structs.replace(one, function="write", outcome="ok", ended_s=ended_s))
        return settled

    def needs(self, operation: Operation) -> Hashable | None:
        """See ``Model``."""
        answer: Hashable = operation.value if operation.function in ("read", "swap") else None
        return answer

    def gives(self, operation: Operation) -> Hashable | None:
        """See ``Model``."""
        answer: Hashable = operation.argument if operation.function != "read" else None
        return answer


class Counter:
    """Counts: ``add(token)`` returns the new count, ``read`` the count.

    Args:
        log: of each key, the tokens of all additions in the order in which they were made, as read in the end; None if that
            could not be read: then unknown outcomes stay so. It settles them: an addition that is not in it never happened, one
            that is has its place, and happened before anybody was told that count or a higher one.
    """

    name = "counter"
    initial: Hashable = 0

    def __init__(self, log: Mapping[str, Sequence[str]] | None = None) -> None:
        self._log = log

    def step(self, state: Any, operation: Operation, whole: bool) -> tuple[bool, Hashable]:
        """See ``Model``. In a part of a history, others may have added."""
        if operation.function == "read":
            return (state == operation.value if whole else state <= operation.value), operation.value
        if operation.outcome != "ok":
            return True, state + 1 if whole else state
        fits = state + 1 == operation.value if whole else state < operation.value
        return fits, operation.value

    def after(self, operation: Operation) -> Hashable | Unsaid:
        """See ``Model``."""
        answer: Hashable | Unsaid = operation.value if operation.outcome == "ok" else UNSAID
        return answer

    def settle(self, operations: Sequence[Operation]) -> list[Operation]:
        """See ``Model``."""
        known = [one for one in operations if one.outcome == "ok"]
        pending = [one for one in operations if one.outcome == "unknown" and one.function != "read"]
        if self._log is None:
            return sorted(known + pending, key=lambda one: one.index)
        log = self._log.get(operations[0].key, ()) if operations else ()
        places = {token: place for place, token in enumerate(log, 1)}
        least_s = _earliest_at_least(known)
        for one in pending:
            place = places.get(one.argument)
            if place is not None:
                ended_s = max(least_s(place), one.began_s)
                known.append(msgspec.structs.replace(one, outcome="ok", value=place, ended_s=ended_s))
        return sorted(known, key=lambda one: one.index)

    def needs(self, operation: Operation) -> Hashable | None:  # noqa: ARG002 - as Model
        """See ``Model``: in a part of a history, no addition needs another one."""
        return None

    def gives(self, operation: Operation) -> Hashable | None:  # noqa: ARG002 - as Model
        """See ``Model``."""
        return None


class _earliest_at_least:  # noqa: N801 - called like a function
    """When anybody was first told a count of at least so many."""

    def __init__(self, operations: Iterable[Operation]) -> None:
        told = sorted(((one.value, one.ended_s) for one in operations), reverse=True)
        self._counts: list[int] = []
        self._ends: list[float] = []
        earliest_s = math.inf
        for count, ended_s in told:
            earliest_s = min(earliest_s, ended_s)
            self._counts.append(-count)
            self._ends.append(earliest_s)

    def __call__(self, count: int) -> float:
        place = bisect_right(self._counts, -count) - 1
        return self._ends[place] if place >= 0 else math.inf
