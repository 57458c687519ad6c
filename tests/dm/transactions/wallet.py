"""A wallet, a service without ``TwoPhaseCommit``, and a teller whose method is a transaction."""

from __future__ import annotations

from typing import Any

import amino


class Wallet:
    """Holds money of one owner."""

    def __init__(self, balance: int = 100) -> None:
        self.balance = balance
        self.seen: list[str] = []

    def add(self, amount: int, note: str = "") -> int:
        """Put in, or take out."""
        if self.balance + amount < 0:
            raise ValueError("not enough")
        self.balance += amount
        if note:
            self.seen.append(note)
        return self.balance

    def cheat(self) -> float:
        """Ask the outside directly."""
        import random

        self.balance += 1
        return random.random()

    @amino.readonly
    def read(self) -> int:
        """The balance."""
        return self.balance

    @amino.readonly
    def notes(self) -> list[str]:
        """What was noted."""
        return list(self.seen)


class Teller:
    """Moves money between wallets."""

    def __init__(self) -> None:
        self.moved = 0

    @amino.transactional
    def move(self, source: Any, target: Any, amount: int) -> int:
        """Both or none."""
        source.add(-amount)
        target.add(amount)
        self.moved += 1
        return self.moved
