"""Running the calls of one replica one at a time: the queue that serial managers share.

Owns the order of arrival and the bound. Leaves what is done in one's turn to the managers.
Invariants: one call has the turn at a time; a call nested in that one is part of it, so that nothing deadlocks on
re-entrance (invariant 5).
Failure behaviour: a full queue answers ``Overloaded`` at once; a call that waits past its deadline was not executed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from amino.aio.signal import Turn
from amino.errors import NotExecuted, Overloaded

if TYPE_CHECKING:
    from amino.contracts.calls import Call, RequestId
    from amino.contracts.context import ServerContext


class CallQueue:
    """A queue before one replica; pair each ``enter`` with one ``leave``.

    Args:
        queue_max: most calls that wait.
    """

    def __init__(self, queue_max: int, context: ServerContext) -> None:
        self._queue_max = queue_max
        self._context = context
        self._turn = Turn()
        self._inside: RequestId | None = None

    def __repr__(self) -> str:
        return f"CallQueue({self._inside or 'idle'}, {self.waiting} waiting)"

    @property
    def waiting(self) -> int:
        """How many calls wait."""
        return self._turn.waiting

    def is_part(self, request: RequestId) -> bool:
        """Return whether ``request`` is nested in the one that has the turn, and so neither enters nor leaves."""
        inside = self._inside
        return bool(request.path) and inside is not None and request.nested_in(inside)

    async def enter(self, call: Call) -> None:
        """Wait for the turn.

        Raises:
            Overloaded: too many wait. NotExecuted: not before the call's deadline.
        """
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
        self._inside = call.request

    def leave(self) -> None:
        """Give up the turn."""
        self._inside = None
        self._turn.release()
