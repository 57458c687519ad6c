"""Transactions on one microservice, as its callers hold them.

Owns ending a block with at most two messages, and the handle. Leaves the block to ``block``, private copies to ``component``.
Invariant: a block whose calls changed nothing ends without a write.
Failure behaviour: ``TransactionAborted`` says that nothing was published, ``OutcomeUnknown`` that it may have been.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, TypeVar

from amino.aio.mode import sleep
from amino.dm.control import Control, operation
from amino.dm.transactions.block import IN_DOUBT, Block, Part, quietly
from amino.dm.transactions.component import ABORTED, COMMIT, COMMITTED, END, FINISH, MODIFIED, Verdict
from amino.errors import AminoError, NotExecuted, OutcomeUnknown, StoreFailed, TransactionAborted
from amino.stubs.current import deadline

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from amino.contracts.calls import Call
    from amino.contracts.documents import DmSpec
    from amino.dm.control import ControlContext

T = TypeVar("T")
_ROLLBACK_S = 2.0
_BACKOFF_S = 0.005
_BACKOFF_MAX_S = 0.5


class Transaction(Block):
    """One transaction on one microservice: ``with control.transaction() as t``, or ``async with``.

    Calls through any stub of that microservice in the block belong to it. Leaving the block commits; an exception that
    leaves it rolls back, and goes on.

    Raises:
        TransactionAborted: at the end of the block, or of a call in it: nothing was published. OutcomeUnknown: at its end:
            the answer of the commit was lost; managers that repeat calls prevent that. StoreFailed: at its end: it is done in
            memory and not durable; what reads it waits until it is.
    """

    def __init__(self, context: ControlContext) -> None:
        super().__init__(context.runtime, context.microservice, context.new_id())
        self._context = context
        self._part = Part()

    def part(self, microservice: str) -> Part:  # noqa: ARG002 - there is one
        """Return the only one."""
        return self._part

    def check(self, chain: Sequence[DmSpec], call: Call) -> None:
        """Refuse a call that nobody would mark any more: the microservice's managers were changed."""
        manager = type(self._context.manager).__name__
        if self.state == "open" and call.microservice == self._context.microservice:
            if any(dm.name == manager for dm in chain):
                return
            raise TransactionAborted(
                f"the transaction was aborted: {manager} was taken out of the chain", reason="lost"
            )

    async def publish(self) -> Verdict:
        """Ask whether there is something to commit, and commit it."""
        part = self._part
        if part.silent:
            return [COMMITTED]
        problem = part.problem
        if problem is not None:
            await self.give_up()
            return [ABORTED, problem.reason, problem.message.partition(": ")[2]]
        try:
            verdict = await self._message(FINISH)
        except AminoError as error:
            return await self._aborted_by(error)
        if verdict[0] == MODIFIED:
            try:
                verdict = await self._message(COMMIT)
            except OutcomeUnknown as error:
                return [IN_DOUBT, error.message]
            except StoreFailed:  # published, and in no checkpoint yet
                self.state = IN_DOUBT
                raise
            except NotExecuted as error:
                return await self._aborted_by(error)
        return verdict

    async def _aborted_by(self, error: AminoError) -> Verdict:
        await self.give_up()
        return [ABORTED, "lost", str(error)]

    async def give_up(self) -> None:
        """Tell every group that heard of it."""
        part = self._part
        if part.silent:
            return
        for path in part.paths or ["/"]:
            part.addressed = path
            with deadline(_ROLLBACK_S):  # what does not arrive expires
                await quietly(lambda: self._message(END))

    async def _message(self, topic: str) -> Verdict:
        part = self._part
        payload = [self.id, part.last]
        return list(await self._context.message(type(self._context.manager), topic, payload, part.addressed))


class TransactionControl(Control):
    """Transactions on one microservice."""

    def transaction(self) -> Transaction:
        """Return a transaction for one ``with`` or ``async with`` block."""
        return Transaction(self._context)

    async def _run(self, function: Callable[[], T]) -> T:
        """Run ``function`` (``def``, or ``async def`` with ``await amino.aio(control.run)(function)``) in a transaction.

        An aborted one is begun again, ``function`` and all, at most ``retries`` times; then ``TransactionAborted`` is
        raised. What ``function`` raises rolls back and is raised.
        """
        retries = int(getattr(self._context.manager, "retries", 0))
        backoff_s = _BACKOFF_S
        while True:
            try:
                async with self.transaction():
                    result = function()
                    return await result if inspect.isawaitable(result) else result
            except TransactionAborted as error:
                if not retries or error.reason == "refused":
                    raise
            retries -= 1
            await sleep(backoff_s * self._context.random.random())
            backoff_s = min(backoff_s * 2, _BACKOFF_MAX_S)

    run = operation(_run)
