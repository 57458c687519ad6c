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
from collections.abc import Callable
from queue import Empty, SimpleQueue

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

    Args:
        threads_max: most threads at once (1 or more).
        idle_s: an idle thread ends after so many seconds.
    """

    inline = False

    def __init__(self, threads_max: int, idle_s: float = 30.0, name: str = "amino-worker") -> None:
        self._max = threads_max
        self._idle_s = idle_s
        self._name = name
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0
        self._free = 0
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
                start = False
            elif self._threads < self._max:
                self._threads += 1
                start = True
            else:
                return False
        if start:
            threading.Thread(target=self._run, args=([job],), name=self._name, daemon=True).start()
        else:
            self._jobs.put(job)
        return True

    def _run(self, first: list[Callable[[], None]]) -> None:
        job = first.pop()  # out of the thread's own arguments, which live as long as it does
        while True:
            try:
                job()
            except BaseException:  # noqa: BLE001 - a thread must outlive any job; the job reports its own errors
                _log.exception("a worker job raised")
            del job  # idle, this thread must not keep alive what the job was about
            with self._lock:
                if self._closed:
                    self._threads -= 1
                    return
                self._free += 1
            following: Callable[[], None] | None = None
            try:
                following = self._jobs.get(timeout=self._idle_s)
            except Empty:
                with self._lock:
                    if self._free > 0:  # nobody counted on us meanwhile
                        self._free -= 1
                        self._threads -= 1
                        return
                following = self._jobs.get()
            if following is None:
                with self._lock:
                    self._threads -= 1
                return
            job, following = following, None

    def close(self) -> None:
        """Let idle threads end and refuse further jobs; running jobs finish. Idempotent, never waits."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            free, self._free = self._free, 0
        for _ in range(free):
            self._jobs.put(None)
