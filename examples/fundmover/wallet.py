"""The wallet: an ordinary class."""

from __future__ import annotations

import amino


class Wallet:
    """Holds money."""

    def __init__(self, balance: int = 0) -> None:
        self.balance = balance

    def add(self, amount: int) -> int:
        """Put in, or take out."""
        if self.balance + amount < 0:
            raise ValueError(f"only {self.balance} in the wallet")
        self.balance += amount
        return self.balance

    @amino.readonly
    def read(self) -> int:
        """What is in it."""
        return self.balance
