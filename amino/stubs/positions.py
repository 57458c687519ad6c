"""Where a subscriber to a sharded microservice is: a place in the stream of each shard.

Owns the token and which streams are left to read; pure. Leaves reading to ``stubs.shard_events``.
Invariants: names of shards grow and are never used again, so a name is new, being read, or done with; a shard that is new is
read from its beginning, one that has left to its end.
Failure behaviour: a text that is no such token raises ``Invalid``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from amino.contracts.own import NEWEST, OLDEST
from amino.errors import Invalid

FIRST = "0"
"""The shard that a microservice becomes which had none, and that stays when it has none again."""
_TOKEN = re.compile(r"s(\d+)((?:;\d+=(?:\d+-\d+)?)*)")


class Positions:
    """Places in the streams of shards.

    Args:
        following: the lowest number that no known shard has; what is below and not in ``at`` has been read to its end.

    Attributes:
        at: shard -> token of its own stream, ``newest`` or ``oldest`` before the first answer.
    """

    def __init__(self, following: int = 0, at: dict[str, str] | None = None) -> None:
        self.following = following
        self.at = dict(at or {})

    def __repr__(self) -> str:
        return f"Positions({self})"

    def __str__(self) -> str:
        return f"s{self.following}" + "".join(
            f";{name}={'' if token in (NEWEST, OLDEST) else token}" for name, token in self.at.items()
        )

    @classmethod
    def parsed(cls, after: str) -> Positions:
        """Return the positions of a token, be it of shards or of one object that has none (``NEWEST``, ``OLDEST`` too).

        Raises:
            Invalid: it is none.
        """
        if after in (NEWEST, OLDEST):
            return cls()
        if not after.startswith("s"):  # it had no shards then
            return cls(int(FIRST) + 1, {FIRST: after})
        found = _TOKEN.fullmatch(after)
        if found is None:
            raise Invalid(f"{after!r} is no token of an event; use one that an event had, {NEWEST!r} or {OLDEST!r}")
        pairs = [each.partition("=") for each in found[2].split(";")[1:]]
        return cls(int(found[1]), {name: token or OLDEST for name, _, token in pairs})

    def learn(self, names: Iterable[str]) -> None:
        """Begin to read the shards among ``names`` that are new, and those named between: they may have come and gone."""
        for number in range(self.following, max((int(name) for name in names), default=-1) + 1):
            self.at[str(number)] = OLDEST
            self.following = number + 1

    def begin_at(self, names: Iterable[str], place: str) -> None:
        """Read exactly the shards ``names``, from ``place`` on; what left before is done with."""
        self.at = dict.fromkeys(sorted({*names}, key=int), place)
        self.skip(self.at)

    def pass_to(self, name: str, token: str, *, ended: bool) -> str:
        """Move forward in one stream, to its end perhaps; returns the token of all."""
        self.learn([name])
        self.at[name] = token
        if ended:
            self.end(name)
        return str(self)

    def end(self, name: str) -> None:
        """Be done with a shard that has left."""
        self.at.pop(name, None)

    def skip(self, names: Iterable[str]) -> None:
        """Be done with whatever shards among ``names`` are new."""
        self.following = max([self.following, *(int(name) + 1 for name in names)])
