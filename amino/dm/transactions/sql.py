"""A SQL database that takes part in a transaction: its commit is the decision.

Owns the row by which everybody can see what was decided. Leaves the application's tables to the application.
Invariants: the row has the transaction's id as its primary key, so exactly one of ``committed`` (in the application's own SQL
transaction) and ``aborted`` (put there by recovery) ever stands there.
Failure behaviour: a statement that fails is a veto; a commit whose answer is lost is settled by asking for the row, and
while the database cannot be asked it is ``OutcomeUnknown``: ``recover`` finds out later.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.schema import CreateTable

from amino.aio.mode import offload
from amino.contracts.decisions import ABORT, ABORTED, COMMIT, COMMITTED, DecideRequest, DecisionsRequest
from amino.errors import Invalid, OutcomeUnknown, TransactionAborted

if TYPE_CHECKING:
    from amino.stubs.cluster import Cluster

DECISIONS = sa.Table(
    "amino_decisions",
    sa.MetaData(),
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("outcome", sa.String(16), nullable=False),
    sa.Column("decided_at", sa.Float, nullable=False),
)


class SqlParticipant:
    """One SQL transaction that commits if and only if the microservices' calls do: ``cluster.transaction(participant)``.

    Write through ``participant.connection`` in the block. Works with every database that SQLAlchemy knows and that has
    transactions; the table ``amino_decisions`` is made there if it is missing.

    Args:
        engine: of the database. Used from async code it is called in threads.
        name: of the database, equal for all who use it; recovery finds undecided transactions by it.
    """

    def __init__(self, engine: sa.Engine, name: str) -> None:
        if not name:
            raise Invalid("a database that takes part in transactions needs a name, by which recovery finds them")
        self.name = name
        self._engine = engine
        self._connection: sa.Connection | None = None
        _make_table(engine)

    def __repr__(self) -> str:
        return f"SqlParticipant({self.name})"

    @property
    def connection(self) -> sa.Connection:
        """The connection of this transaction, opened when first asked for."""
        if self._connection is None:
            self._connection = self._engine.connect()
        return self._connection

    async def prepare(self, transaction: str) -> None:
        """Put the row that says ``committed`` into the SQL transaction; a database that refuses it vetoes."""
        await offload(self._prepare, transaction)

    def _prepare(self, transaction: str) -> None:
        try:
            self.connection.execute(_row(transaction, COMMITTED))
        except SQLAlchemyError as error:
            self._close()
            raise TransactionAborted(f"{self.name} refuses to commit: {error}", reason="veto") from error

    async def commit(self, transaction: str) -> None:
        """Commit; the row goes with it."""
        await offload(self._commit, transaction)

    def _commit(self, transaction: str) -> None:
        try:
            self.connection.commit()
        except SQLAlchemyError as error:
            self._close()
            if _outcome(self._engine, transaction, error) != COMMITTED:
                raise TransactionAborted(f"{self.name} did not commit: {error}", reason="veto") from error
        self._close()

    async def rollback(self) -> None:
        """Undo what is not committed."""
        await offload(self._close)

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                connection.close()  # rolls back
            except SQLAlchemyError:
                connection.invalidate()


def recover(cluster: Cluster, engine: sa.Engine, name: str) -> dict[str, str]:
    """Settle every transaction with database ``name`` whose initiator has not: by its row, or abort where there is none.

    Run it when a client of the database starts, and whenever a transaction was left in doubt. A transaction that somebody is
    just committing may be aborted by it. Microservices learn the outcome within their ``timeout_s``. Idempotent.

    Returns:
        The outcomes, by transaction.

    Raises:
        OutcomeUnknown: the database cannot be asked.
    """
    _make_table(engine)
    outcomes = {}
    for decision in cluster.registry.decisions(DecisionsRequest(name)).decisions:
        outcome = _outcome(engine, decision.transaction, None)
        wish = COMMIT if outcome == COMMITTED else ABORT
        cluster.registry.decide(DecideRequest(decision.transaction, decision.revision, wish))
        outcomes[decision.transaction] = outcome
    return outcomes


def prune(engine: sa.Engine, older_than_s: float) -> int:
    """Delete rows of decisions older than that; longer than any client may stand still. Returns how many."""
    with engine.begin() as connection:
        done: Any = connection.execute(sa.delete(DECISIONS).where(DECISIONS.c.decided_at < time.time() - older_than_s))
        return int(done.rowcount)


def _outcome(engine: sa.Engine, transaction: str, error: Exception | None) -> str:
    """Return what stands in the row, ``aborted`` from now on if there was none."""
    try:
        try:
            with engine.begin() as connection:
                connection.execute(_row(transaction, ABORTED))
        except IntegrityError:
            with engine.connect() as connection:
                found = connection.execute(sa.select(DECISIONS.c.outcome).where(DECISIONS.c.id == transaction)).scalar()
            if found is None:
                raise
            return str(found)
    except SQLAlchemyError as problem:
        raise OutcomeUnknown(
            f"whether the database committed transaction {transaction} is not known: {error or problem}; run recover() when "
            "it can be reached"
        ) from problem
    return ABORTED


def _make_table(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        connection.execute(CreateTable(DECISIONS, if_not_exists=True))


def _row(transaction: str, outcome: str) -> sa.Insert:
    return sa.insert(DECISIONS).values(id=transaction, outcome=outcome, decided_at=time.time())
