"""Percentiles and measuring loops.

Owns how calls are timed, so that every peer is timed in the same way. Leaves what is called to the caller.
Invariant: every loop is bounded in time and count.
Failure behaviour: a call that raises ends the loop with its error.
"""

from __future__ import annotations

import asyncio
import gc
import math
import threading
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

CALLS_MAX = 200_000
WARM_UP_CALLS = 50


def percentile(values: Sequence[float], fraction: float) -> float:
    """Return the value that ``fraction`` (0 to 1) of ``values`` do not exceed (nearest rank).

    Raises:
        ValueError: ``values`` is empty.
    """
    if not values:
        raise ValueError("a percentile needs at least one value")
    ordered = sorted(values)
    return ordered[max(0, math.ceil(fraction * len(ordered)) - 1)]


def p50(values: Sequence[float]) -> float:
    """Return the median (nearest rank)."""
    return percentile(values, 0.50)


def p99(values: Sequence[float]) -> float:
    """Return the 99th percentile (nearest rank)."""
    return percentile(values, 0.99)


def _until(seconds: float) -> Iterator[None]:
    end = time.perf_counter() + seconds
    for _ in range(CALLS_MAX):
        yield
        if time.perf_counter() >= end:
            return


def sequential(call: Callable[[], Any], seconds: float, warm_up: int = WARM_UP_CALLS) -> list[float]:
    """Call again and again from this thread; return the seconds each call took."""
    for _ in range(warm_up):
        call()
    gc.collect()
    took: list[float] = []
    for _ in _until(seconds):
        began = time.perf_counter()
        call()
        took.append(time.perf_counter() - began)
    return took


async def sequential_async(
    call: Callable[[], Awaitable[Any]], seconds: float, warm_up: int = WARM_UP_CALLS
) -> list[float]:
    """As ``sequential``, awaiting each call."""
    for _ in range(warm_up):
        await call()
    gc.collect()
    took: list[float] = []
    for _ in _until(seconds):
        began = time.perf_counter()
        await call()
        took.append(time.perf_counter() - began)
    return took


async def rate_async(call: Callable[[], Awaitable[Any]], in_flight: int, seconds: float) -> float:
    """Keep ``in_flight`` calls going from as many tasks; return calls per second."""
    done = 0
    end = 0.0

    async def caller() -> None:
        nonlocal done
        while time.perf_counter() < end and done < CALLS_MAX:
            await call()
            done += 1

    end = time.perf_counter() + min(0.2, seconds / 4)
    await asyncio.gather(*(caller() for _ in range(in_flight)))
    gc.collect()
    done = 0
    began = time.perf_counter()
    end = began + seconds
    await asyncio.gather(*(caller() for _ in range(in_flight)))
    return done / (time.perf_counter() - began)


def rate_threads(calls: Sequence[Callable[[], Any]], seconds: float) -> float:
    """Call each of ``calls`` again and again from a thread of its own; return calls per second."""
    counts = [0] * len(calls)
    errors: list[BaseException] = []
    start = threading.Barrier(len(calls) + 1)
    end = 0.0

    def caller(number: int) -> None:
        call = calls[number]
        try:
            call()
        except BaseException as error:  # noqa: BLE001 - handed to the measuring thread below
            errors.append(error)
        start.wait()
        try:
            while time.perf_counter() < end and counts[number] < CALLS_MAX and not errors:
                call()
                counts[number] += 1
        except BaseException as error:  # noqa: BLE001 - as above
            errors.append(error)

    threads = [threading.Thread(target=caller, args=(number,), daemon=True) for number in range(len(calls))]
    for thread in threads:
        thread.start()
    end = time.perf_counter() + seconds + 10  # before the barrier opens no thread counts
    start.wait()
    began = time.perf_counter()
    end = began + seconds
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return sum(counts) / (time.perf_counter() - began)


def rate_batches(batch: Callable[[int], Any], in_flight: int, seconds: float) -> float:
    """Run ``batch(in_flight)`` (that many calls at once, all answered) again and again; return calls per second."""
    batch(in_flight)
    gc.collect()
    done = 0
    began = time.perf_counter()
    for _ in _until(seconds):
        batch(in_flight)
        done += in_flight
    return done / (time.perf_counter() - began)
