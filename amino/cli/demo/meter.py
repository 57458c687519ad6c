"""How many calls were answered when, and how long each took.

Owns counting. Leaves making calls to ``workload`` and showing to ``live`` and ``closing``.
Invariants: a call is counted once; times are monotonic seconds; safe from several threads.
Failure behaviour: a call that ended in an error about the call itself counts as failed, with the first few errors kept.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from dataclasses import dataclass
from itertools import pairwise

_ERRORS_KEPT = 20


@dataclass(frozen=True, slots=True)
class Latency:
    """Calls of one kind: how many, and percentiles in milliseconds (0 when there are none)."""

    calls: int
    p50_ms: float
    p99_ms: float
    max_ms: float


class Meter:
    """Counts the calls of all clients."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ended: list[float] = []
        self._kinds: list[str] = []
        self._took_s: list[float] = []
        self._failed = 0
        self._errors: list[str] = []

    def __repr__(self) -> str:
        return f"Meter({self.calls} calls, {self.failed} failed)"

    @property
    def calls(self) -> int:
        """Calls acknowledged so far."""
        return len(self._ended)

    @property
    def failed(self) -> int:
        """Calls that ended without an answer."""
        return self._failed

    @property
    def errors(self) -> tuple[str, ...]:
        """The first few errors."""
        with self._lock:
            return tuple(self._errors)

    def answered(self, kind: str, began: float, ended: float) -> None:
        """Count a call that was answered."""
        with self._lock:
            if self._ended and ended < self._ended[-1]:
                ended = self._ended[-1]  # threads come here in another order than their calls ended, by microseconds
            self._ended.append(ended)
            self._kinds.append(kind)
            self._took_s.append(ended - began)

    def failure(self, kind: str, error: Exception) -> None:
        """Count a call that was not answered."""
        with self._lock:
            self._failed += 1
            if len(self._errors) < _ERRORS_KEPT:
                self._errors.append(f"{kind}: {type(error).__name__}: {error}")

    def rate(self, now: float, over_s: float = 1.0) -> float:
        """Return calls per second during the last ``over_s`` seconds."""
        with self._lock:
            return (len(self._ended) - bisect_left(self._ended, now - over_s)) / over_s

    def buckets(self, since: float, width_s: float, count: int) -> list[int]:
        """Return how many calls were answered in each of ``count`` spans of ``width_s`` seconds from ``since`` on."""
        with self._lock:
            edges = [bisect_left(self._ended, since + index * width_s) for index in range(count + 1)]
        return [after - before for before, after in pairwise(edges)]

    def latencies(self, since: float = 0.0) -> dict[str, Latency]:
        """Return the latencies of each kind of call answered after ``since``."""
        by_kind: dict[str, list[float]] = {}
        with self._lock:
            start = bisect_left(self._ended, since)
            pairs = list(zip(self._kinds[start:], self._took_s[start:], strict=True))
        for kind, took_s in pairs:
            by_kind.setdefault(kind, []).append(took_s)
        return {kind: _latency(sorted(values)) for kind, values in by_kind.items()}


def _latency(ordered: list[float]) -> Latency:
    def at(share: float) -> float:
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1000

    return Latency(len(ordered), at(0.5), at(0.99), ordered[-1] * 1000)
