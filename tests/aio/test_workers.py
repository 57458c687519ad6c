"""Worker threads: what they keep, and how they end."""

from __future__ import annotations

import threading
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
