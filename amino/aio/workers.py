"""Worker threads for blocking methods.

Owns a pool that grows on demand to a bound and keeps idle threads. Leaves queueing policy to the dispatcher: when all
threads are busy and the bound is reached, ``submit`` refuses at once, because queued blocking calls that wait for each
other would deadlock.
Invariant: never more than ``threads_max`` threads; a thread runs one job at a time.
Failure behaviour: a job that raises is logged as a bug of its submitter; the thread lives on.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable

_log = logging.getLogger("amino.workers")


class InlineWorkers:
    """No threads at all: jobs run at once, where they are submitted. For simulation, where all runs on one loop."""

    inline = True
    threads = 0
    busy = 0

    def submit(self, job: Callable[[], None]) -> bool:
        """Run ``job``."""
        job()
        return True

    def close(self) -> None:
        """Do nothing."""


class Workers:
    """A bounded pool of daemon threads, started on demand.

    The thread that fell asleep last is woken first, one that is awake anyway takes the next job without sleeping, and each
    wakes at most one other: few threads do most of the work, unless it blocks.

    Args:
        threads_max: most threads at once (1 or more).
        idle_s: an idle thread ends after so many seconds.
    """

    inline = False

    def __init__(self, threads_max: int, idle_s: float = 30.0, name: str = "amino-worker") -> None:
        self._max = threads_max
        self._idle_s = idle_s
        self._name = name
        self._lock = threading.Lock()
        self._jobs: deque[Callable[[], None]] = deque()
        self._asleep: list[threading.Lock] = []
        self._waking = False  # one thread is on the way from its sleep to the jobs
        self._threads = 0
        self._free = 0  # threads without a job, less the jobs that wait: so many more can be taken at once
        self._closed = False

    def __repr__(self) -> str:
        return f"Workers({self._threads}/{self._max} threads, {self._free} free)"

    @property
    def threads(self) -> int:
        """How many threads live now."""
        return self._threads

    @property
    def busy(self) -> int:
        """How many of them run a job."""
        return self._threads - self._free

    def submit(self, job: Callable[[], None]) -> bool:
        """Hand ``job`` to a thread at once; returns False, with nothing done, when all are busy. From any thread."""
        with self._lock:
            if self._closed:
                return False
            if self._free > 0:
                self._free -= 1
                self._jobs.append(job)
                self._wake_one()
                return True
            if self._threads >= self._max:
                return False
            self._threads += 1
        threading.Thread(target=self._run, args=([job],), name=self._name, daemon=True).start()
        return True

    def _wake_one(self) -> None:
        """With the lock: see that somebody comes for the next job; if nobody sleeps, somebody is about to look anyway."""
        if self._asleep and not self._waking:
            self._waking = True
            self._asleep.pop().release()

    def _run(self, first: list[Callable[[], None]]) -> None:
        wake = threading.Lock()
        wake.acquire()
        job: Callable[[], None] | None = first.pop()  # out of the thread's own arguments, which live as long as it does
        while job is not None:
            try:
                job()
            except BaseException:  # noqa: BLE001 - a thread must outlive any job; the job reports its own errors
                _log.exception("a worker job raised")
            job = None  # idle, this thread must not keep alive what the job was about
            with self._lock:
                self._free += 1
            job = self._next(wake)

    def _next(self, wake: threading.Lock) -> Callable[[], None] | None:
        """Wait for a job; None to end, after idling for long or when closed."""
        rested = woken = False
        while True:
            with self._lock:
                if woken:
                    self._waking = False
                if self._jobs:
                    job = self._jobs.popleft()
                    if self._jobs:
                        self._wake_one()
                    return job
                if rested or self._closed:
                    self._free -= 1
                    self._threads -= 1
                    return None
                self._asleep.append(wake)
            woken = wake.acquire(timeout=self._idle_s)
            if not woken:
                with self._lock:
                    rested = wake in self._asleep
                    if rested:
                        self._asleep.remove(wake)
                if not rested:
                    woken = wake.acquire()  # somebody is waking us right now

    def close(self) -> None:
        """Let idle threads end and refuse further jobs; running jobs finish. Idempotent, never waits."""
        with self._lock:
            self._closed = True
            asleep, self._asleep = self._asleep, []
        for wake in asleep:
            wake.release()
