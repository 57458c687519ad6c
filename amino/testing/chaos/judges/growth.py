"""The judge of leaks: what only ever grows, though the work stays the same.

Owns comparing sizes at the beginning with those at the end. Leaves reading them to whoever runs the cluster.
Invariants: pure; a restart that makes a process small again hides nothing of what etcd holds.
Failure behaviour: too few samples are a failure that says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

from amino.oms.events import EVENTS_MAX
from amino.testing.chaos.record import Sample, Verdict

NAME = "leaks"
LEAST_SAMPLES = 9
WARM_UP = 0.1
ROOM: Mapping[str, float] = {
    "memory bytes": 32 * 2**20,
    "etcd bytes": 8 * 2**20,
    "etcd keys": 30,
    "etcd events": 1.2 * EVENTS_MAX,  # a history that fills up and stays so
    "descriptors": 30,
    "threads": 20,
    "tasks": 50,
    "objects": 5,
}
"""By the end of a figure's name: growth that is no leak yet."""
GROWTH = 0.25


def leaks(samples: Sequence[Sample], *, room: Mapping[str, float] = ROOM, growth: float = GROWTH) -> Verdict:
    """Judge whether a run's figures grow: the median of the last third against that of the first, after a warm-up.

    Args:
        samples: of the whole run, in order, at rest and under faults alike.
        room: see ``ROOM``. growth: share of the first third's median by which a figure may be larger, beside its room.
    """
    kept = samples[int(len(samples) * WARM_UP) :]
    if len(kept) < LEAST_SAMPLES:
        return Verdict(NAME, False, f"could not judge: {len(kept)} samples are too few, {LEAST_SAMPLES} are needed")
    third = len(kept) // 3
    figures: dict[str, float] = {}
    wrong = []
    for name in sorted({name for sample in kept for name in sample.figures}):
        first, last = _middle(kept[:third], name), _middle(kept[-third:], name)
        if first is None or last is None:
            continue
        grown = last - first
        figures[f"{name}: grown"] = grown
        free = next((size for ending, size in room.items() if name.endswith(ending)), 0.0)
        if grown > free + growth * first:
            wrong.append(f"{name} grew from {first:,.0f} to {last:,.0f}")
    if not figures:
        return Verdict(NAME, False, "could not judge: no figure was read at the beginning and at the end")
    if wrong:
        return Verdict(NAME, False, "; ".join(wrong[:5]), figures=figures)
    return Verdict(NAME, True, f"{len(figures)} figures stay within their bounds", figures=figures)


def _middle(samples: Sequence[Sample], name: str) -> float | None:
    values = [sample.figures[name] for sample in samples if name in sample.figures]
    return median(values) if values else None
