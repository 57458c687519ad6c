"""``SerializableRPC``: calls on one replica run one at a time, in arrival order.

Owns the manager. Leaves the queue to ``dm.queue``, and order across replicas to replication.
Invariants: one call runs at a time; a call nested in the running one is admitted; an exception frees the turn.
Failure behaviour: a full queue answers ``Overloaded`` at once; a call that waits past its deadline was not executed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from amino.dm.base import Manager, ServerBase, Trait
from amino.dm.queue import CallQueue

if TYPE_CHECKING:
    from amino.contracts.calls import Call, Forward
    from amino.contracts.context import ServerContext


class SerializableRPC(Manager, frozen=True, kw_only=True):
    """Runs calls on one replica one at a time, in arrival order; different objects overlap.

    Guarantee: no two calls of one object overlap, readonly ones included, except a call nested in the running one
    (A calls B calls A), which is admitted so that nothing deadlocks.

    Args:
        queue_max: most calls that wait (1 to 1,000,000); beyond it ``Overloaded``, at once.
    """

    queue_max: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 1000

    provides = frozenset({Trait.ORDER})

    def server(self, context: ServerContext) -> ServerBase:
        """Return the component that queues."""
        return _Serial(CallQueue(self.queue_max, context))


class _Serial(ServerBase):
    def __init__(self, queue: CallQueue) -> None:
        self._queue = queue

    async def on_call(self, call: Call, forward: Forward) -> Any:
        if self._queue.is_part(call.request):
            return await forward(call)
        await self._queue.enter(call)
        try:
            return await forward(call)
        finally:
            self._queue.leave()
