"""Counting and timing calls, cheaply enough for each of them.

Owns counters and histograms of calls, and their form for OpenTelemetry's exporters. Leaves exporting to those.
OpenTelemetry's own instruments cost some ten microseconds for the two of a call, a good part of a whole call; these cost less
than one, and are handed to the exporter as finished data (``CallSeries.metrics``).
Invariants: what is exported is cumulative since ``start_ns``; the number of series is bounded.
Failure behaviour: beyond the bound calls are counted under the method ``other``.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections import defaultdict
from typing import TYPE_CHECKING

from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Histogram,
    HistogramDataPoint,
    Metric,
    NumberDataPoint,
    Sum,
)

from amino.telemetry import names
from amino.telemetry.metrics import Series

if TYPE_CHECKING:
    from collections.abc import Sequence

DURATION_BOUNDS_S = (
    0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
    10.0, 30.0,
)  # fmt: skip
SERIES_MAX = 10_000
OTHER = "other"


class OneSeries(Series):
    """Calls of one method: a histogram of all, and a counter for each outcome."""

    __slots__ = ("_lock", "buckets", "highest_s", "lowest_s", "outcomes", "total_s")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.buckets = [0] * (len(DURATION_BOUNDS_S) + 1)
        self.outcomes: dict[str, int] = defaultdict(int)
        self.total_s = 0.0
        self.lowest_s = float("inf")
        self.highest_s = float("-inf")

    def add(self, outcome: str, duration_s: float) -> None:
        """Count one call."""
        bucket = bisect_left(DURATION_BOUNDS_S, duration_s)
        with self._lock:
            self.buckets[bucket] += 1
            self.outcomes[outcome] += 1
            self.total_s += duration_s
            if duration_s < self.lowest_s:
                self.lowest_s = duration_s
            if duration_s > self.highest_s:
                self.highest_s = duration_s

    def read(self) -> tuple[list[int], dict[str, int], float, float, float]:
        """Return buckets, outcomes, sum, least and most, of one moment."""
        with self._lock:
            return [*self.buckets], dict(self.outcomes), self.total_s, self.lowest_s, self.highest_s


class CallSeries:
    """All series of a process."""

    def __init__(self) -> None:
        self.start_ns = time.time_ns()
        self._lock = threading.Lock()
        self._series: dict[tuple[str, str, str], OneSeries] = {}

    def __repr__(self) -> str:
        return f"CallSeries({len(self._series)})"

    def of(self, side: str, method: str, dms: str) -> Series:
        """Return the series of a method, made if there is none yet."""
        with self._lock:
            found = self._series.get((side, method, dms))
            if found is None:
                if len(self._series) >= SERIES_MAX:
                    method, dms = OTHER, ""
                found = self._series.setdefault((side, method, dms), OneSeries())
            return found

    def metrics(self) -> Sequence[Metric]:
        """Return all that was counted so far, as an exporter takes it; empty if nothing was."""
        now_ns = time.time_ns()
        with self._lock:
            series = list(self._series.items())
        counts, durations = [], []
        for (side, method, dms), one in series:
            buckets, outcomes, total_s, lowest_s, highest_s = one.read()
            if not outcomes:
                continue
            labels = {names.SIDE: side, names.METHOD_NAME: method, names.DMS: dms}
            counts += [
                NumberDataPoint({**labels, names.OUTCOME: outcome}, self.start_ns, now_ns, count)
                for outcome, count in outcomes.items()
            ]
            durations.append(
                HistogramDataPoint(
                    labels,
                    self.start_ns,
                    now_ns,
                    sum(buckets),
                    total_s,
                    buckets,
                    DURATION_BOUNDS_S,
                    lowest_s,
                    highest_s,
                )
            )
        if not counts:
            return ()
        cumulative = AggregationTemporality.CUMULATIVE
        return (
            _metric(names.CALLS, Sum(counts, cumulative, is_monotonic=True)),
            _metric(names.CALL_DURATION, Histogram(durations, cumulative)),
        )


def _metric(name: str, data: Sum | Histogram) -> Metric:
    about = names.METRICS[name]
    return Metric(name, about.meaning, about.unit, data)
