"""Workers that move money between microservices, and a database, and can be stopped at a step of the protocol.

Owns the workers and the steps. Leaves killing and judging to the tests.
"""

from __future__ import annotations

import functools
import queue
import random
import threading
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from amino.dm.transactions import machine
from amino.dm.transactions.distributed import DistributedTransaction
from amino.dm.transactions.sql import SqlParticipant
from amino.errors import AminoError, OutcomeUnknown, TransactionAborted
from tests.dm.transactions.wallet import Wallet


class Steps:
    """Where the transactions of some connections are; one that gets to a step can be held there."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wanted = ""
        self._there: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._go_on = threading.Event()

    def hold_before(self, step: str, timeout_s: float) -> str:
        """Wait until a transaction is about to take ``step``, and hold it; returns which microservice that concerns.

        Raises:
            queue.Empty: none got there in ``timeout_s`` seconds.
        """
        self._go_on.clear()
        with self._lock:
            self._wanted = step
        return self._there.get(timeout=timeout_s)

    def let_go(self) -> None:
        """Let the one that is held take its step."""
        self._go_on.set()

    def reached(self, step: str, microservice: str) -> None:
        """Say that a transaction is about to take ``step``, which concerns ``microservice``; blocks while it is held."""
        with self._lock:
            if self._wanted != step:
                return
            self._wanted = ""
        self._there.put(microservice)
        assert self._go_on.wait(60.0), f"held for good before {step}"

    def watch(self, connection: Any) -> None:
        """Hear of the steps of the transactions made on ``connection``."""
        connection._runtime.transaction = functools.partial(_Watched, self)


class _Watched(DistributedTransaction):
    """A transaction that says where it is."""

    def __init__(self, steps: Steps, *args: Any) -> None:
        super().__init__(*args)
        self._steps = steps
        self._commits = True  # as far as is known: the steps of an abort are others, by the same names

    async def _carry_out(self, effect: machine.Effect) -> tuple[str, str, str]:
        self._commits = self._commits and not isinstance(effect, machine.Drop) and getattr(effect, "commit", True)
        if self._commits:
            self._steps.reached(type(effect).__name__, getattr(effect, "cohort", "") or next(iter(self._parts)))
        return await super()._carry_out(effect)


class Worker(threading.Thread):
    """Moves money until told to stop.

    Attributes:
        committed, unknown: notes of what was acknowledged, and of what nobody knows. problem: what ended it, if anything did.
    """

    def __init__(self, local: Any, label: str, stop: threading.Event, steps: Steps | None = None) -> None:
        super().__init__(name=f"worker {label}")
        self._local, self._label, self._stop_event, self._steps = local, label, stop, steps
        self.committed: list[str] = []
        self.unknown: list[str] = []
        self.problem: BaseException | None = None

    def run(self) -> None:
        """Connect and move."""
        try:
            with self._local.connect() as cluster:
                if self._steps is not None:
                    self._steps.watch(cluster)
                number = 0
                while not self._stop_event.is_set():
                    number += 1
                    self._note(cluster, f"{self._label}-{number}")
        except BaseException as error:  # noqa: BLE001 - told by the test, which joins
            self.problem = error

    def _note(self, cluster: Any, note: str) -> None:
        try:
            self.move(cluster, note)
        except OutcomeUnknown:
            self.unknown.append(note)
        except (ValueError, TransactionAborted, AminoError, sa.exc.SQLAlchemyError):
            return
        else:
            self.committed.append(note)

    def move(self, cluster: Any, note: str) -> None:
        """Move some money, once."""
        raise NotImplementedError


class Mover(Worker):
    """Moves it between wallets."""

    def __init__(self, local: Any, names: list[str], label: str, stop: threading.Event, steps: Steps | None = None):
        super().__init__(local, label, stop, steps)
        self._names = names
        self._wallets: list[Any] = []
        self._random = random.Random(label)

    def move(self, cluster: Any, note: str) -> None:
        """From one to another."""
        self._wallets = self._wallets or [cluster.get(name, Wallet) for name in self._names]
        source, target = self._random.sample(self._wallets, 2)
        amount = self._random.randint(1, 20)
        with cluster.transaction():
            source.add(-amount, note)
            target.add(amount, note)


def bank_of(folder: Path, balance: int) -> sa.Engine:
    """Return a database with one account."""
    engine = sa.create_engine(f"sqlite:///{folder / 'bank.db'}", connect_args={"timeout": 5.0})
    with engine.begin() as connection:
        connection.execute(sa.text("create table accounts (balance integer)"))
        connection.execute(sa.text("insert into accounts values (:balance)"), {"balance": balance})
    return engine


def left_in(engine: sa.Engine) -> int:
    """Return the account's balance."""
    with engine.connect() as connection:
        return int(connection.execute(sa.text("select balance from accounts")).scalar_one())


class Payer(Worker):
    """Moves it from a table into a wallet."""

    def __init__(
        self, local: Any, engine: sa.Engine, name: str, label: str, stop: threading.Event, steps: Steps | None = None
    ):
        super().__init__(local, label, stop, steps)
        self._engine, self._name = engine, name
        self._wallet: Any = None

    def move(self, cluster: Any, note: str) -> None:
        """One unit."""
        self._wallet = self._wallet or cluster.get(self._name, Wallet)
        bank = SqlParticipant(self._engine, "bank")
        with cluster.transaction(bank):
            self._wallet.add(1, note)
            bank.connection.execute(sa.text("update accounts set balance = balance - 1"))
