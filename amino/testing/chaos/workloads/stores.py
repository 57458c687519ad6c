"""More classes that workloads run as microservices: sets, queues, entries, accounts and lists.

Owns what they do. Leaves calling and recording to the workloads.
Invariants: as ``services``.
Failure behaviour: methods refuse by what they return, never by raising.
"""

from __future__ import annotations

import amino


class Sets:
    """A set that only grows under each key."""

    def __init__(self) -> None:
        self.elements: dict[str, list[str]] = {}
        self.closed: dict[str, bool] = {}

    @amino.key
    def add(self, key: str, element: str) -> bool:
        """Put an element in; returns whether it was done: not if the set is closed."""
        if key in self.closed:
            return False
        self.elements.setdefault(key, []).append(element)
        return True

    @amino.key
    @amino.readonly
    def all(self, key: str) -> list[str]:
        """Return every element, as often as it was added."""
        return list(self.elements.get(key, []))

    @amino.key
    def close(self, key: str) -> list[str]:
        """Let nobody add any more; return every element. Idempotent."""
        self.closed[key] = True
        return self.all(key)

    @amino.key
    def forget(self, key: str) -> None:
        """Drop the elements of a closed set. Idempotent."""
        if key in self.closed:
            self.elements.pop(key, None)


class Queues:
    """A queue under each key, and who took what."""

    def __init__(self) -> None:
        self.inside: dict[str, list[str]] = {}
        self.taken: dict[str, list[list[str | None]]] = {}
        self.closed: dict[str, bool] = {}

    @amino.key
    def put(self, key: str, value: str) -> bool:
        """Put a value at the end; returns whether it was done: not if the queue is closed."""
        if key in self.closed:
            return False
        self.inside.setdefault(key, []).append(value)
        return True

    @amino.key
    def take(self, key: str, token: str) -> list[str | None] | None:
        """Take the first value out and return it in a list, ``[None]`` if there is none; None if the queue is closed."""
        if key in self.closed:
            return None
        inside = self.inside.get(key)
        value = inside.pop(0) if inside else None
        self.taken.setdefault(key, []).append([token, value])
        return [value]

    @amino.key
    def close(self, key: str) -> list[list[list[str | None]] | list[str]]:
        """Let nobody do anything any more; return who took what, and what is left. Idempotent."""
        self.closed[key] = True
        return [list(self.taken.get(key, [])), list(self.inside.get(key, []))]

    @amino.key
    def forget(self, key: str) -> None:
        """Drop a closed queue. Idempotent."""
        if key in self.closed:
            self.inside.pop(key, None)
            self.taken.pop(key, None)


class Entries:
    """An entry under each key: who wrote it, and what."""

    def __init__(self) -> None:
        self.entries: dict[str, list[str | None]] = {}

    @amino.key
    def put(self, key: str, token: str) -> None:
        """Write an entry; its value follows from the token."""
        self.entries[key] = [token, f"value of {token}"]

    @amino.key
    def delete(self, key: str, token: str) -> None:
        """Remove the value; who did it stays."""
        self.entries[key] = [token, None]

    @amino.key
    def replace(self, key: str, change: list[str | None]) -> bool:
        """Write an entry if the present one was written by a certain token: ``[expected, token]``; returns whether it was."""
        expected, token = change
        if self.entries.get(key, [None, None])[0] != expected:
            return False
        self.entries[key] = [token, f"value of {token}"]
        return True

    @amino.key
    @amino.readonly
    def get(self, key: str) -> list[str | None]:
        """Return who wrote the entry, and its value."""
        return list(self.entries.get(key, [None, None]))

    @amino.key
    def forget(self, key: str) -> None:
        """Drop an entry that nobody uses any more. Idempotent."""
        self.entries.pop(key, None)


class Bank:
    """Accounts of whole amounts, and which transfers were done.

    Args:
        accounts: how many. each: what each holds in the beginning.
    """

    def __init__(self, accounts: int, each: int) -> None:
        self.holds = [each] * accounts
        self.done: dict[str, list[str]] = {}
        self.closed: dict[str, bool] = {}

    def transfer(self, key: str, order: list[int | str]) -> bool:
        """Move money between two accounts: ``[source, target, amount, token]``; not if too little is there, or closed."""
        source, target, amount, token = order
        assert isinstance(source, int)
        assert isinstance(target, int)
        assert isinstance(amount, int)
        if key in self.closed or self.holds[source] < amount:
            return False
        self.holds[source] -= amount
        self.holds[target] += amount
        self.done.setdefault(key, []).append(str(token))
        return True

    def change(self, account: int, amount: int) -> bool:
        """Put money into an account, or take it out; not if too little is there. One half of a transfer."""
        if self.holds[account] + amount < 0:
            return False
        self.holds[account] += amount
        return True

    def sign(self, key: str, token: str) -> bool:
        """Note that a transfer is done; not if closed."""
        if key in self.closed:
            return False
        self.done.setdefault(key, []).append(token)
        return True

    @amino.readonly
    def balances(self) -> list[int]:
        """Return what all accounts hold at one moment."""
        return list(self.holds)

    def close(self, key: str) -> list[str]:
        """Let nobody do transfers under ``key`` any more; return those that were done. Idempotent."""
        self.closed[key] = True
        return list(self.done.get(key, []))

    def forget(self, key: str) -> None:
        """Drop the notes under a closed key. Idempotent."""
        if key in self.closed:
            self.done.pop(key, None)


class Lists:
    """A list under each key."""

    def __init__(self) -> None:
        self.lists: dict[str, list[str]] = {}

    @amino.key
    def append(self, key: str, value: str) -> int:
        """Put ``value`` at the end; return how long the list is."""
        self.lists.setdefault(key, []).append(value)
        return len(self.lists[key])

    @amino.key
    @amino.readonly
    def read(self, key: str) -> list[str]:
        """Return the list."""
        return list(self.lists.get(key, []))

    @amino.key
    def forget(self, key: str) -> None:
        """Drop a list that nobody uses any more. Idempotent."""
        self.lists.pop(key, None)
