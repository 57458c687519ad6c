"""The judge of queues: what is put in is taken out once, in order, and a queue is empty only when it may be.

Owns the four conditions under which a history of a queue is linearizable (Henzinger, Sezgin and Vafeiadis, *Aspect-oriented
linearizability proofs*, CONCUR 2013), each of which is a comparison of times: no search. Leaves reading what takes of unknown
outcome took to workloads.
Invariants: pure; every value is put once. What was put with unknown outcome and never seen again was never put.
Failure behaviour: none.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from amino.testing.chaos.history import Operation
from amino.testing.chaos.record import Verdict

NAME = "queue"
Found = tuple[str, list[Operation]]


def queues(operations: Iterable[Operation]) -> Verdict:
    """Judge queues by key.

    Args:
        operations: ``put`` (the argument is put in), ``take`` (the argument is a token; the value is what was taken, None of an
            empty queue) and ``close``, whose value is what the queue says in the end: ``[[[token, value], ...] taken, left]``.
    """
    keys: dict[str, dict[str, list[Operation]]] = {}
    for one in operations:
        keys.setdefault(one.key, {"put": [], "take": [], "close": []})[one.function].append(one)
    taken = 0
    for key, asked in keys.items():
        said = [one.value for one in asked["close"] if one.outcome == "ok"]
        if not said:
            return Verdict(NAME, False, f"could not judge: what is left in {key} could not be read")
        outs, left = said[-1]
        taken += len(outs)
        found = queue_fault(asked["put"], asked["take"], dict(outs), left)
        if found is not None:
            return Verdict(NAME, False, f"{key}: {found[0]}", smallest=found[1])
    if not taken:
        return Verdict(NAME, False, "could not judge: nothing was taken")
    text = f"{taken} values were taken once and in order from {len(keys)} queues"
    return Verdict(NAME, True, text, figures={"taken": float(taken), "queues": float(len(keys))})


@dataclass(frozen=True, slots=True)
class _Life:
    """One value: how it came and how it went; ``out`` is None if it is there in the end."""

    put: Operation
    out: Operation | None

    @property
    def surely_in_s(self) -> float:
        """When it was in the queue for certain."""
        return self.put.ended_s if self.put.outcome == "ok" else math.inf

    @property
    def maybe_out_s(self) -> float:
        """When it may have been taken at the earliest."""
        return math.inf if self.out is None else self.out.began_s


def queue_fault(
    puts: Sequence[Operation], takes: Sequence[Operation], taken: Mapping[str, str], left: Sequence[str]
) -> Found | None:
    """Return what is wrong with one queue, and the operations that show it; None if nothing is.

    Args:
        puts: the argument is the value. takes: the argument is a token; the value is what was taken, None of an empty queue.
        taken: by the token of a take, what it took, as the queue itself says in the end. left: what is in it in the end, in order.
    """
    by_value = {one.argument: one for one in puts}
    outs: dict[str, Operation] = {}
    for one in takes:
        value = one.value if one.outcome == "ok" else taken.get(one.argument)
        if one.outcome == "failed" and value is not None:
            return f"{value} was taken by a call whose caller was told that it was not done", [one]
        if value is None:
            continue
        if value in outs:
            return f"{value} was taken twice", [outs[value], one]
        if one.outcome == "unknown":
            one = msgspec.structs.replace(one, ended_s=math.inf)  # it may have been done after its caller gave up
        outs[value] = one
        found = _fresh(by_value.get(value), value, one)
        if found is not None:
            return found
    for value in left:
        if value in outs:
            return f"{value} was taken and is still there", [outs[value]]
        put = by_value.get(value)
        if put is None or put.outcome == "failed":
            return f"{value} is there, and was not put", [put] if put is not None else []
    if len(set(left)) != len(left):
        return "a value is there twice", []
    kept = set(left)
    lost = next(
        (one for one in puts if one.outcome == "ok" and one.argument not in outs and one.argument not in kept), None
    )
    if lost is not None:
        return f"{lost.argument} was put, and neither taken nor left", [lost]
    lives = [_Life(by_value[value], out) for value, out in outs.items()] + [
        _Life(by_value[value], None) for value in left
    ]
    return _order(lives) or _left_in_order(lives, left) or _empty(lives, takes)


def _fresh(put: Operation | None, value: str, out: Operation) -> Found | None:
    if put is None:
        return f"{value} was taken, which nobody put", [out]
    if put.outcome == "failed":
        return f"{value} was taken, whose caller was told that it was not put", [put, out]
    if put.began_s > out.ended_s:
        return f"{value} was taken before it was put", [out, put]
    return None


def _order(lives: Sequence[_Life]) -> Found | None:
    """Nothing is taken before something that was put earlier: that is taken later, or left."""
    surely = sorted((one for one in lives if one.surely_in_s < math.inf), key=lambda one: one.surely_in_s)
    ends = [one.surely_in_s for one in surely]
    last: list[_Life] = []
    for one in surely:
        last.append(one if not last or one.maybe_out_s > last[-1].maybe_out_s else last[-1])
    for one in lives:
        before = bisect_left(ends, one.put.began_s)
        if one.out is None or not before:
            continue
        other = last[before - 1]
        if other is not one and other.maybe_out_s > one.out.ended_s:
            shown = [other.put, one.put, one.out] + ([other.out] if other.out is not None else [])
            return f"{one.put.argument} was taken before {other.put.argument}, which had been put earlier", shown
    return None


def _left_in_order(lives: Sequence[_Life], left: Sequence[str]) -> Found | None:
    """What is left stands in the order in which it was put."""
    by_value = {one.put.argument: one for one in lives if one.out is None}
    latest: _Life | None = None
    for value in reversed(left):
        one = by_value[value]
        if latest is not None and latest.surely_in_s < one.put.began_s:
            return f"{value} stands before {latest.put.argument}, which had been put earlier", [latest.put, one.put]
        if latest is None or one.surely_in_s < latest.surely_in_s:
            latest = one
    return None


def _empty(lives: Sequence[_Life], takes: Sequence[Operation]) -> Found | None:
    """A queue that is said to be empty was without any value for a moment of that call."""
    inside = sorted((one for one in lives if one.surely_in_s < one.maybe_out_s), key=lambda one: one.surely_in_s)
    times: list[tuple[float, float, list[Operation]]] = []
    for life in inside:  # join what overlaps: times at which something was in it for certain
        if times and life.surely_in_s < times[-1][1]:
            begin, end, who = times[-1]
            times[-1] = begin, max(end, life.maybe_out_s), [*who[-3:], life.put]
        else:
            times.append((life.surely_in_s, life.maybe_out_s, [life.put]))
    begins = [begin for begin, _, _ in times]
    for one in takes:
        if one.outcome == "ok" and one.value is None:
            place = bisect_left(begins, one.began_s) - 1
            if place >= 0 and times[place][1] > one.ended_s:
                return "it was said to be empty while something was in it all the time", [*times[place][2], one]
    return None
