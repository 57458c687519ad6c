"""The events of one object: the last ones it emitted, numbered, and the history they belong to.

Owns keeping, dropping and reading them; pure. Leaves waiting for new ones to ``own_calls`` and the API to ``stubs.events``.
Invariants: numbers grow by one from 1; an event can be read only once the call that emitted it, or a later one, has passed
all managers; a token tells a number and the branch of history it was read in, so that what was read and then lost with
the state is noticed.
Failure behaviour: when full, the oldest are dropped, and who comes too late is told which.

A branch begins whenever the state goes back to a checkpoint; its id is the epoch of the placement that did it.
"""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple

from amino.contracts.own import NEWEST, OLDEST, Missed
from amino.errors import Invalid

BRANCHES_MAX = 64


class Kept(NamedTuple):
    """One event."""

    number: int
    topic: str
    payload: bytes


class Batch(NamedTuple):
    """What a reader gets.

    Args:
        events: with their tokens, in order.
        token: where to go on.
        missed: what it will never get, None for nothing; the events follow what was missed.
    """

    events: list[tuple[str, Kept]]
    token: str
    missed: Missed | None


def token_of(branch: int, number: int) -> str:
    """Return the token of an event."""
    return f"{branch}-{number}"


def parsed(token: str) -> tuple[int, int]:
    """Return branch and number of a token. Raises ``Invalid`` for what is none."""
    branch, _, number = token.partition("-")
    if not (branch.isdigit() and number.isdigit()):
        raise Invalid(f"{token!r} is no token of an event; use one that an event had, {NEWEST!r} or {OLDEST!r}")
    return int(branch), int(number)


class Outbox:
    """Events of one object. Its owner sees to it that one thread uses it at a time."""

    def __init__(self, branch: int) -> None:
        self._branches = [(branch, 1)]
        self._kept: deque[Kept] = deque()
        self._bytes = 0
        self.last = 0
        self.settled = 0
        self.released = 0

    def __repr__(self) -> str:
        return f"Outbox({len(self._kept)} events to {self.last}, released to {self.released})"

    @property
    def size(self) -> int:
        """Bytes of the payloads kept."""
        return self._bytes

    def drop_all(self) -> None:
        """Keep no event any more; readers are told what they missed."""
        self._kept.clear()
        self._bytes = 0

    def emit(self, topic: str, payload: bytes, *, kept_max: int, bytes_max: int) -> None:
        """Add an event, dropping the oldest beyond the bounds."""
        self.last += 1
        self._kept.append(Kept(self.last, topic, payload))
        self._bytes += len(payload)
        while self._kept and (len(self._kept) > kept_max or self._bytes > bytes_max):
            self._bytes -= len(self._kept.popleft().payload)

    def begin_branch(self, branch: int) -> None:
        """The state went back to a checkpoint: what comes from now on is another history than was perhaps read before."""
        if self._branches[-1][1] > self.last:  # nothing was emitted in it, so nobody has a token of it
            self._branches.pop()
        self._branches.append((branch, self.last + 1))
        del self._branches[:-BRANCHES_MAX]

    def read(self, after: str, topic: str, events_max: int, bytes_max: int) -> Batch:
        """Return released events after a token, at most so many (and so many bytes, but at least one)."""
        position, missed = self._begin(after)
        events: list[tuple[str, Kept]] = []
        size = 0
        for event in self._kept:
            if event.number <= position:
                continue
            if event.number > self.released or len(events) >= events_max or (events and size >= bytes_max):
                break
            position = event.number
            if not topic or event.topic == topic:
                events.append((self._token(event.number), event))
                size += len(event.payload)
        return Batch(events, self._token(position), missed)

    def has_news(self, after: str) -> bool:
        """Return whether a reader at ``after`` need not wait."""
        if after in (NEWEST, OLDEST):
            return True
        branch, number = parsed(after)
        return self.released > number or self._lost(branch, number) is not None

    def _begin(self, after: str) -> tuple[int, Missed | None]:
        if after == NEWEST:
            return self.released, None
        oldest = self._kept[0].number if self._kept else self.last + 1
        if after == OLDEST:
            return oldest - 1, None
        branch, number = parsed(after)
        lost = self._lost(branch, number)
        if lost is not None:
            return max(lost, oldest) - 1, Missed("lost", lost, max(number, oldest - 1))
        if number + 1 < oldest:
            return oldest - 1, Missed("dropped", number + 1, oldest - 1)
        return number, None

    def _lost(self, branch: int, number: int) -> int | None:
        """Return the first number that was read in another history than this one, None if all was in this one."""
        if number == 0:
            return None
        for index, (each, _) in enumerate(self._branches):
            if each == branch:
                following = self._branches[index + 1][1] if index + 1 < len(self._branches) else None
                return following if following is not None and number >= following else None
        # a history that was lost before anything of it was kept: the one that followed it began at the same number
        starts = [start for each, start in self._branches if each > branch]
        lost = starts[0] if starts else 1
        return lost if number >= lost else None

    def _token(self, number: int) -> str:
        branch = self._branches[0][0]
        for each, start in self._branches:
            if number >= start:
                branch = each
        return token_of(branch, number)

    def snapshot(self) -> dict[str, Any]:
        """Return everything as plain data."""
        return {"branches": self._branches, "events": [tuple(each) for each in self._kept], "last": self.last}

    @classmethod
    def restored(cls, data: dict[str, Any]) -> Outbox:
        """Return what ``snapshot`` returned; what it holds may be read: it survived."""
        outbox = cls(0)
        outbox._branches = [(branch, start) for branch, start in data["branches"]]
        outbox._kept = deque(Kept(*each) for each in data["events"])
        outbox._bytes = sum(len(each.payload) for each in outbox._kept)
        outbox.last = outbox.settled = outbox.released = data["last"]
        return outbox
