"""What must always be true of a replicated object, checked while a simulation runs.

The object is a list of unique operations; its state is how many there are and a chain of their hashes, so that one number
says where in the one true order a write or a read took place.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field


class Violation(AssertionError):
    """A promise was broken; the message names it."""


State = tuple[int, int]
EMPTY: State = (0, 0)


def following(state: State, operation: bytes) -> State:
    """Return the state after ``operation``."""
    return state[0] + 1, zlib.crc32(operation, state[1])


@dataclass
class Call:
    """One operation of a client. ``floor`` and ``epoch``: what had been completed when it began."""

    name: bytes
    kind: str
    floor: int
    epoch: int
    outcome: str = ""


@dataclass
class Oracle:
    """The one true order, as it becomes known, and what was completed."""

    truth: list[tuple[int, bytes]] = field(default_factory=list)
    states: list[State] = field(default_factory=lambda: [EMPTY])
    completed: int = 0
    completed_epoch: int = 0
    writes: int = 0
    reads: int = 0

    def began(self, name: bytes, kind: str) -> Call:
        """Return a new call."""
        return Call(name, kind, self.completed, self.completed_epoch)

    def committed(self, who: str, index: int, epoch: int, payload: bytes) -> None:
        """Check that a replica's committed entry is everybody's."""
        if index <= len(self.truth):
            if self.truth[index - 1] != (epoch, payload):
                raise Violation(
                    f"{who} committed {payload!r} of epoch {epoch} at {index}, which is {self.truth[index - 1]}"
                )
            return
        if index != len(self.truth) + 1:
            raise Violation(f"{who} committed {index} before {len(self.truth) + 1}")
        self.truth.append((epoch, payload))
        self.states.append(following(self.states[-1], payload))

    def wrote(self, call: Call, epoch: int, state: State) -> None:
        """Check a released write: it is in the true order, after all that was completed before it began."""
        position = state[0]
        if position > len(self.truth) or self.truth[position - 1][1] != call.name or self.states[position] != state:
            raise Violation(f"acknowledged write {call.name!r} is not the operation {position} of the true order")
        if position <= call.floor:
            raise Violation(
                f"write {call.name!r} took place at {position}, but {call.floor} was completed before it began"
            )
        self._complete(call, epoch, position)
        self.writes += 1

    def read(self, call: Call, epoch: int, state: State) -> None:
        """Check a released read: committed state only, nothing older than what was completed before it began."""
        position = state[0]
        if position > len(self.truth) or self.states[position] != state:
            raise Violation(f"read of {state}, which was never committed")
        if position < call.floor:
            raise Violation(f"stale read: {position} operations, but {call.floor} were completed before it began")
        if epoch < self.completed_epoch:
            raise Violation(f"a primary of epoch {epoch} let read after one of epoch {self.completed_epoch}")
        self._complete(call, epoch, position)
        self.reads += 1

    def _complete(self, call: Call, epoch: int, position: int) -> None:
        if epoch < call.epoch:
            raise Violation(f"a primary of epoch {epoch} completed a call that began after epoch {call.epoch} served")
        call.outcome = "done"
        self.completed = max(self.completed, position)
        self.completed_epoch = max(self.completed_epoch, epoch)
