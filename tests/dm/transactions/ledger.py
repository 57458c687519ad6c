"""Accounts by name: what transactions over a sharded microservice run on."""

from __future__ import annotations

import amino


class Ledger:
    """Keyed by account."""

    def __init__(self) -> None:
        self.accounts: dict[str, int] = {}

    @amino.key
    def add(self, account: str, amount: int) -> int:
        """Change."""
        self.accounts[account] = self.accounts.get(account, 0) + amount
        return self.accounts[account]

    @amino.readonly
    @amino.key
    def read(self, account: str) -> int:
        """Look."""
        return self.accounts.get(account, 0)
