"""The classes that workloads run as microservices: plain Python, nothing about Amino but marks.

Owns what they do. Leaves calling and recording to the workloads.
Invariants: each state is a dictionary by key, which managers that shard can divide; what ``close`` has returned stays as it is.
Failure behaviour: methods refuse by what they return, never by raising.
"""

from __future__ import annotations

import amino


class Cells:
    """One value under each key."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}

    @amino.key
    def write(self, key: str, value: str) -> None:
        """Set the value."""
        self.values[key] = value

    @amino.key
    def swap(self, key: str, value: str) -> str | None:
        """Set the value; return the one before."""
        before = self.values.get(key)
        self.values[key] = value
        return before

    @amino.key
    @amino.readonly
    def read(self, key: str) -> str | None:
        """Return the value."""
        return self.values.get(key)

    @amino.key
    def forget(self, key: str) -> None:
        """Drop a key that nobody uses any more. Idempotent."""
        self.values.pop(key, None)


class Counters:
    """A counter under each key, and which additions made it, in order."""

    def __init__(self) -> None:
        self.log: dict[str, list[str]] = {}
        self.closed: dict[str, bool] = {}

    @amino.key
    def add(self, key: str, token: str) -> int | None:
        """Add one and return the count; None, and nothing is added, if the counter is closed."""
        if key in self.closed:
            return None
        self.log.setdefault(key, []).append(token)
        return len(self.log[key])

    @amino.key
    @amino.readonly
    def read(self, key: str) -> int:
        """Return the count."""
        return len(self.log.get(key, []))

    @amino.key
    def close(self, key: str) -> list[str]:
        """Let nobody add any more; return the additions in order. Idempotent."""
        self.closed[key] = True
        return list(self.log.get(key, []))

    @amino.key
    def forget(self, key: str) -> None:
        """Drop the log of a closed counter. Idempotent."""
        if key in self.closed:
            self.log.pop(key, None)
