"""The judges of reads that may be old: how old they are, and whether callers see their own writes.

Owns both judgements on cells whose values are unique. Leaves linearizable reads to ``linearizability``.
Invariants: pure; no false alarm: a value counts as replaced only by a write that began after the value's own write had ended, and
from the moment when that second write had ended.
Failure behaviour: values that nobody wrote are told; without a read nothing is proved, which is a failure.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence

from amino.testing.chaos.history import Operation
from amino.testing.chaos.judges.models import Cell
from amino.testing.chaos.record import Verdict

STALENESS = "bounded staleness"
OWN = "read-your-writes"


class _Writes:
    """The writes of one key, settled."""

    def __init__(self, operations: Sequence[Operation]) -> None:
        settled = Cell().settle(operations)
        self.reads = [one for one in settled if one.function == "read"]
        self.by_value = {one.argument: one for one in settled if one.function != "read"}
        writes = sorted(self.by_value.values(), key=lambda one: one.began_s)
        self._begins = [one.began_s for one in writes]
        self._first: list[Operation] = []  # of the writes from each on, the one that ended first
        for one in reversed(writes):
            best = self._first[-1] if self._first else one
            self._first.append(one if one.ended_s <= best.ended_s else best)
        self._first.reverse()

    def successor(self, value: str | None) -> Operation | None:
        """Return the write that ended first of those that certainly came after ``value``; None if there is none."""
        ended_s = -math.inf if value is None else self.by_value[value].ended_s
        place = bisect_right(self._begins, ended_s)
        return self._first[place] if place < len(self._first) else None

    def with_writer(self, *operations: Operation) -> list[Operation]:
        """Return the operations, and who wrote what the last of them read."""
        writer = self.by_value.get(operations[-1].value)
        return [*([writer] if writer is not None else []), *operations]


def _by_key(operations: Iterable[Operation]) -> dict[str, _Writes]:
    keys: dict[str, list[Operation]] = {}
    for one in operations:
        keys.setdefault(one.key, []).append(one)
    return {key: _Writes(asked) for key, asked in keys.items()}


def bounded_staleness(operations: Iterable[Operation], staleness_s: float) -> Verdict:
    """Judge that no answer to a ``read`` was older than ``staleness_s`` when the read began."""
    oldest_s, reads = 0.0, 0
    for key, writes in _by_key(operations).items():
        for one in writes.reads:
            reads += 1
            if one.value is not None and one.value not in writes.by_value:
                return Verdict(STALENESS, False, f"{key}: {one.value} was read, which nobody wrote", smallest=[one])
            if one.value is not None and writes.by_value[one.value].began_s > one.ended_s:
                early = [one, writes.by_value[one.value]]
                return Verdict(STALENESS, False, f"{key}: {one.value} was read before it was written", smallest=early)
            newer = writes.successor(one.value)
            age_s = one.began_s - newer.ended_s if newer is not None else 0.0
            oldest_s = max(oldest_s, age_s)
            if newer is not None and age_s > staleness_s:
                text = f"{key}: {one.value} was read {age_s:.3f} s after it had been replaced; {staleness_s:g} s are allowed"
                return Verdict(STALENESS, False, text, smallest=writes.with_writer(newer, one))
    figures = {"reads": float(reads), "oldest_s": oldest_s}
    if not reads:
        return Verdict(STALENESS, False, "could not judge: nothing was read")
    return Verdict(
        STALENESS, True, f"{reads} reads, the oldest {oldest_s:.3f} s old ({staleness_s:g} s allowed)", figures=figures
    )


def read_your_writes(operations: Iterable[Operation]) -> Verdict:
    """Judge that no ``read`` shows a worker something older than what it had written to the same key itself."""
    reads = 0
    for key, writes in _by_key(operations).items():
        own: dict[int, Operation] = {}
        mine = [one for one in (*writes.by_value.values(), *writes.reads) if one.outcome == "ok"]
        for one in sorted(mine, key=lambda each: each.began_s):
            if one.function != "read":
                own[one.worker] = one
                continue
            last = own.get(one.worker)
            if last is None or last.ended_s > one.began_s:
                continue
            reads += 1
            before_s = -math.inf
            if one.value is not None:
                writer = writes.by_value.get(one.value)
                before_s = writer.ended_s if writer is not None else -math.inf
            if before_s < last.began_s and one.value != last.argument:
                text = f"{key}: worker {one.worker} wrote {last.argument} and then read {one.value}, which is older"
                return Verdict(OWN, False, text, smallest=writes.with_writer(last, one))
    if not reads:
        return Verdict(OWN, False, "could not judge: nobody read what he had written")
    return Verdict(OWN, True, f"{reads} reads by workers that had written", figures={"reads": float(reads)})
