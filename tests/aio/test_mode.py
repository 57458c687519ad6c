"""Waiting in two ways, and leaving a thread half-way to wait on a loop."""

from __future__ import annotations

import asyncio
import threading
from contextvars import ContextVar

import pytest

from amino.aio.mode import dive, drive, on_loop, surface, together
from amino.aio.signal import Signal
from amino.aio.tasks import TaskOwner

NAME: ContextVar[str] = ContextVar("NAME", default="nobody")


def in_a_thread(job):
    thread = threading.Thread(target=job)
    thread.start()
    thread.join()


async def dived(coroutine, owner):
    """Begin ``coroutine`` in a thread, carry it on here, and return the task or outcome of the rest, None if none is left."""
    found = []
    in_a_thread(lambda: dive(coroutine, found.append))
    return owner.start(found[0]) if found else None


def test_a_coroutine_begins_in_a_thread_and_goes_on_on_the_loop():
    """Before it surfaces it blocks its thread, afterwards it is awaited, in the context that it began in."""

    async def main():
        owner, seen, released = TaskOwner("test"), [], Signal()

        async def call():
            token = NAME.set("mine")
            seen.append((threading.current_thread() is threading.main_thread(), on_loop()))
            await surface()
            seen.append((threading.current_thread() is threading.main_thread(), on_loop()))
            seen.append(await released.wait(5.0))
            seen.append(NAME.get())
            NAME.reset(token)

        task = await dived(call(), owner)
        assert seen == [(False, False), (True, True)]
        released.set("done")
        await task
        assert seen[2:] == ["done", "mine"]
        assert NAME.get() == "nobody"
        await owner.aclose()

    asyncio.run(main())


def test_a_coroutine_that_never_surfaces_ends_in_its_thread():
    """Nothing is handed on, and what it raises is raised in the thread."""

    async def fine():
        return None

    async def broken():
        raise KeyError("no")

    async def main():
        owner = TaskOwner("test")
        assert await dived(fine(), owner) is None
        await owner.aclose()

    asyncio.run(main())
    with pytest.raises(KeyError):
        dive(broken(), lambda _: None)


def test_what_has_surfaced_is_cancelled_and_closed_where_it_waits():
    """Cancelling its task, or closing it before it has one, reaches the coroutine."""

    async def main():
        owner, ended = TaskOwner("test"), []

        async def call():
            try:
                await surface()
                await asyncio.sleep(3600)
            except BaseException as error:
                ended.append(type(error))
                raise

        task = await dived(call(), owner)
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        found = []
        in_a_thread(lambda: dive(call(), found.append))
        found[0].close()
        assert ended == [asyncio.CancelledError, GeneratorExit]
        await owner.aclose()

    asyncio.run(main())


def test_who_needs_a_loop_in_a_thread_is_told():
    """A coroutine that awaits something of asyncio in a thread is closed; ``drive`` takes none that surfaces."""

    async def sleeps():
        await asyncio.sleep(0)

    with pytest.raises(RuntimeError, match="event-loop primitive"):
        dive(sleeps(), lambda _: None)
    with pytest.raises(RuntimeError, match="event-loop primitive"):
        drive(surface())


def test_surfacing_on_a_loop_changes_nothing():
    """On a loop there is nowhere to go."""

    async def main():
        await surface()
        assert on_loop()

    asyncio.run(main())


def test_a_signal_is_awaited_with_a_bound_on_loops_and_in_threads():
    """What was set is returned, from wherever; what was not raises after the bound and leaves no waiter."""

    async def main():
        signal: Signal[int] = Signal()
        with pytest.raises(TimeoutError):
            await signal.wait(0.0)
        waiting = [asyncio.ensure_future(signal.wait(5.0)), asyncio.ensure_future(signal.wait())]
        threaded = asyncio.get_running_loop().run_in_executor(None, lambda: drive(signal.wait(5.0)))
        await asyncio.sleep(0)
        signal.set(7)
        assert await asyncio.gather(*waiting, threaded) == [7, 7, 7]

    asyncio.run(main())
    never: Signal[int] = Signal()
    with pytest.raises(TimeoutError):
        drive(never.wait(0.001))
    assert "0 waiting" in repr(never)


async def test_together_is_at_the_same_time_on_a_loop():
    """The first can wait for the last; results are in order; the first error ends the others, and is itself."""
    released, ended = Signal(), []

    async def first():
        await released.wait()
        return 1

    async def last():
        released.set(None)
        return 2

    assert await together([first(), last()]) == [1, 2]
    assert await together([]) == []

    async def refuses():
        raise KeyError("no")

    async def waits():
        try:
            await Signal().wait()
        finally:
            ended.append(True)

    with pytest.raises(KeyError, match="no"):
        await together([waits(), refuses()])
    assert ended == [True]


def test_together_is_one_after_the_other_in_a_thread():
    """Nothing there can be suspended."""
    seen = []

    async def note(number):
        seen.append(number)
        return number

    in_a_thread(lambda: seen.append(drive(together(note(number) for number in range(3)))))
    assert seen == [0, 1, 2, [0, 1, 2]]
