"""The judge of liveness: for how long nobody was answered, fault by fault.

Owns measuring and comparing with bounds. Leaves what the bounds are to scenarios.
Invariants: pure; a fault's unavailability is the longest time without a good answer that reaches into the time from its
beginning to the injection of the next, counted from its beginning. Faults that did not happen are not counted.
Failure behaviour: no answer after a fault is unavailability up to the end of the workers, and a failure.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from statistics import median

from amino.testing.chaos.history import Operation
from amino.testing.chaos.record import FaultRecord, Verdict

NAME = "liveness"
SHOWN_MAX = 6
PACE_S = 0.25
"""A silence that began no longer than this before the next fault is that one's: workers rest between two calls."""


def liveness(
    operations: Iterable[Operation],
    faults: Sequence[FaultRecord],
    *,
    patience_s: float,
    bounds: Mapping[str, float] | None = None,
) -> Verdict:
    """Judge how long a workload went unanswered around each fault.

    Args:
        operations: of one workload; those of the audit (a worker below 0) do not count.
        patience_s: how long it may go unanswered after a fault is undone, or began if it is not undone.
        bounds: by kind of fault: how long it may go unanswered after the fault began, whether it is undone or not.
    """
    asked = sorted((one for one in operations if one.worker >= 0), key=lambda one: one.began_s)
    ends = sorted(one.ended_s for one in asked if one.outcome == "ok")
    happened = sorted((fault for fault in faults if fault.verified), key=lambda fault: fault.began_s)
    if not ends:
        return Verdict(NAME, False, "no operation was answered")
    last_s = max(one.ended_s if one.ended_s < math.inf else one.began_s for one in asked)
    by_kind: dict[str, list[float]] = {}
    after_heal: dict[str, float] = {}
    wrong: list[tuple[FaultRecord, float, float]] = []
    for place, fault in enumerate(happened):
        if fault.began_s >= last_s:
            continue
        until_s = happened[place + 1].from_s if place + 1 < len(happened) else last_s
        gaps = _gaps(ends, fault.began_s, until_s, last_s)
        unavailable_s = max(end - begin for begin, end in gaps)
        by_kind.setdefault(fault.kind, []).append(unavailable_s)
        bound_s = (bounds or {}).get(fault.kind)
        healed_s = fault.healed_s if fault.healed_s < math.inf else fault.began_s
        healed_gap_s = max(0.0, *(end - max(begin, healed_s) for begin, end in gaps))
        after_heal[fault.kind] = max(after_heal.get(fault.kind, 0.0), healed_gap_s)
        over_s = unavailable_s if bound_s is not None else healed_gap_s
        if over_s > (patience_s if bound_s is None else bound_s):
            wrong.append((fault, unavailable_s, over_s))
    figures = _figures(by_kind, after_heal, asked)
    if wrong:
        fault, unavailable_s, over_s = max(wrong, key=lambda each: each[2])
        text = (
            f"after {fault.kind} {fault.target} at {fault.began_s:.1f} s nobody was answered for {unavailable_s:.2f} s"
        )
        around = [one for one in asked if one.began_s <= fault.began_s + unavailable_s and one.ended_s >= fault.began_s]
        return Verdict(
            NAME,
            False,
            f"{text} ({len(wrong)} of {len(happened)} faults)",
            figures=figures,
            smallest=around[:SHOWN_MAX],
        )
    every = [seconds for each in by_kind.values() for seconds in each]
    if not every:
        return Verdict(NAME, True, f"{len(ends)} answers, and no fault", figures=figures)
    text = f"unavailable per fault: {median(every):.2f} s (p50), {max(every):.2f} s (worst of {len(every)})"
    return Verdict(NAME, True, text, figures=figures)


def _gaps(ends: Sequence[float], began_s: float, until_s: float, last_s: float) -> list[tuple[float, float]]:
    """Return the times without an answer that reach into the given time, from its beginning on; at least one."""
    first, last = bisect_right(ends, began_s), bisect_right(ends, max(began_s, until_s - PACE_S))
    times = [began_s, *ends[first : last + 1]]
    if last >= len(ends) and last_s > times[-1]:
        times.append(last_s)
    return list(itertools.pairwise(times))


def _figures(
    by_kind: Mapping[str, list[float]], after_heal: Mapping[str, float], asked: Sequence[Operation]
) -> dict[str, float]:
    every = [seconds for each in by_kind.values() for seconds in each]
    figures: dict[str, float] = {"faults": float(len(every))}
    if every:
        figures["unavailable_s_p50"] = median(every)
        figures["unavailable_s_worst"] = max(every)
    for kind, each in by_kind.items():
        figures[f"{kind}: unavailable_s_p50"] = median(each)
        figures[f"{kind}: unavailable_s_worst"] = max(each)
        figures[f"{kind}: after_heal_s_worst"] = after_heal[kind]
    took = [one.ended_s - one.began_s for one in asked if one.ended_s < math.inf]
    if took:
        figures["longest_call_s"] = max(took)
    return figures
