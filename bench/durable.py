"""Durability per call: 16 callers of one object, each call synced before it is acknowledged, alone or in groups.

Owns the rates and the bar. Leaves calling to ``callers``.
Invariant: both ways run on the same store in the same run, one after the other, several times, and medians count.
Failure behaviour: a call that fails is noted in its row.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from bench.callers import Callers
from bench.cluster import running
from bench.rows import Row, row
from bench.stats import p50

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bench.callers import Called

CALLERS = 16
ROUNDS = 3
SECONDS = 2.0
TIMES_MIN = 3.0


def run(*, quick: bool = False) -> list[Row]:
    """Measure; about 20 seconds, a third of that when quick."""
    import amino
    from amino.dm import DurableSerializableRPC
    from bench.workload import Counter

    seconds = SECONDS / 3 if quick else SECONDS
    grouped: list[float] = []
    single: list[float] = []
    alone: list[float] = []
    failed: set[str] = set()
    with running(servers=1) as cluster:
        together = cluster.client.new(amino.spec(Counter, dms=[DurableSerializableRPC()]), 0)
        apart = cluster.client.new(amino.spec(Counter, dms=[DurableSerializableRPC(group_commit_s=0)]), 0)
        for _ in range(ROUNDS):
            for callee, rates in ((together, grouped), (apart, single)):
                seen = _calls(callee.add, CALLERS, seconds)
                rates.append(sum(not each.error for each in seen) / seconds)
                failed |= {each.error for each in seen if each.error}
            alone += [each.took * 1e6 for each in _calls(together.add, 1, seconds)]
    return judge(grouped, single, alone, failed)


def judge(grouped: Sequence[float], single: Sequence[float], alone: Sequence[float], failed: set[str]) -> list[Row]:
    """Return the rows.

    Args:
        grouped, single: calls per second of 16 callers in each round, with shared syncs and with one sync per call.
        alone: microseconds that calls of a single caller took.
        failed: errors that calls ended with.
    """
    return [
        row("durable.one_sync_per_call.rate_16_callers", p50(single), "calls/s", note="group_commit_s=0"),
        row(
            "durable.group_commit.rate_16_callers",
            p50(grouped),
            "calls/s",
            baseline=p50(single),
            against="one sync per call",
            at_least=TIMES_MIN,
        ),
        row("durable.group_commit.one_caller.p50", p50(alone), "us"),
        row(
            "durable.failed_calls",
            float(len(failed)),
            "kinds of errors",
            at_most=0,
            note="; ".join(sorted(failed))[:200],
        ),
    ]


def _calls(call: Callable[[], object], callers: int, seconds: float) -> list[Called]:
    with Callers([call] * callers) as calling:
        time.sleep(seconds)
    return calling.seen
