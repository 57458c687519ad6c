"""All judges of one run, in one call.

Owns which judges read a record. Leaves judging to them.
Invariant: judging a saved record again gives the same verdicts.
Failure behaviour: a judge that raises is a verdict that says so; the others judge all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from amino.testing.chaos.judges.coordination import sessions_and_epochs
from amino.testing.chaos.judges.growth import leaks
from amino.testing.chaos.judges.liveness import liveness
from amino.testing.chaos.record import RunRecord, Verdict

if TYPE_CHECKING:
    from amino.testing.chaos.workloads.base import Workload

LEAKS_FROM_S = 120.0
"""Seconds a run takes at least before growth says anything: before, everything still warms up."""


def judge_run(
    record: RunRecord, workloads: Sequence[Workload], *, bounds: Mapping[str, float] | None = None
) -> list[Verdict]:
    """Return the verdicts of every workload's own judges, of liveness, of sessions and epochs, and of leaks.

    Args:
        record: with everything but verdicts. workloads: those of the run, or made again by ``workloads.registry.make``.
        bounds: by kind of fault: seconds after which calls are answered again; see ``liveness``.
    """
    judges: list[tuple[str, str, Callable[[], list[Verdict]]]] = []
    for one in workloads:

        def own(one: Workload = one) -> list[Verdict]:
            return one.judge(record)

        def alive(one: Workload = one) -> list[Verdict]:
            operations = record.history(one.name).operations
            verdict = liveness(operations, record.faults, patience_s=record.patience_s, bounds=bounds)
            verdict.workload = one.name
            return [verdict]

        judges += [("history", one.name, own), ("liveness", one.name, alive)]
    judges.append(("sessions and epochs", "", lambda: [sessions_and_epochs(record.events)]))
    if record.duration_s >= LEAKS_FROM_S:
        judges.append(("leaks", "", lambda: [leaks(record.samples)]))
    verdicts: list[Verdict] = []
    for name, workload, judge in judges:
        try:
            verdicts += judge()
        except Exception as error:  # noqa: BLE001 - a broken judge is a verdict, and hides no other
            text = f"could not judge: {type(error).__name__}: {error}"
            verdicts.append(Verdict(name, False, text, workload))
    return verdicts
