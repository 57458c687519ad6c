"""Using a blocking store from loops and threads, with a bound on every wait.

Owns the threads in which stores are used, the queue before them and the time-outs. Leaves what is done to the store.
Invariants: never more than ``threads_max`` operations at once and ``queue_max`` waiting; a job whose waiter gave up
before it began is not begun.
Failure behaviour: ``StoreFailed`` of kind ``timeout`` (begun: it may still happen; not begun: it does not) or ``busy``
when the queue is full. A store that hangs in the system holds threads of this pool only, never the loop's.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from amino.aio import mode
from amino.aio.signal import Signal
from amino.aio.workers import Workers
from amino.checkpoint.format import NotIntact
from amino.checkpoint.store import Buffer, CheckpointStore
from amino.errors import AminoError, StoreFailed

T = TypeVar("T")
_log = logging.getLogger("amino.checkpoint")

QUEUE_MAX = 8192


class StoreAccess:
    """A store with waits that fit the caller: ``await access.run(access.store.read, key)``.

    Args:
        store: where files are; used without threads if it never blocks.
        threads_max: most operations at once.
        timeout_s: seconds one operation may take, time in the queue included.
    """

    def __init__(
        self, store: CheckpointStore, *, threads_max: int = 16, queue_max: int = QUEUE_MAX, timeout_s: float = 15.0
    ) -> None:
        self.store = store
        self.timeout_s = timeout_s
        self._queue_max = queue_max
        self._lock = threading.Lock()
        self._queue: deque[_Job] = deque()
        self._threads_max = threads_max
        self._workers = Workers(4 * threads_max, idle_s=5.0, name="amino-store")  # more: threads linger between jobs
        self._busy = 0
        self._idle: Signal[None] = Signal()
        self._idle.set(None)
        self._closed = False

    def __repr__(self) -> str:
        return f"StoreAccess({self.store!r}, {self._busy} busy, {len(self._queue)} waiting)"

    async def run(self, function: Callable[..., T], *args: Any, timeout_s: float | None = None) -> T:
        """Call blocking ``function``; works on loops and in plain threads. Cancellation abandons the wait.

        Raises:
            StoreFailed: as the function does; or no answer in time, or too many waiting.
        """
        if not self.store.blocks:
            return function(*args)
        limit = self.timeout_s if timeout_s is None else timeout_s
        job = _Job(function, args, Signal())
        self._submit(job)
        try:
            result, error = await job.done.wait(limit)
        except BaseException as problem:
            begun = not self._withdraw(job)
            if isinstance(problem, TimeoutError):
                raise StoreFailed(
                    f"{self.store.url} did not answer within {limit:g} s; "
                    f"{'whether it was done is unknown' if begun else 'nothing was done'}: check that it is reachable",
                    kind="timeout",
                    begun=begun,
                ) from None
            raise
        if error is not None:
            raise error
        return result  # type: ignore[no-any-return]

    async def write(self, key: str, content: Buffer) -> None:
        """Store ``content`` under a fresh name; see ``CheckpointStore.write``."""
        await self.run(self.store.write, key, [content])

    async def read(self, key: str) -> bytes | None:
        """Return the content of ``key``, None if there is no such file."""
        return await self.run(self.store.read, key)

    async def delete(self, key: str) -> None:
        """Remove ``key``; see ``CheckpointStore.delete``."""
        await self.run(self.store.delete, key)

    def run_later(self, function: Callable[..., object], *args: Any) -> None:
        """Call ``function`` some time soon and do not wait; errors are logged. For clean-up that may be lost."""
        job = _Job(function, args, None)
        if not self.store.blocks:
            job.run()
            return
        try:
            self._submit(job)
        except StoreFailed as error:
            _log.info("left for the collector: %s", error)

    async def aclose(self, timeout_s: float = 5.0) -> None:
        """Let what was begun finish (at most ``timeout_s`` seconds), end the threads, close the store. Idempotent."""
        if self._closed:
            return
        self._closed = True
        try:
            await self._idle.wait(timeout_s)
        except TimeoutError:
            _log.warning("%s still hangs; its threads are left behind", self.store.url)
            self._workers.close()
            return
        self._workers.close()
        await mode.offload(self.store.close)

    def _submit(self, job: _Job) -> None:
        with self._lock:
            if self._closed or len(self._queue) >= self._queue_max:
                state = "is closed" if self._closed else f"has {len(self._queue)} operations waiting, the most allowed"
                raise StoreFailed(f"the access to {self.store.url} {state}; try again later", kind="busy", begun=False)
            if self._busy < self._threads_max and self._workers.submit(lambda: self._work(job)):
                if self._busy == 0:
                    self._idle = Signal()
                self._busy += 1
                return
            if self._busy == 0:
                raise StoreFailed(f"no thread is free to use {self.store.url}; try again", kind="busy", begun=False)
            self._queue.append(job)

    def _work(self, job: _Job) -> None:
        following: _Job | None = job
        while following is not None:
            following.run()
            with self._lock:
                following = self._queue.popleft() if self._queue else None
                if following is None:
                    self._busy -= 1
                    if self._busy == 0:
                        self._idle.set(None)

    def _withdraw(self, job: _Job) -> bool:
        with self._lock:
            if job in self._queue:
                self._queue.remove(job)
                return True
        return False


class _Job:
    __slots__ = ("_args", "_function", "done")

    def __init__(
        self, function: Callable[..., Any], args: tuple[Any, ...], done: Signal[tuple[Any, BaseException | None]] | None
    ) -> None:
        self._function = function
        self._args = args
        self.done: Signal[tuple[Any, BaseException | None]] = done if done is not None else Signal()

    def run(self) -> None:
        outcome: tuple[Any, BaseException | None]
        try:
            outcome = (self._function(*self._args), None)
        except (AminoError, NotIntact) as error:
            _log.debug("store: %s", error)
            outcome = (None, error)
        except Exception as error:  # noqa: BLE001 - handed to the waiter, whoever it is
            _log.exception("a store operation failed unexpectedly")
            outcome = (None, error)
        self.done.set(outcome)
