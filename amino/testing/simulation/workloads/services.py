"""The classes that the workload runs: objects that remember exactly what was done to them.

Owns counting executions per call. Leaves judging to ``checks``.
Invariant: ``add`` notes each token as often as it runs; state stays small however many calls there are.
Failure behaviour: none.
"""

from __future__ import annotations

from typing import Any

import amino


class Ledger:
    """Counts calls, and knows which ones it has seen: for each client a bit per call."""

    def __init__(self) -> None:
        self.seen: dict[str, int] = {}
        self.doubled: list[tuple[str, int]] = []
        self.total = 0

    def add(self, client: str, number: int) -> tuple[str, int, int]:
        """Note call ``number`` of ``client``; returns both, and how many calls there were."""
        seen, bit = self.seen.get(client, 0), 1 << number
        if seen & bit:
            self.doubled.append((client, number))
        self.seen[client] = seen | bit
        self.total += 1
        return client, number, self.total

    async def pass_on(self, client: str, number: int, other: Any) -> tuple[str, int, int]:
        """As ``add``, and ``other.add`` too, before it."""
        await amino.aio(other.add)(client, number)
        return self.add(client, number)

    async def around(self, client: str, number: int, other: Any, me: Any) -> tuple[str, int, int]:
        """Call ``other``, which calls this object again while this call is under way."""
        await other.look_back(me)
        return self.add(client, number)

    @amino.readonly
    async def look_back(self, caller: Any) -> int:
        """Read the caller's total."""
        return int(await amino.aio(caller.count)())

    @amino.readonly
    def count(self) -> int:
        """Return how many calls there were."""
        return self.total

    @amino.readonly
    def audit(self) -> tuple[dict[str, int], list[tuple[str, int]], int]:
        """Return everything."""
        return self.seen, self.doubled, self.total


class Scratch:
    """An object whose state may be lost."""

    def __init__(self) -> None:
        self.value = 0

    def put(self, value: int) -> int:
        """Set the value."""
        self.value = value
        return value

    @amino.readonly
    async def echo(self, value: int) -> int:
        """Return ``value``."""
        return value


class Books:
    """Lists under keys, and accounts: what transactions change.

    Args:
        accounts: how many. each: what each holds at first.
    """

    def __init__(self, accounts: int, each: int) -> None:
        self.lists: dict[str, list[str]] = {}
        self.balances = [each] * accounts

    def append(self, key: str, value: str) -> None:
        """Put ``value`` at the end of a list."""
        self.lists.setdefault(key, []).append(value)

    @amino.readonly
    def read(self, key: str) -> list[str]:
        """Return a list."""
        return list(self.lists.get(key, []))

    def move(self, account: int, amount: int) -> None:
        """Put money into an account, or take it out."""
        self.balances[account] += amount

    @amino.readonly
    def total(self) -> int:
        """Return what all accounts hold."""
        return sum(self.balances)
