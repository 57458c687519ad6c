"""Failover: the kernel process that hosts an object is SIGKILLed again and again, while a client calls the object.

Owns the kills and the judgement. Leaves calling to ``callers``.
Invariant: the time counts from just before the kill to the end of the first good call that began after it.
Failure behaviour: a failover without a good call within ``PATIENCE_S`` counts as that long.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.callers import Callers
from bench.cluster import running
from bench.rows import Row, row
from bench.stats import p50

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.callers import Called

KILLS = 20
PATIENCE_S = 30.0
P50_S_MAX = 0.3
WORST_S_MAX = 1.0


def run(*, quick: bool = False) -> list[Row]:
    """Kill 20 times (4 when quick); about a minute."""
    import amino
    from amino.dm import AtLeastOnceRPC, PeriodicCheckpoint
    from bench.workload import Counter

    took: list[float] = []
    with running(servers=3) as cluster:
        spec = amino.spec(Counter, name="bench-counter", dms=[AtLeastOnceRPC(), PeriodicCheckpoint(every=1)])
        counter = cluster.client.new(spec, 0)
        counter.add()
        with Callers([counter.add]) as callers:
            for _ in range(4 if quick else KILLS):
                killed = cluster.kill_kernel(cluster.host_of("bench-counter"))
                good = callers.first_good_after(killed, PATIENCE_S)
                took.append(good.ended - killed if good is not None else PATIENCE_S)
                cluster.await_servers(3)
        kept = counter.get()
    return judge(took, callers.seen, kept)


def judge(took: Sequence[float], seen: Sequence[Called], kept: int) -> list[Row]:
    """Return the rows.

    Args:
        took: seconds from each kill to the next good call.
        seen: all calls of ``Counter.add`` by one caller, after one that was not recorded, in order.
        kept: the counter's value at the end.
    """
    values = [each.result for each in seen if not each.error]
    errors = sorted({each.error for each in seen if each.error})
    lost = sum(max(0, before + 1 - after) for before, after in zip([1, *values], [*values, kept + 1], strict=True))
    executed_twice = max(0, kept - 1 - len(values) - sum(bool(each.error) for each in seen))
    return [
        row("failover.first_good_call.p50", p50(took), "s", at_most=P50_S_MAX, note=f"{len(took)} kills"),
        row("failover.first_good_call.worst", max(took), "s", at_most=WORST_S_MAX),
        row("failover.acknowledged_lost", float(lost), "calls", at_most=0, note=f"{len(values)} acknowledged"),
        row("failover.executed_twice", float(executed_twice), "calls", at_most=0),
        row("failover.failed_calls", float(len(seen) - len(values)), "calls", note="; ".join(errors)[:200]),
    ]
