"""Timers: a thousand due each second, first undisturbed, then while a kernel process is SIGKILLed.

Owns the load, the judgement and the bars. Leaves what fires to ``workload.Ticking``.
Invariant: of objects of the killed server, occurrences from shortly before the kill until ``FAILOVER_S`` after it are the
failover's (what was not in the last checkpoint runs again); all others count as on time.
Failure behaviour: a timer that does not fire as its policy says is counted, and fails its bar.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

from bench.cluster import running
from bench.rows import Row, row
from bench.stats import p50, p99

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bench.cluster import Running

OBJECTS = 50
TIMERS = 20
SECONDS = 6.0
BEFORE_S, AFTER_S, FAILOVER_S = 4.0, 7.0, 3.0
POLICIES = ("fire", "coalesce", "skip")
ERROR_MS_MAX = 100.0


class Occurrence(NamedTuple):
    """One that fired.

    Args:
        number: counts the timer's occurrences, from 0.
        missed: how many before it were left out or merged into it.
        late_s: how much later than due it fired.
        due_s: when it was due, wall clock.
    """

    number: int
    missed: int
    late_s: float
    due_s: float


Reports = dict[str, dict[str, list[Occurrence]]]
"""What each timer of each object has done, by the names of both."""


def run(*, quick: bool = False) -> list[Row]:
    """Measure both; about 35 seconds, some less when quick."""
    from amino.dm import AtLeastOnceRPC, PeriodicCheckpoint

    with running(servers=3) as cluster:
        steady = _begin(cluster, "steady", [], ("fire",))
        time.sleep(SECONDS / 2 if quick else SECONDS)
        undisturbed = _end(steady)
        objects = _begin(cluster, "killed", [AtLeastOnceRPC(), PeriodicCheckpoint(every=50)], POLICIES)
        time.sleep(BEFORE_S)
        server = cluster.host_of("killed-0")
        hosted = {name for name in objects if cluster.host_of(name) == server}
        killed_s = time.time()
        cluster.kill_kernel(server)
        time.sleep(AFTER_S)
        through = _end(objects)
    return judge(undisturbed, through, hosted, killed_s)


def judge(undisturbed: Reports, through: Reports, hosted: set[str], killed_s: float) -> list[Row]:
    """Return the rows.

    Args:
        undisturbed, through: what fired without and with the kill.
        hosted: names of the objects that the killed server had.
        killed_s: when it was killed, wall clock.
    """
    steady = [each for timers in undisturbed.values() for fired in timers.values() for each in fired]
    on_time: list[float] = []
    failover: list[float] = []
    for name, timers in through.items():
        begins_s = killed_s - BEFORE_S if name in hosted else killed_s
        for fired in timers.values():
            for each in fired:
                (failover if begins_s < each.due_s < killed_s + FAILOVER_S else on_time).append(each.late_s)
    strayed = [
        f"{name} {timer}"
        for reports in (undisturbed, through)
        for name, timers in reports.items()
        for timer, fired in timers.items()
        if not as_its_policy_says(timer.partition("-")[0], fired)
    ]
    return [
        _late("timers.steady", [each.late_s for each in steady], f"{_per_s(steady):.0f} fired per second"),
        row("timers.steady.error.p50", p50([each.late_s for each in steady]) * 1e3 if steady else None, "ms"),
        _late("timers.server_killed", on_time, f"{len(on_time)} fired outside the failover"),
        row(
            "timers.server_killed.error.worst_of_failover",
            max(failover) * 1e3 if failover else None,
            "ms",
            note=f"{len(hosted)} of {OBJECTS} objects were on that server",
        ),
        row("timers.against_their_policy", float(len(strayed)), "timers", at_most=0, note=", ".join(strayed[:3])),
    ]


def as_its_policy_says(policy: str, fired: Sequence[Occurrence]) -> bool:
    """Return whether a timer fired as its policy for missed occurrences says: each once, merged, or left out."""
    numbers = [each.number for each in fired]
    if not numbers or numbers != sorted(set(numbers)):
        return False
    if policy == "fire":
        return numbers == list(range(len(numbers)))
    if policy == "coalesce":
        return numbers[-1] + 1 == len(numbers) + sum(each.missed for each in fired)
    return all(each.late_s <= 1.5 for each in fired)


def _late(name: str, late_s: Sequence[float], note: str) -> Row:
    value = p99(late_s) * 1e3 if late_s else None
    return row(f"{name}.error.p99", value, "ms", at_most=ERROR_MS_MAX, note=note)


def _per_s(fired: Sequence[Occurrence]) -> float:
    dues = [each.due_s for each in fired]
    return len(dues) / max(max(dues) - min(dues), 1e-3) if dues else 0.0


def _begin(cluster: Running, name: str, dms: list[Any], policies: Sequence[str]) -> Mapping[str, Any]:
    """Make the objects and set their timers, each once a second, spread over the second."""
    import amino
    from bench.workload import Ticking

    objects = {
        f"{name}-{n}": cluster.client.new(amino.spec(Ticking, name=f"{name}-{n}", dms=dms)) for n in range(OBJECTS)
    }
    for number, stub in enumerate(objects.values()):
        stub.begin(TIMERS, policies[number % len(policies)])
    return objects


def _end(objects: Mapping[str, Any]) -> Reports:
    for stub in objects.values():
        stub.end()
    return {
        name: {timer: [Occurrence(*each) for each in fired] for timer, fired in stub.report().items()}
        for name, stub in objects.items()
    }
