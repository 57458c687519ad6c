"""What happened over time: answers, errors and latencies of a run in equal slices.

Owns dividing and percentiles. Leaves drawing to ``timeline``.
Invariants: pure; each operation counts in one slice, the one in which it was answered, or begun if it never was.
Failure behaviour: none; a run without operations has slices without any.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from amino.testing.chaos.history import Operation

SLICES_MAX = 160
WIDTHS_S = (0.1, 0.2, 0.25, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300)


@dataclass(slots=True)
class Series:
    """One value for each slice; latencies in milliseconds, None where nothing was answered.

    Args:
        width_s: of a slice; the first begins at 0.
    """

    width_s: float
    ok: list[int] = field(default_factory=list)
    failed: list[int] = field(default_factory=list)
    unknown: list[int] = field(default_factory=list)
    p50_ms: list[float | None] = field(default_factory=list)
    p99_ms: list[float | None] = field(default_factory=list)
    worst_ms: list[float | None] = field(default_factory=list)

    @property
    def until_s(self) -> float:
        """The end of the last slice."""
        return self.width_s * len(self.ok)


def width_for(until_s: float) -> float:
    """Return how wide slices are for a run of that length."""
    return next((width for width in WIDTHS_S if until_s / width <= SLICES_MAX), WIDTHS_S[-1])


def sliced(operations: Sequence[Operation], until_s: float) -> Series:
    """Return the series of a run that ended at ``until_s``."""
    series = Series(width_for(until_s))
    count = max(math.ceil(until_s / series.width_s), 1)
    series.ok, series.failed, series.unknown = ([0] * count for _ in range(3))
    took: list[list[float]] = [[] for _ in range(count)]
    for one in operations:
        moment = one.ended_s if one.ended_s < math.inf else one.began_s
        place = min(int(moment / series.width_s), count - 1)
        if one.outcome == "ok":
            series.ok[place] += 1
            took[place].append((one.ended_s - one.began_s) * 1e3)
        elif one.outcome == "failed":
            series.failed[place] += 1
        else:
            series.unknown[place] += 1
    for each in took:
        each.sort()
        series.p50_ms.append(percentile(each, 0.5))
        series.p99_ms.append(percentile(each, 0.99))
        series.worst_ms.append(each[-1] if each else None)
    return series


def percentile(ordered: Sequence[float], share: float) -> float | None:
    """Return the value below which that share of ``ordered`` lies, None of nothing."""
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)] if ordered else None


def end_of(operations: Sequence[Operation], *others: float) -> float:
    """Return the last moment of a run that anything tells of."""
    ends = [one.ended_s if one.ended_s < math.inf else one.began_s for one in operations]
    return max([0.0, *ends, *(other for other in others if other < math.inf)])
