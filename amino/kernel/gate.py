"""Who may run on an object when: calls together, snapshots alone.

Owns counting what runs, and keeping newcomers out while somebody needs quiet. Leaves the why to its users.
Invariant: a closed gate admits none but requests nested in one that is inside,
so waiting never deadlocks on re-entrance (invariant 5).
Failure behaviour: a time-out or cancellation while waiting for quiet opens the gate again.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from amino.aio.signal import Signal, Turn

if TYPE_CHECKING:
    from collections.abc import Iterable

    from amino.aio.clock import Clock
    from amino.contracts.calls import RequestId


class Gate:
    """A shared/exclusive gate. ``enter_nowait``/``leave`` cost one uncontended lock each."""

    __slots__ = ("_closed", "_idle", "_lock", "_open", "_quiet", "_running", "_tokens")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[int, RequestId] = {}
        self._tokens = 0
        self._closed = False
        self._open: Signal[bool] | None = None  # made while closed
        self._idle: Signal[bool] | None = None
        self._quiet = Turn()

    def __repr__(self) -> str:
        return f"Gate({len(self._running)} running, {'closed' if self._closed else 'open'})"

    @property
    def running(self) -> int:
        """How many are inside."""
        return len(self._running)

    @property
    def closed(self) -> bool:
        """Whether somebody has or wants quiet."""
        return self._closed

    def inside(self) -> Iterable[RequestId]:
        """Return the requests inside, as a copy."""
        with self._lock:
            return list(self._running.values())

    def enter_nowait(self, request: RequestId) -> int:
        """Enter and return a token (1 or more) for ``leave``; 0 if the gate is closed to this request."""
        with self._lock:
            if self._closed and not (request.path and any(request.nested_in(r) for r in self._running.values())):
                return 0
            self._tokens += 1
            self._running[self._tokens] = request
            return self._tokens

    async def enter(self, request: RequestId, timeout_s: float, clock: Clock) -> int:
        """Enter as soon as the gate is open.

        Raises:
            TimeoutError: it was closed whenever we came, for ``timeout_s`` seconds.
        """
        token = self.enter_nowait(request)
        until = clock.monotonic() + timeout_s
        while not token:
            opened = self._open
            if opened is not None:
                await opened.wait(max(until - clock.monotonic(), 0.0))
            token = self.enter_nowait(request)
        return token

    def leave(self, token: int) -> None:
        """Leave; from any thread."""
        with self._lock:
            del self._running[token]
            idle = self._idle if self._closed and not self._running else None
        if idle is not None:
            idle.set(True)

    async def acquire_quiet(self, timeout_s: float) -> None:
        """Close the gate and wait until nobody is inside. Pair with ``release_quiet``.

        Raises:
            TimeoutError: somebody was still inside (or had quiet) after ``timeout_s`` seconds; the gate is open again.
        """
        await self._quiet.acquire(timeout_s)
        with self._lock:
            self._closed = True
            self._open = Signal()
            idle: Signal[bool] | None = None
            if self._running:
                idle = self._idle = Signal()
        try:
            if idle is not None:
                await idle.wait(timeout_s)
        except BaseException:
            self.release_quiet()
            raise

    def release_quiet(self) -> None:
        """Open the gate and wake those who wait; from any thread."""
        with self._lock:
            self._closed = False
            self._idle = None
            opened, self._open = self._open, None
        self._quiet.release()
        if opened is not None:
            opened.set(True)
