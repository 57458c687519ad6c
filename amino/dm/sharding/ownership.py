"""Which keys a shard owns, through every change of shards: pure.

Owns the state of one shard in a change and its transitions. Leaves moving content to ``dht``.
Invariants: at any moment at most one shard of a microservice owns a key; what has been handed over is never owned again
by who gave it, in this change.
Failure behaviour: messages of older changes are refused; repeated ones change nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from amino.contracts.sharding import place_of, ring_of


class Verdict(Enum):
    """What a shard says to a key."""

    MINE = "mine"
    ON_ITS_WAY = "on its way here"
    ELSEWHERE = "elsewhere"


@dataclass(slots=True)
class Ownership:
    """One shard's part in the newest change of shards it heard of.

    Args:
        me: this shard's name.
        before, after: the shards of the change; both empty before any.
        version: of the change.
        handed: what leaves has been taken out.
        taken: how many parts of which source have been put in; a source that is complete counts -1.
    """

    me: str
    virtual_nodes: int
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    version: int = 0
    handed: bool = False
    taken: dict[str, int] = field(default_factory=dict)

    def begin(self, before: tuple[str, ...], after: tuple[str, ...], version: int) -> bool:
        """Hear of a change; returns whether it is new."""
        if version <= self.version:
            return False
        self.before, self.after, self.version = before, after, version
        self.handed = False
        self.taken = {}
        return True

    def owners(self, key: Any) -> tuple[str, str]:
        """Return the shards that own ``key`` before and after the change."""
        place = place_of(key)
        before, after = ring_of(self.before, self.virtual_nodes), ring_of(self.after, self.virtual_nodes)
        return before.owner_at(place), after.owner_at(place)

    def judge(self, key: Any) -> tuple[Verdict, str]:
        """Return what this shard says to ``key``, and which shard to ask if it is elsewhere."""
        if not self.version:
            return Verdict.MINE, self.me
        before, after = self.owners(key)
        if before == self.me:
            if after == self.me or not self.handed:
                return Verdict.MINE, self.me
            return Verdict.ELSEWHERE, after
        if after == self.me:
            return (Verdict.MINE, self.me) if self.taken.get(before) == -1 else (Verdict.ON_ITS_WAY, before)
        # whether it has left is known to who had it; the heir may be new, and not have heard that it does not own all keys
        return Verdict.ELSEWHERE, before

    def targets(self) -> list[str]:
        """Return the shards that keys of this one may go to in the change."""
        if self.me not in self.before:
            return []
        if self.me not in self.after:
            return [name for name in self.after if name != self.me]
        return [name for name in self.after if name not in self.before]

    def leaving_to(self, key: Any) -> str:
        """Return the shard that ``key`` goes to from this one; this one if it stays, or was never its own."""
        before, after = self.owners(key)
        return after if before == self.me else self.me

    def comes_from(self, source: str, key: Any) -> bool:
        """Return whether the change brings ``key`` here from ``source``."""
        return self.owners(key) == (source, self.me)

    def is_next(self, source: str, number: int) -> bool:
        """Return whether part ``number`` from ``source`` is the one to be put in now; repeated ones are not."""
        return self.taken.get(source, 0) == number

    def took(self, source: str, number: int, parts: int) -> None:
        """Note that part ``number`` of ``parts`` from ``source``, the next one, has been put in."""
        self.taken[source] = -1 if number + 1 == parts else number + 1
