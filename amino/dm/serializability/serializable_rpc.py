"""``SerializableRPC``: calls on one replica run one at a time, in arrival order.

Owns the queue of one object. Leaves order across replicas to replication.
Invariants: one call runs at a time; a call nested in the running one is admitted; an exception frees the turn.
Failure behaviour: a full queue answers ``Overloaded`` at once; a call that waits past its deadline was not executed.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from amino.aio.signal import Turn
from amino.dm.base import Manager, ServerBase, Trait
from amino.errors import NotExecuted, Overloaded

if TYPE_CHECKING:
    from amino.contracts.calls import Call, Forward, RequestId
    from amino.contracts.component import ServerContext


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
        return _Queue(self.queue_max, context)


class _Queue(ServerBase):
    def __init__(self, queue_max: int, context: ServerContext) -> None:
        self._queue_max = queue_max
        self._context = context
        self._turn = Turn()
        self._lock = threading.Lock()
        self._inside: list[RequestId] = []

    async def on_call(self, call: Call, forward: Forward) -> Any:
        request = call.request
        if request.path and self._is_nested(request):
            return await self._run(call, forward)
        if not self._turn.acquire_nowait():
            if self._turn.waiting >= self._queue_max:
                raise Overloaded(
                    f"{self._queue_max} calls wait for {self._context.microservice}, the bound queue_max; back off and "
                    "retry, or raise queue_max",
                    reason="overloaded",
                )
            try:
                await self._turn.acquire(max(call.deadline - self._context.clock.monotonic(), 0.0))
            except TimeoutError:
                raise NotExecuted(
                    f"{call.method} waited for its turn on {self._context.microservice} until its deadline",
                    reason="deadline",
                ) from None
        try:
            return await self._run(call, forward)
        finally:
            self._turn.release()

    async def _run(self, call: Call, forward: Forward) -> Any:
        with self._lock:
            self._inside.append(call.request)
        try:
            return await forward(call)
        finally:
            with self._lock:
                self._inside.remove(call.request)

    def _is_nested(self, request: RequestId) -> bool:
        with self._lock:
            return any(request.nested_in(outer) for outer in self._inside)
