"""An event loop whose time jumps to the next timer: what waits for hours takes milliseconds, in the same order each time."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any


class _Jumping(selectors.DefaultSelector):
    loop: VirtualLoop

    def select(self, timeout=None):
        ready = super().select(0)
        if not ready and timeout is not None and timeout > 0:
            self.loop.now += timeout
        elif not ready and timeout is None:
            return super().select(0.05)  # nothing but another thread can wake us
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop on virtual time, starting at 1000 s."""

    def __init__(self) -> None:
        self.now = 1000.0
        selector = _Jumping()
        selector.loop = self
        super().__init__(selector)

    def time(self) -> float:
        return self.now


class VirtualClock:
    """The loop's time as a clock; boot time runs 5 s ahead, so that mixing the two is noticed."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop

    def monotonic(self) -> float:
        return self._loop.now

    def boottime(self) -> float:
        return self._loop.now + 5.0

    def wall(self) -> float:
        return 1_700_000_000.0 + self._loop.now


def run_virtual(main: Any) -> Any:
    """Run ``main(clock)`` on a virtual loop; whatever task it leaves behind is an error."""
    loop = VirtualLoop()
    try:
        coroutine: Coroutine[Any, Any, Any] = main(VirtualClock(loop))
        result = loop.run_until_complete(asyncio.wait_for(coroutine, 100_000))
        left = asyncio.all_tasks(loop)
        assert not left, f"left behind: {left}"
        return result
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


async def until(predicate: Callable[[], bool], timeout_s: float) -> None:
    """Wait until ``predicate()`` holds; for conditions that nothing announces."""
    async with asyncio.timeout(timeout_s):
        while not predicate():  # noqa: ASYNC110 - the time is virtual, or the condition is another process's
            await asyncio.sleep(0.01)
