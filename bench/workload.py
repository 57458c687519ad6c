"""The classes that the benchmarks run on kernel servers.

Owns them. Leaves measuring to the benchmarks, except between co-located objects, which only an object can measure.
Invariant: importable by the servers, which are started with this repository on their path.
Failure behaviour: none.
"""

from __future__ import annotations

import time
from typing import Any, Literal

import amino


class Null:
    """Does nothing, in every way a method can."""

    async def null_async(self) -> None:
        """Do nothing on the loop."""

    @amino.inline
    def null_inline(self) -> None:
        """Do nothing where the frame was read."""

    def null_def(self) -> None:
        """Do nothing in a worker thread."""

    async def echo(self, payload: bytes) -> bytes:
        """Return what came."""
        return payload


class Neighbour:
    """Calls an object on its own server."""

    async def time_async(self, other: Any, seconds: float) -> list[float]:
        """Call ``other.null_async`` for ``seconds``; return the seconds each call took."""
        took: list[float] = []
        end = time.perf_counter() + seconds
        while (began := time.perf_counter()) < end:
            await other.null_async()
            took.append(time.perf_counter() - began)
        return took

    def time_inline(self, other: Any, seconds: float) -> list[float]:
        """Call ``other.null_inline`` for ``seconds`` from a worker thread; return the seconds each call took."""
        took: list[float] = []
        end = time.perf_counter() + seconds
        while (began := time.perf_counter()) < end:
            other.null_inline()
            took.append(time.perf_counter() - began)
        return took


class Counter:
    """Counts; what it acknowledged must never be lost."""

    def __init__(self, start: int = 0) -> None:
        self.value = start

    def add(self, n: int = 1) -> int:
        """Add ``n`` and return the sum."""
        self.value += n
        return self.value

    @amino.readonly
    def get(self) -> int:
        """Return the sum."""
        return self.value


class Replicated(Counter):
    """Counts, in both colours."""

    async def add_async(self) -> int:
        """Add one and return the sum."""
        self.value += 1
        return self.value

    @amino.readonly
    async def get_async(self) -> int:
        """Return the sum."""
        return self.value


class Ticking:
    """Notes when its timers fired."""

    def __init__(self) -> None:
        self.fired: dict[str, list[tuple[int, int, float, float]]] = {}

    def begin(self, count: int, missed: Literal["fire", "skip", "coalesce"]) -> None:
        """Set ``count`` timers, each due once a second, spread over the second."""
        for number in range(count):
            name = f"{missed}-{number}"
            amino.timer(self._tick, after_s=1.0 + number / count, every_s=1.0, name=name, args=(name,), missed=missed)

    def end(self) -> None:
        """Cancel them."""
        for each in amino.timers():
            amino.cancel_timer(each.name)

    def _tick(self, name: str) -> None:
        firing = amino.current().timer
        assert firing is not None
        self.fired.setdefault(name, []).append((firing.number, firing.missed, amino.now() - firing.due, firing.due))

    @amino.readonly
    def report(self) -> dict[str, list[tuple[int, int, float, float]]]:
        """Return number, missed ones before, seconds late and due time of what fired, by timer."""
        return self.fired


class Blob:
    """Carries state of a given size and counts calls."""

    def __init__(self, size: int) -> None:
        self.blob = bytes(size)
        self.calls = 0

    def add(self) -> int:
        """Count one call."""
        self.calls += 1
        return self.calls


class Idle:
    """As small as an object can be."""

    def ping(self) -> bool:
        """Answer."""
        return True
