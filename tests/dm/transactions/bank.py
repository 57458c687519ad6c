"""A bank in one object, and clients that move money in it: what the real suites of transactions run."""

from __future__ import annotations

import random
import threading
from typing import Any

import amino
from amino.errors import AminoError, OutcomeUnknown, TransactionAborted

ACCOUNTS = 8
EACH = 100


class Bank:
    """Accounts of one owner. Each withdrawal and deposit is a call of its own."""

    def __init__(self, accounts: int = ACCOUNTS, each: int = EACH) -> None:
        self.balances = [each] * accounts
        self.moved: list[str] = []

    def withdraw(self, account: int, amount: int) -> int:
        """Take money out."""
        if self.balances[account] < amount:
            raise ValueError("not enough")
        self.balances[account] -= amount
        return self.balances[account]

    def deposit(self, account: int, amount: int) -> int:
        """Put money in."""
        self.balances[account] += amount
        return self.balances[account]

    def sign(self, transfer: str) -> None:
        """Note which transfer this was."""
        self.moved.append(transfer)

    async def deposit_soon(self, account: int, amount: int) -> int:
        """As ``deposit``, on the loop."""
        return self.deposit(account, amount)

    @amino.readonly
    def total(self) -> int:
        """What all accounts hold."""
        return sum(self.balances)

    @amino.readonly
    def transfers(self) -> list[str]:
        """What was signed."""
        return list(self.moved)


class Teller(threading.Thread):
    """Moves money, one transaction after the other, until told to stop; remembers what it was told of each."""

    def __init__(self, local: Any, manager: Any, name: str, bank: str, stop: threading.Event) -> None:
        super().__init__(name=f"teller {name}")
        self._local = local
        self._manager = manager
        self._label = name
        self._bank = bank
        self._stop_event = stop
        self._random = random.Random(name)
        self.committed: list[str] = []
        self.unknown: list[str] = []
        self.aborted = 0
        self.refused = 0
        self.broken: list[int] = []
        self.problem: BaseException | None = None

    def run(self) -> None:
        """Work."""
        try:
            with self._local.connect() as cluster:
                self._work(cluster.get(self._bank, Bank))
        except BaseException as error:  # noqa: BLE001 - told by the test, which joins
            self.problem = error

    def _work(self, bank: Bank) -> None:
        control = amino.control(bank, self._manager)
        number = 0
        while not self._stop_event.is_set():
            number += 1
            self._transfer(bank, control, f"{self._label}-{number}")
            seen = self._read(bank)
            if seen is not None and seen != ACCOUNTS * EACH:
                self.broken.append(seen)

    def _read(self, bank: Bank) -> int | None:
        try:
            return bank.total()
        except AminoError:
            return None

    def _transfer(self, bank: Bank, control: Any, name: str) -> None:
        source, target = self._random.sample(range(ACCOUNTS), 2)
        amount = self._random.randint(1, 20)
        try:
            with control.transaction():
                bank.withdraw(source, amount)
                bank.deposit(target, amount)
                bank.sign(name)
                if bank.total() != ACCOUNTS * EACH:
                    self.broken.append(-1)
        except ValueError:
            return
        except OutcomeUnknown:
            self.unknown.append(name)
        except TransactionAborted:
            self.aborted += 1
        except AminoError:
            self.refused += 1
        else:
            self.committed.append(name)
