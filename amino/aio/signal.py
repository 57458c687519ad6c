"""Waiting for an event, and taking turns, from loops and threads alike.

Owns ``Signal`` (one-shot event carrying a value) and ``Turn`` (first-in-first-out lock). Leaves time-outs' meaning to callers.
Invariant: waiters are served in order of arrival; a waiter that gave up is never handed the turn.
Failure behaviour: a cancelled or timed-out waiter leaves no trace.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    _Waiter = tuple[asyncio.AbstractEventLoop, asyncio.Future[None]] | threading.Lock

T = TypeVar("T")


class Signal(Generic[T]):
    """A one-shot event with a value; set from any thread, awaited on any loop or in any thread."""

    __slots__ = ("_done", "_lock", "_value", "_waiters")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._done = False
        self._value: T | None = None
        self._waiters: list[_Waiter | Callable[[T], None]] = []

    def __repr__(self) -> str:
        return f"Signal({'set' if self._done else 'unset'}, {len(self._waiters)} waiting)"

    @property
    def is_set(self) -> bool:
        """Whether it has been set."""
        return self._done

    @property
    def value(self) -> T | None:
        """The value it was set with, None before."""
        return self._value

    def set(self, value: T) -> bool:
        """Set the value and wake all waiters; only the first call counts. Returns whether this one did. Never waits."""
        with self._lock:
            if self._done:
                return False
            self._value = value
            self._done = True
            waiters, self._waiters = self._waiters, []
        running = asyncio._get_running_loop()  # noqa: SLF001 - the documented fast look-up, without raising
        for waiter in waiters:
            if not isinstance(waiter, tuple):
                if callable(waiter):
                    waiter(value)
                else:
                    waiter.release()
                continue
            loop, future = waiter
            if loop is running:
                _resolve(future)
            elif not loop.is_closed():
                loop.call_soon_threadsafe(_resolve, future)
        return True

    def then(self, act: Callable[[T], None]) -> None:
        """Have ``act`` called with the value: by who sets it, or right here if it is set. It neither waits nor raises."""
        with self._lock:
            if not self._done:
                self._waiters.append(act)
                return
        act(self._value)  # type: ignore[arg-type]

    async def wait(self, timeout_s: float | None = None) -> T:
        """Wait until set and return the value.

        Args:
            timeout_s: seconds to wait at most; None waits without bound, 0 only looks.

        Raises:
            TimeoutError: not set in time. Cancellation leaves the signal as it was.
        """
        if self._done:
            return self._value  # type: ignore[return-value]
        loop = asyncio._get_running_loop()  # noqa: SLF001 - as above
        if loop is None:
            wake = threading.Lock()  # far cheaper than an event
            wake.acquire()
            bound_s = -1.0 if timeout_s is None else min(max(timeout_s, 0.0), threading.TIMEOUT_MAX)
            if self._enlist(wake) and not wake.acquire(timeout=bound_s):
                self._retire(wake)
                if not self._done:
                    raise TimeoutError
            return self._value  # type: ignore[return-value]
        future: asyncio.Future[None] = loop.create_future()
        entry = (loop, future)
        if self._enlist(entry):
            timer = loop.call_later(max(timeout_s, 0.0), _resolve, future) if timeout_s is not None else None
            try:
                await future
            finally:
                if timer is not None:
                    timer.cancel()
                self._retire(entry)
            if not self._done:
                raise TimeoutError
        return self._value  # type: ignore[return-value]

    def _enlist(self, waiter: _Waiter) -> bool:
        with self._lock:
            if self._done:
                return False
            self._waiters.append(waiter)
            return True

    def _retire(self, waiter: _Waiter) -> None:
        with self._lock:
            if waiter in self._waiters:
                self._waiters.remove(waiter)


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class Turn:
    """A first-in-first-out lock that loops and threads share; not bound to the thread that took it."""

    __slots__ = ("_lock", "_queue", "_taken")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._taken = False
        self._queue: deque[Signal[bool]] | None = None  # made when somebody waits: idle turns are many

    def __repr__(self) -> str:
        return f"Turn({'taken' if self._taken else 'free'}, {self.waiting} waiting)"

    @property
    def waiting(self) -> int:
        """How many wait for their turn."""
        return len(self._queue) if self._queue is not None else 0

    def acquire_nowait(self) -> bool:
        """Take the turn if it is free and nobody waits; returns whether it was taken."""
        with self._lock:
            if self._taken:
                return False
            self._taken = True
            return True

    async def acquire(self, timeout_s: float | None = None) -> None:
        """Wait for the turn, in order of arrival.

        Raises:
            TimeoutError: not our turn within ``timeout_s`` seconds; our place in the queue is given up. The same
                happens on cancellation.
        """
        with self._lock:
            if not self._taken:
                self._taken = True
                return
            ticket: Signal[bool] = Signal()
            queue = self._queue
            if queue is None:
                queue = self._queue = deque()
            queue.append(ticket)
        try:
            await ticket.wait(timeout_s)
        except BaseException:
            with self._lock:
                handed_over = ticket.is_set
                if not handed_over:
                    queue.remove(ticket)
            if handed_over:
                self.release()
            raise

    def release(self) -> None:
        """Give up the turn; the next in the queue has it at once. From any thread; never waits."""
        with self._lock:
            if not self._taken:
                raise RuntimeError("release of a turn that nobody holds; pair each acquire with one release")
            if self._queue:
                ticket = self._queue.popleft()
            else:
                self._taken = False
                return
            ticket.set(True)  # under the lock: a waiter that gives up must see whether it was handed over
