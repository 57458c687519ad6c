"""Tests in virtual time: what waits for hours takes milliseconds, in the same order each time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from amino.testing.simulation import loop as simulation

AHEAD_S = 5.0
AT_MOST_S = 100_000.0


def run_virtual(main: Any) -> Any:
    """Run ``main(clock)`` on a virtual loop; whatever task it leaves behind is an error.

    The clock's boot time runs ahead of its monotonic time, so that mixing the two is noticed.
    """

    async def limited(loop: simulation.VirtualLoop) -> Any:
        return await asyncio.wait_for(main(simulation.VirtualClock(loop, AHEAD_S)), AT_MOST_S)

    return simulation.run_virtual(limited)


async def until(predicate: Callable[[], bool], timeout_s: float) -> None:
    """Wait until ``predicate()`` holds; for conditions that nothing announces."""
    async with asyncio.timeout(timeout_s):
        while not predicate():  # noqa: ASYNC110 - the time is virtual, or the condition is another process's
            await asyncio.sleep(0.01)
