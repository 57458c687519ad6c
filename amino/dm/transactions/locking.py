"""``LockingTransactions``: several calls while everybody else waits.

Owns the lock on one object. Leaves copies and commits to ``component``, the queue to ``fair_lock``.
Invariants: between a transaction's first call and its end no other call, reads included, runs on the object; the lock
goes to those who wait in order of arrival; it ends with commit, rollback, or ``lock_s`` after it was taken.
Failure behaviour: who waits longer than ``wait_s`` gets ``NotExecuted`` with reason ``locked``; a transaction whose lock
expired, or whose replica was lost, is aborted and has published nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

import msgspec

from amino.dm.base import ClientBase, Manager, ServerBase, Trait
from amino.dm.transactions.block import Joining
from amino.dm.transactions.client import TransactionControl
from amino.dm.transactions.component import COMMIT, Transactions, transaction_of
from amino.errors import Invalid, NotExecuted
from amino.marks import PROVISIONAL

if TYPE_CHECKING:
    from collections.abc import Callable

    from amino.contracts.calls import Call, RequestId
    from amino.contracts.context import ClientContext, ServerContext
    from amino.dm.control import Control


class LockingControl(TransactionControl):
    """Transactions on one microservice; from ``amino.control(stub, LockingTransactions)``."""


class LockingTransactions(Manager, frozen=True, kw_only=True):
    """Runs the calls of a block on a private copy while every other caller waits, and publishes them all at its end.

    Guarantee: isolated from every other caller, inside transactions or not; all calls of the block take effect at once or
    none does; rollback, exception, expiry and a client's crash publish nothing and free the lock. As durable as a plain
    call: by managers further out.

    Args:
        lock_s: seconds a transaction may hold the lock, counted from its first call (more than 0).
        wait_s: seconds that others wait for it (0 or more); then ``NotExecuted`` with reason ``locked``.
    """

    lock_s: Annotated[float, msgspec.Meta(gt=0, le=3600)] = 10.0
    wait_s: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 5.0

    provides = frozenset({Trait.TRANSACTIONS})
    Control: ClassVar[type[Control]] = LockingControl

    def client(self, context: ClientContext) -> ClientBase:
        """Return the component that marks the calls of a block."""
        return Joining(context.microservice, context)

    def server(self, context: ServerContext) -> ServerBase:
        """Return the component that runs them."""
        return _Locking(self, context)


class _Locking(Transactions):
    def __init__(self, options: LockingTransactions, context: ServerContext) -> None:
        super().__init__(type(options).__name__, options.lock_s, context)
        self._options = options
        self._running: dict[RequestId, None] = {}

    async def before_call(self, call: Call) -> Callable[[], None] | None:
        """Let a transaction's calls in, and keep all others out meanwhile."""
        if call.flags & PROVISIONAL:
            return await self._let_in(call)
        message = self.message_of(call)
        if message is not None:
            return self._before_commit(message[1]) if message[0] == COMMIT else None
        if call.request.path and any(call.request.nested_in(outer) for outer in list(self._running)):
            if call.readonly:
                return None  # sees the object as it was before the transaction, which waits for this very call
            raise Invalid(
                f"{call.method} changes {call.microservice} from within a call of the transaction that has it locked; "
                "make it a call of that transaction, or call it after the transaction"
            )
        try:
            token = await self.lock.share(call.request, self._patience_s(call))
        except TimeoutError:
            raise self._locked(call) from None
        return lambda: self.lock.unshare(token)

    async def _let_in(self, call: Call) -> Callable[[], None] | None:
        transaction, number = transaction_of(call)
        if number == 1:
            if self.lock.has_inside(call.request):
                raise Invalid(
                    f"a transaction on {call.microservice} was begun within a call of it ({call.request}), whose end it "
                    "would wait for; begin it after that call has returned"
                )
            try:
                await self.lock.own(transaction, call.request, self._options.lock_s, self._patience_s(call))
            except TimeoutError:
                raise self._locked(call) from None
        request = call.request
        self._running[request] = None

        def leave() -> None:
            self._running.pop(request, None)
            if not self.is_open(transaction):
                self.lock.disown(transaction)

        return leave

    def _before_commit(self, transaction: str) -> Callable[[], None] | None:
        if not self.lock.pin(transaction):
            return None

        def leave() -> None:
            self.lock.unpin(transaction)
            if not self.is_open(transaction):
                self.lock.disown(transaction)

        return leave

    def ending_of(self, transaction: str) -> list[str] | None:
        """As the base says; the lock counts."""
        ended = super().ending_of(transaction)
        if ended is None and not self.lock.owned_by(transaction):
            return self.expire(transaction)
        return ended

    def let_go(self, transaction: str) -> None:
        """Free the lock."""
        self.lock.disown(transaction)

    def _patience_s(self, call: Call) -> float:
        return max(min(self._options.wait_s, call.deadline - self.context.clock.monotonic()), 0.0)

    def _locked(self, call: Call) -> NotExecuted:
        return NotExecuted(
            f"a transaction held {call.microservice} for the {self._options.wait_s:g} s that {call.method} waits; repeat it "
            "later, or raise wait_s",
            reason="locked",
        )
