"""What takes part in a transaction from outside: a database.

Owns the interface. Leaves databases to those who implement it (``sql``).
Invariant: its commit is the decision, made after all cohorts are prepared; it never says yes twice differently.
Failure behaviour: a veto is ``TransactionAborted``; a commit whose answer is lost is ``OutcomeUnknown``, and recovery asks
the database.
"""

from __future__ import annotations

from typing import Protocol


class Participant(Protocol):
    """One resource in one transaction."""

    @property
    def name(self) -> str:
        """Name of the resource: recovery finds undecided transactions by it."""
        ...

    async def prepare(self, transaction: str) -> None:
        """Find out whether it could commit. Raises ``TransactionAborted`` to veto."""
        ...

    async def commit(self, transaction: str) -> None:
        """Commit, and thereby decide.

        Raises:
            TransactionAborted: it certainly did not. OutcomeUnknown: it may have.
        """
        ...

    async def rollback(self) -> None:
        """Undo what is not committed. Idempotent; never raises."""
        ...
