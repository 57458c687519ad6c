"""Who may run on an object when: calls together, snapshots alone.

Owns counting what runs, and keeping newcomers out while somebody needs quiet. Leaves the why to its users.
Invariant: a closed gate admits none but requests nested in one that is inside,
so waiting never deadlocks on re-entrance (invariant 5).
Failure behaviour: a time-out or cancellation while waiting for quiet opens the gate again.
"""

from __future__ import annotations

import threading
from itertools import count
from typing import TYPE_CHECKING

from amino.aio.signal import Signal, Turn

if TYPE_CHECKING:
    from collections.abc import Iterable

    from amino.aio.clock import Clock
    from amino.contracts.calls import RequestId


class Gate:
    """A shared/exclusive gate. An open one is entered and left without a lock.

    Who enters notes itself first and looks at ``_closed`` then; who closes sets ``_closed`` first and looks who is inside then.
    One of the two sees the other.

    Attributes:
        entered: the requests inside, by token; for reading.
    """

    __slots__ = ("_closed", "_idle", "_lock", "_open", "_quiet", "_tokens", "_within", "entered")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.entered: dict[int, RequestId] = {}
        self._tokens = count(1)
        self._closed = False
        self._open: Signal[bool] | None = None  # made when somebody waits
        self._idle: Signal[bool] | None = None
        self._quiet = Turn()
        self._within: RequestId | None = None

    def __repr__(self) -> str:
        return f"Gate({len(self.entered)} running, {'closed' if self._closed else 'open'})"

    @property
    def running(self) -> int:
        """How many are inside."""
        return len(self.entered)

    @property
    def closed(self) -> bool:
        """Whether somebody has or wants quiet."""
        return self._closed

    def inside(self) -> Iterable[RequestId]:
        """Return the requests inside, as a copy."""
        return list(self.entered.values())

    def enter_nowait(self, request: RequestId) -> int:
        """Enter and return a token (1 or more) for ``leave``; 0 if the gate is closed to this request."""
        if self._closed:
            return self._enter_closed(request)
        token = next(self._tokens)
        self.entered[token] = request
        if self._closed:  # this very moment, and who closed it may wait for us
            self.leave(token)  # type: ignore[unreachable]
            return self._enter_closed(request)
        return token

    def _enter_closed(self, request: RequestId) -> int:
        with self._lock:
            if self._closed and not (request.path and any(request.nested_in(inside) for inside in self.inside())):
                return 0
            token = next(self._tokens)
            self.entered[token] = request
            return token

    async def enter(self, request: RequestId, timeout_s: float, clock: Clock) -> int:
        """Enter as soon as the gate is open.

        Raises:
            TimeoutError: it was closed whenever we came, for ``timeout_s`` seconds.
        """
        token = self.enter_nowait(request)
        until = clock.monotonic() + timeout_s
        while not token:
            with self._lock:
                opened = self._open
                if opened is None and self._closed:
                    opened = self._open = Signal()
            if opened is not None:
                await opened.wait(max(until - clock.monotonic(), 0.0))
            token = self.enter_nowait(request)
        return token

    def leave(self, token: int) -> None:
        """Leave; from any thread."""
        del self.entered[token]
        if self._closed:
            with self._lock:
                idle = self._idle if self._closed and not self._others() else None
            if idle is not None:
                idle.set(True)

    def _others(self) -> bool:
        """Whether somebody is inside whom the one that has quiet is not part of."""
        within = self._within
        if within is None:
            return bool(self.entered)
        return any(each != within and not within.nested_in(each) for each in self.inside())

    async def acquire_quiet(self, timeout_s: float, within: RequestId | None = None) -> None:
        """Close the gate and wait until nobody is inside. Pair with ``release_quiet``.

        Args:
            timeout_s: seconds to wait at most.
            within: a request that is inside and asks for this: it and those it is nested in stay.

        Raises:
            TimeoutError: somebody was still inside (or had quiet) after ``timeout_s`` seconds; the gate is open again.
        """
        await self._quiet.acquire(timeout_s)
        with self._lock:
            self._within = within
            self._closed = True
            idle: Signal[bool] | None = None
            if self._others():
                idle = self._idle = Signal()
        try:
            if idle is not None:
                await idle.wait(timeout_s)
        except BaseException:
            self.release_quiet()
            raise

    def acquire_quiet_nowait(self) -> bool:
        """As ``acquire_quiet``, where nobody has to be waited for; returns whether it was done."""
        if not self._quiet.acquire_nowait():
            return False
        with self._lock:
            self._closed = True
            if not self.entered:
                return True
        self.release_quiet()
        return False

    def release_quiet(self) -> None:
        """Open the gate and wake those who wait; from any thread."""
        with self._lock:
            self._closed = False
            self._idle = self._within = None
            opened, self._open = self._open, None
        self._quiet.release()
        if opened is not None:
            opened.set(True)
