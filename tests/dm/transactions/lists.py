"""Lists under keys, and clients that append to them and read them in transactions: histories that can be judged.

Owns recording what a client did and was told. Leaves the judgement to ``amino.testing.serializability``.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import amino
from amino.errors import AminoError, TransactionAborted
from amino.testing.serializability import Outcome, Transaction

KEYS = 4
OPERATIONS_MAX = 4


class Lists:
    """A list under each key."""

    def __init__(self) -> None:
        self.lists: dict[int, list[str]] = {}

    def append(self, key: int, value: str) -> int:
        """Put ``value`` at the end of the list under ``key``."""
        self.lists.setdefault(key, []).append(value)
        return len(self.lists[key])

    @amino.readonly
    def read(self, key: int) -> list[str]:
        """Return the list under ``key``."""
        return list(self.lists.get(key, []))


Begin = Callable[[Any, Sequence[Any]], AbstractContextManager[Any]]
"""Begins a transaction, given the client's connection and its stubs."""


class Scribe(threading.Thread):
    """Runs transactions on the microservices ``names`` until told to stop, and records them.

    Args:
        begin: begins one. label: of this client; its random choices follow from it.
    """

    def __init__(self, local: Any, begin: Begin, names: Sequence[str], label: str, stop: threading.Event) -> None:
        super().__init__(name=f"scribe {label}")
        self._local, self._begin, self._names, self._label, self._stop_event = local, begin, names, label, stop
        self._random = random.Random(label)
        self.history: list[Transaction] = []
        self.committed: list[str] = []
        self.problem: BaseException | None = None

    def run(self) -> None:
        """Work."""
        try:
            with self._local.connect() as cluster:
                stubs = [cluster.get(name, Lists) for name in self._names]
                while not self._stop_event.is_set():
                    self._transact(cluster, stubs)
        except BaseException as error:  # noqa: BLE001 - told by the test, which joins
            self.problem = error

    def _transact(self, cluster: Any, stubs: Sequence[Any]) -> None:
        transaction = Transaction(f"{self._label}-{len(self.history)}", time.monotonic())
        self.history.append(transaction)
        asked = False
        try:
            with self._begin(cluster, stubs):
                for number in range(self._random.randint(1, OPERATIONS_MAX)):
                    which, key = self._random.randrange(len(stubs)), self._random.randrange(KEYS)
                    if self._random.random() < 0.5:
                        transaction.read((which, key), stubs[which].read(key))
                    else:
                        value = f"{transaction.id}.{number}"
                        transaction.append((which, key), value)
                        stubs[which].append(key, value)
                asked = True
        except TransactionAborted:
            transaction.end(Outcome.FAILED, time.monotonic())
        except AminoError:
            transaction.end(Outcome.UNKNOWN if asked else Outcome.FAILED, time.monotonic())
        else:
            transaction.end(Outcome.OK, time.monotonic())
            self.committed.append(str(transaction.id))


def read_all(stubs: Sequence[Any]) -> Transaction:
    """Return a transaction that read everything, now that nobody writes any more."""
    last = Transaction("last", time.monotonic())
    for which, stub in enumerate(stubs):
        for key in range(KEYS):
            last.read((which, key), stub.read(key))
    last.end(Outcome.OK, time.monotonic())
    return last
