"""Waiting for a blocking store: from loops and threads, bounded in time and number."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest

from amino.checkpoint.access import StoreAccess
from amino.checkpoint.format import NotIntact
from amino.errors import StoreFailed
from tests.checkpoint.faulty_store import FaultyStore

Threaded = Callable[[Callable[[], Any]], asyncio.Future[Any]]


async def test_a_store_that_hangs_times_out(access: StoreAccess, files: FaultyStore) -> None:
    """The wait ends when it should, and says that the operation may still happen; the loop was free meanwhile."""
    files.gate.clear()
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0.005)

    ticking = asyncio.ensure_future(tick())
    with pytest.raises(StoreFailed, match=r"within 0.1 s; whether it was done is unknown") as failure:
        await access.run(files.write, "k", [b"x"], timeout_s=0.1)
    ticking.cancel()
    assert (failure.value.details["kind"], failure.value.details["begun"]) == ("timeout", True)
    assert ticks > 5


async def test_what_waits_in_the_queue_is_not_done_after_its_time(access: StoreAccess, files: FaultyStore) -> None:
    """An operation that never began within its time is never done."""
    files.gate.clear()
    hanging = [asyncio.ensure_future(access.run(files.read, "k")) for _ in range(4)]
    await asyncio.to_thread(files.entered.wait, 10)
    with pytest.raises(StoreFailed, match="nothing was done") as failure:
        await access.run(files.write, "late", [b"x"], timeout_s=0.05)
    assert failure.value.details["begun"] is False
    files.gate.set()
    await asyncio.gather(*hanging)
    await access.aclose()
    assert files.inner.read("late") is None


async def test_the_queue_is_bounded(files: FaultyStore) -> None:
    """Beyond its bound the queue refuses at once."""
    access = StoreAccess(files, threads_max=1, queue_max=2)
    files.gate.clear()
    waiting = [asyncio.ensure_future(access.run(files.exists, "k")) for _ in range(3)]
    await asyncio.to_thread(files.entered.wait, 10)
    with pytest.raises(StoreFailed, match="2 operations waiting") as failure:
        await access.run(files.exists, "k")
    assert failure.value.details["kind"] == "busy"
    files.gate.set()
    await asyncio.gather(*waiting)
    await access.aclose()
    with pytest.raises(StoreFailed, match="is closed"):
        await access.run(files.exists, "k")


async def test_never_more_at_once_than_allowed(files: FaultyStore, in_thread: Threaded) -> None:
    """However many callers, on the loop and in threads, so many operations run at once, and every one is answered."""
    access = StoreAccess(files, threads_max=3)
    lock, now, most = threading.Lock(), 0, 0

    def work(number: int) -> int:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        files.inner.write(f"f/{number}", [b"x" * 1000])
        with lock:
            now -= 1
        return number

    tasks = [asyncio.ensure_future(access.run(work, n)) for n in range(200)]
    threads = [in_thread(lambda n=n: access.run(work, n)) for n in range(200, 220)]
    assert await asyncio.gather(*tasks, *threads) == list(range(220))
    assert 1 < most <= 3
    await access.aclose()


async def test_clean_up_is_done_before_closing(access: StoreAccess, files: FaultyStore) -> None:
    """What was asked for without waiting is finished by the time the access is closed; its errors are only logged."""
    for n in range(20):
        files.inner.write(f"d/{n}", [b"x"])
        access.run_later(files.delete, f"d/{n}")
    access.run_later(files.delete, "../bad")
    await access.aclose()
    await access.aclose()
    assert files.inner.list("") == []
    access.run_later(files.delete, "too/late")


async def test_unexpected_errors_reach_the_caller(access: StoreAccess) -> None:
    """A bug in a store is raised where it was called, and the thread goes on."""

    def bug() -> None:
        raise KeyError("bug")

    for _ in range(10):
        with pytest.raises(KeyError, match="bug"):
            await access.run(bug)


async def test_what_is_found_in_a_file_is_no_failure_of_the_store(
    access: StoreAccess, caplog: pytest.LogCaptureFixture
) -> None:
    """A damaged checkpoint is for the one who reads it to tell of; the log has no traceback of it."""

    def read() -> None:
        raise NotIntact("its sha256 does not match")

    with pytest.raises(NotIntact):
        await access.run(read)
    assert not [one for one in caplog.records if one.levelno > logging.DEBUG]
