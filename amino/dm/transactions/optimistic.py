"""``OptimisticTransactions``: several calls on a private copy, published if nobody else was faster.

Owns who waits for whom: nobody, but for the moment of a commit. Leaves copies and commits to ``component``.
Invariants: the first to commit wins, plain writes included; nobody sees a part of a commit.
Failure behaviour: a conflict aborts with ``TransactionAborted``; nothing was published.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

import msgspec

from amino.dm.base import ClientBase, Manager, ServerBase, Trait
from amino.dm.transactions.block import Joining
from amino.dm.transactions.client import TransactionControl
from amino.dm.transactions.component import COMMIT, Transactions
from amino.errors import NotExecuted
from amino.marks import PROVISIONAL

if TYPE_CHECKING:
    from collections.abc import Callable

    from amino.contracts.calls import Call
    from amino.contracts.context import ClientContext, ServerContext
    from amino.dm.control import Control


class OptimisticControl(TransactionControl):
    """Transactions on one microservice; from ``amino.control(stub, OptimisticTransactions)``."""


class OptimisticTransactions(Manager, frozen=True, kw_only=True):
    """Runs the calls of a block on a private copy, and publishes them all at its end if the object is still the same.

    Guarantee: serializable; all calls of the block take effect at once or none does. The first to commit wins, plain
    writes count; a transaction that changed nothing commits without a write. As durable as a plain call: by managers
    further out.

    Args:
        retries: how often ``control.run(function)`` begins again after an abort (0 to 1000).
        expires_s: seconds after which an open transaction ends by itself (more than 0).
    """

    retries: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 0
    expires_s: Annotated[float, msgspec.Meta(gt=0, le=3600)] = 60.0

    provides = frozenset({Trait.TRANSACTIONS})
    Control: ClassVar[type[Control]] = OptimisticControl

    def client(self, context: ClientContext) -> ClientBase:
        """Return the component that marks the calls of a block."""
        return Joining(context.microservice, context)

    def server(self, context: ServerContext) -> ServerBase:
        """Return the component that runs them."""
        return _Optimistic(type(self).__name__, self.expires_s, context)


class _Optimistic(Transactions):
    async def before_call(self, call: Call) -> Callable[[], None] | None:
        """Let calls in together, and a commit alone: nobody sees half of it."""
        if call.flags & PROVISIONAL:
            return None
        message = self.message_of(call)
        if message is not None and message[0] != COMMIT:
            return None
        timeout_s = max(call.deadline - self.context.clock.monotonic(), 0.0)
        try:
            if message is None:
                token = await self.lock.share(call.request, timeout_s)
                return lambda: self.lock.unshare(token)
            owner = str(call.request)
            await self.lock.own(owner, call.request, timeout_s + 1.0, timeout_s)
        except TimeoutError:
            raise NotExecuted(
                f"{call.method} waited until its deadline for the calls before it on {self.context.microservice}",
                reason="deadline",
            ) from None
        self.lock.pin(owner)
        return lambda: self.lock.disown(owner)
