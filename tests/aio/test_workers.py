"""Worker threads: what they keep, and how they end."""

from __future__ import annotations

import threading
import time
import weakref

from amino.aio.workers import Workers


class _Thing:
    """Something a job holds on to."""


def test_an_idle_thread_keeps_nothing_of_its_last_job() -> None:
    """What a job referred to goes with it, not only when the thread gets another job: it may be a deleted object's state."""
    workers = Workers(1)
    gone = threading.Event()
    ran = threading.Event()

    def job_about(thing: _Thing) -> None:
        weakref.finalize(thing, gone.set).atexit = False
        assert workers.submit(lambda: ran.set() if thing else None)

    job_about(_Thing())
    assert ran.wait(5.0)
    kept = not gone.wait(5.0)
    workers.close()
    assert not kept, "the idle thread still refers to its last job"


def test_jobs_that_block_do_not_hold_up_others() -> None:
    """As many jobs as there may be threads run at the same time, also after the threads have slept; one more is refused."""
    workers = Workers(8)
    for _ in range(20):
        together = threading.Barrier(9)
        for _ in range(8):
            while not workers.submit(lambda together=together: together.wait(5.0)):  # type: ignore[misc]
                pass  # a thread of the round before is not quite free
        assert workers.threads == 8
        assert not workers.submit(lambda: None)
        together.wait(5.0)
    workers.close()


def test_a_burst_of_short_jobs_is_done_to_the_last() -> None:
    """Threads that wake each other leave no job behind."""
    workers = Workers(4)
    done = threading.Semaphore(0)
    for _ in range(2000):
        while not workers.submit(done.release):
            pass
    for _ in range(2000):
        assert done.acquire(timeout=5.0)
    workers.close()


def test_idle_threads_end_and_new_ones_start() -> None:
    """After idling for long a thread ends; the next job gets a new one."""
    workers = Workers(2, idle_s=0.01)
    for _ in range(3):
        ran = threading.Event()
        assert workers.submit(ran.set)
        assert ran.wait(5.0)
        over = time.monotonic() + 5.0
        while workers.threads:
            assert time.monotonic() < over
    workers.close()
    assert not workers.submit(lambda: None)


def test_closing_ends_sleeping_and_busy_threads() -> None:
    """Those that sleep end at once, a busy one after its job."""
    workers = Workers(2)
    go, first = threading.Event(), threading.Event()
    assert workers.submit(first.set)
    assert first.wait(5.0)
    assert workers.submit(lambda: bool(go.wait(5.0)) and None)
    workers.close()
    go.set()
    over = time.monotonic() + 5.0
    while workers.threads:
        assert time.monotonic() < over
