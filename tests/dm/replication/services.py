"""Classes that the tests of replication run on real clusters."""

from __future__ import annotations

import time
from typing import Any

import amino


class Counters:
    """Counters by key, and every change that was ever made, in order."""

    def __init__(self) -> None:
        self.values: dict[str, int] = {}
        self.changes: list[tuple[str, int]] = []

    def add(self, key: str, who: str, number: int) -> int:
        """Add one to ``key`` and return it; ``who`` and ``number`` name this change."""
        self.values[key] = self.values.get(key, 0) + 1
        self.changes.append((who, number))
        return self.values[key]

    @amino.readonly
    def get(self, key: str) -> int:
        """Return the counter."""
        return self.values.get(key, 0)

    @amino.readonly
    def all_changes(self) -> list[tuple[str, int]]:
        """Return every change."""
        return self.changes

    @amino.readonly
    def total(self) -> int:
        """Return how many changes there are."""
        return len(self.changes)


class Worldly:
    """Uses what lies outside, as a replicated class should: through Amino."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def look(self, other: Counters) -> list[Any]:
        """Take time, chance, the order of a set and another microservice's answer into the state."""
        words = {f"word-{number}" for number in range(20)}
        found = [amino.now(), amino.random().random(), list(words), other.add("looked", "worldly", len(self.seen))]
        self.seen.append(found)
        return found

    def refuse(self, other: Counters) -> None:
        """Change the state, then raise what depends on the outside."""
        self.seen.append(other.add("refused", "worldly", len(self.seen)))
        raise ValueError(f"seen {self.seen[-1]}")

    @amino.readonly
    def all_seen(self) -> list[Any]:
        """Return everything taken."""
        return self.seen


class Cheat:
    """Asks the world behind Amino's back."""

    def __init__(self) -> None:
        self.marks: list[float] = []

    def mark(self) -> float:
        """Put a clock's reading into state and result."""
        self.marks.append(time.perf_counter())
        return self.marks[-1]

    def mark_silently(self) -> int:
        """Put a clock's reading into the state alone."""
        self.marks.append(time.perf_counter())
        return len(self.marks)

    @amino.readonly
    def all_marks(self) -> list[float]:
        """Return the readings."""
        return self.marks


class Blob:
    """Holds so many bytes, and counts."""

    def __init__(self, size: int = 0) -> None:
        self.content = bytes(size)
        self.value = 0

    def add(self) -> int:
        """Count one on."""
        self.value += 1
        return self.value

    @amino.readonly
    def get(self) -> int:
        """Return the count."""
        return self.value


class Whereabouts:
    """Tells where it is."""

    @amino.readonly
    def host(self) -> str:
        """Return the name of the server that runs this."""
        return amino.current().server
