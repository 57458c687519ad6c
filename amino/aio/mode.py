"""One body of code, two ways to wait: on the event loop, or blocking in a plain thread.

Owns the driver that runs a coroutine to its end in a thread without a loop. Code on the call path (client chain, server
chain, locks) is written once as ``async def`` and waits only through primitives that ask ``on_loop()``: with a running
loop they await; without one they block and never suspend, so the coroutine finishes in its first step. That keeps a
blocking caller on its own thread: no hand-over to a loop thread, which costs more than the call itself.
Where a call would wait long for something outside, such as a disk or another server, it may leave its thread (``surface``).
Leaves scheduling to asyncio. Invariant: ``drive`` never starts a loop.
Failure behaviour: a coroutine that suspends under ``drive`` is closed and reported as a bug.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Generator, Iterable
from contextvars import Context, copy_context
from typing import Any, TypeVar

T = TypeVar("T")


running_loop: Callable[[], asyncio.AbstractEventLoop | None] = asyncio._get_running_loop  # noqa: SLF001 - see below
"""Returns the loop that this thread is running right now, or None: the documented fast look-up, without raising."""


def on_loop() -> bool:
    """Return whether this thread is running an event loop right now."""
    return running_loop() is not None


class _Surface:
    """Awaited in a thread, gives the coroutine back to who drives it there, to be carried on on a loop."""

    def __await__(self) -> Generator[_Surface, None, None]:
        yield self


_SURFACE = _Surface()


async def surface() -> None:
    """Go on on the loop of ``dive``, which must be driving us if this is a thread: a long wait then keeps no thread."""
    if not on_loop():
        await _SURFACE


def dive(coroutine: Coroutine[Any, Any, None], surfaced: Callable[[Surfaced], None]) -> None:
    """As ``drive``, but the coroutine may ``surface``: then ``surfaced`` gets the rest of it, to be run on a loop."""
    context = copy_context()
    try:
        given = context.run(coroutine.send, None)
    except StopIteration:
        return
    if given is _SURFACE:
        surfaced(Surfaced(coroutine, context))
        return
    coroutine.close()
    raise RuntimeError(
        f"{coroutine!r} awaited an event-loop primitive in a blocking call; wait through its context instead"
    )


class Surfaced(Coroutine[Any, Any, None]):
    """The rest of a coroutine that has begun in a thread; it keeps the context that it began in."""

    __slots__ = ("__weakref__", "_context", "_rest")
    __name__ = "surfaced"

    def __init__(self, rest: Coroutine[Any, Any, None], context: Context) -> None:
        self._rest = rest
        self._context = context

    def __await__(self) -> Any:
        raise TypeError(f"a {self.__name__} coroutine is for a task of its own; nobody awaits it")

    def send(self, value: Any) -> Any:
        """Take a step."""
        return self._context.run(self._rest.send, value)

    def throw(self, kind: Any, value: Any = None, traceback: Any = None) -> Any:  # noqa: ARG002 - the coroutine's
        """Raise an error, such as the task's cancellation, in it."""
        return self._context.run(self._rest.throw, kind if value is None else value)

    def close(self) -> None:
        """End it."""
        self._context.run(self._rest.close)


def drive(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run ``coroutine`` to its end in this thread, blocking wherever it waits.

    Args:
        coroutine: awaits only primitives of this package or coroutines built of them.

    Returns:
        What the coroutine returns; its exceptions pass through.

    Raises:
        RuntimeError: the coroutine awaited something that needs an event loop; it has been closed.
    """
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]
    coroutine.close()
    name = getattr(coroutine, "__qualname__", repr(coroutine))
    raise RuntimeError(f"{name} awaited an event-loop primitive in a blocking call; wait through its context instead")


async def sleep(seconds: float) -> None:
    """Wait for ``seconds`` (0 or more) in the way that fits this thread. Cancellable on a loop only."""
    if on_loop():
        await asyncio.sleep(seconds)
    elif seconds > 0:
        time.sleep(seconds)  # noqa: ASYNC251 - no loop runs in this thread


async def offload(function: Callable[..., T], *args: Any) -> T:
    """Run blocking ``function`` without holding up a loop: in a thread if on a loop, else right here.

    On a loop, cancellation abandons the wait; the function still finishes in its thread.
    """
    if on_loop():
        return await asyncio.get_running_loop().run_in_executor(None, function, *args)
    return function(*args)


async def on(loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, T], timeout_s: float | None = None) -> T:
    """Run ``coroutine`` on ``loop`` and wait for it from wherever we are (that loop, another one, or a thread).

    Raises:
        TimeoutError: no result within ``timeout_s`` seconds; the coroutine has been cancelled.
    """
    running = running_loop()
    if running is loop:
        return await (coroutine if timeout_s is None else asyncio.wait_for(coroutine, timeout_s))
    future = asyncio.run_coroutine_threadsafe(coroutine, loop)
    if running is not None:
        return await asyncio.wait_for(asyncio.wrap_future(future), timeout_s)
    try:
        return future.result(timeout_s)
    except TimeoutError:
        future.cancel()
        raise


async def together(coroutines: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Run coroutines at the same time on a loop, one after the other in a thread without one.

    Returns:
        What each returns, in their order. The first error passes through when all have ended; on a loop it, and a cancellation, ends
        the others early.
    """
    several = list(coroutines)
    if len(several) < 2 or not on_loop():
        return [await each for each in several]
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(each) for each in several]
    except BaseExceptionGroup as problems:
        raise problems.exceptions[0] from None
    return [task.result() for task in tasks]
