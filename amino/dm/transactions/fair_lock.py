"""Who may be at an object: plain calls together, one transaction alone.

Owns the queue, in order of arrival, and expiry. Leaves what a holder does to the managers.
Invariants: while somebody owns the lock nobody shares it, but calls nested in one that is inside; a lock that has expired
is free to the next who asks; who gave up waiting is never let in.
Failure behaviour: a time-out or cancellation while waiting leaves no trace.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from typing import TYPE_CHECKING

from amino.aio.signal import Signal

if TYPE_CHECKING:
    from collections.abc import Callable

    from amino.contracts.calls import RequestId


class _Ticket:
    __slots__ = ("lasts_s", "owner", "request", "signal", "token")

    def __init__(self, request: RequestId, owner: str, lasts_s: float) -> None:
        self.request = request
        self.owner = owner
        self.lasts_s = lasts_s
        self.token = 0
        self.signal: Signal[bool] = Signal()


class FairLock:
    """First in, first out; from loops and threads.

    Args:
        now: monotonic time in seconds.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._mutex = threading.Lock()
        self._shared: dict[int, RequestId] = {}
        self._tokens = 0
        self._owner = ""
        self._expires = math.inf
        self._pins = 0
        self._queue: deque[_Ticket] = deque()

    def __repr__(self) -> str:
        holders = f"owned by {self._owner}" if self._owner else f"{len(self._shared)} sharing"
        return f"FairLock({holders}, {len(self._queue)} waiting)"

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._queue)

    async def share(self, request: RequestId, timeout_s: float) -> int:
        """Enter together with others; returns a token for ``unshare``.

        Raises:
            TimeoutError: not let in within ``timeout_s`` seconds.
        """
        with self._mutex:
            self._settle()
            nested = bool(request.path) and any(request.nested_in(inside) for inside in self._shared.values())
            if nested or not (self._owner or self._queue):
                return self._enter(request)
            ticket = _Ticket(request, "", 0.0)
            self._queue.append(ticket)
        await self._wait(ticket, timeout_s)
        return ticket.token

    def unshare(self, token: int) -> None:
        """Leave; from any thread."""
        with self._mutex:
            del self._shared[token]
            self._settle()

    async def own(self, owner: str, request: RequestId, lasts_s: float, timeout_s: float) -> None:
        """Be alone, for ``lasts_s`` seconds at most; nothing happens if ``owner`` owns it already.

        Raises:
            TimeoutError: not alone within ``timeout_s`` seconds.
        """
        with self._mutex:
            self._settle()
            if self._owner == owner:
                return
            if not (self._owner or self._queue or self._shared):
                self._take(owner, lasts_s)
                return
            ticket = _Ticket(request, owner, lasts_s)
            self._queue.append(ticket)
        await self._wait(ticket, timeout_s)

    def seize(self, owner: str) -> None:
        """Be alone from now on, whoever is inside; for state that says who is."""
        with self._mutex:
            self._owner, self._expires, self._pins = owner, math.inf, 0

    def disown(self, owner: str) -> None:
        """Let others in, if ``owner`` owns it. From any thread."""
        with self._mutex:
            if self._owner == owner:
                self._owner, self._expires, self._pins = "", math.inf, 0
            self._settle()

    def pin(self, owner: str) -> bool:
        """Keep the lock from expiring until ``unpin``; returns whether ``owner`` still owns it."""
        with self._mutex:
            self._settle()
            if self._owner != owner:
                return False
            self._pins += 1
            return True

    def unpin(self, owner: str) -> None:
        """Let the lock expire again."""
        with self._mutex:
            if self._owner == owner and self._pins:
                self._pins -= 1
            self._settle()

    def owned_by(self, owner: str) -> bool:
        """Whether ``owner`` owns it and it has not expired."""
        with self._mutex:
            self._settle()
            return self._owner == owner

    def has_inside(self, request: RequestId) -> bool:
        """Whether ``request`` is nested in a call that shares the lock, so that waiting to own it would never end."""
        with self._mutex:
            return any(request.nested_in(inside) for inside in self._shared.values())

    # --- details; the mutex is held ------------------------------------------------------------------------------------

    def _enter(self, request: RequestId) -> int:
        self._tokens += 1
        self._shared[self._tokens] = request
        return self._tokens

    def _take(self, owner: str, lasts_s: float) -> None:
        self._owner = owner
        self._expires = self._now() + lasts_s
        self._pins = 0

    def _settle(self) -> None:
        """Free an expired lock, and let in whoever is next."""
        if self._owner and not self._pins and self._now() >= self._expires:
            self._owner, self._expires = "", math.inf
        queue = self._queue
        while queue and not self._owner:
            ticket = queue[0]
            if ticket.owner:
                if self._shared:
                    return
                self._take(ticket.owner, ticket.lasts_s)
                for again in [each for each in queue if each.owner == ticket.owner and each is not ticket]:
                    queue.remove(again)  # the same request, sent twice
                    again.signal.set(True)
            else:
                ticket.token = self._enter(ticket.request)
            queue.popleft()
            ticket.signal.set(True)

    async def _wait(self, ticket: _Ticket, timeout_s: float) -> None:
        until = self._now() + timeout_s
        try:
            while not ticket.signal.is_set:
                now = self._now()
                with self._mutex:
                    self._settle()
                    expires = self._expires if self._expires > now else math.inf  # past it while pinned
                left = until - now
                try:
                    await ticket.signal.wait(max(min(left, expires - now), 0.0))
                except TimeoutError:
                    if self._now() >= until:
                        raise
        except BaseException:
            self._give_up(ticket)
            raise

    def _give_up(self, ticket: _Ticket) -> None:
        with self._mutex:
            if not ticket.signal.is_set:
                self._queue.remove(ticket)
            elif ticket.owner:
                self._owner, self._expires = "", math.inf
            else:
                del self._shared[ticket.token]
            self._settle()
