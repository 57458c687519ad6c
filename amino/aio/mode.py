"""One body of code, two ways to wait: on the event loop, or blocking in a plain thread.

Owns the driver that runs a coroutine to its end in a thread without a loop. Code on the call path (client chain, server
chain, locks) is written once as ``async def`` and waits only through primitives that ask ``on_loop()``: with a running
loop they await; without one they block and never suspend, so the coroutine finishes in its first step. That keeps a
blocking caller on its own thread: no hand-over to a loop thread, which costs more than the call itself.
Leaves scheduling to asyncio. Invariant: ``drive`` never starts a loop.
Failure behaviour: a coroutine that suspends under ``drive`` is closed and reported as a bug.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def on_loop() -> bool:
    """Return whether this thread is running an event loop right now."""
    return asyncio._get_running_loop() is not None  # noqa: SLF001 - the documented fast look-up, without raising


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
    running = asyncio._get_running_loop()  # noqa: SLF001 - as in on_loop
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
