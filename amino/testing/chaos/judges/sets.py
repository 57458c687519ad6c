"""The judge of sets that only grow: every read shows what had been added, nothing else, and no two reads disagree.

Owns the judgement of one key's additions and reads of the whole set. Leaves dividing histories by key to its caller.
Invariants: pure; no false alarm: each finding contradicts every order of the operations. Additions of unknown outcome are bound
only by reads that show them. Reads that include each other stand in a row, so that each element has a first read that shows it,
and everything else is a comparison of times.
Failure behaviour: none; without a read of a key nothing of it is judged, which the verdict's figures show.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

from amino.testing.chaos.history import Operation
from amino.testing.chaos.record import Verdict

NAME = "set"
Found = tuple[str, list[Operation]]


def growing_sets(operations: Iterable[Operation]) -> Verdict:
    """Judge ``add`` (the argument is added; each once) and reads (any other function; the value is the list of all elements)."""
    keys: dict[str, tuple[list[Operation], list[Operation]]] = {}
    for one in operations:
        adds, reads = keys.setdefault(one.key, ([], []))
        if one.function == "add":
            adds.append(one)
        elif one.outcome == "ok":
            reads.append(one)
    shown = sum(len(reads) for _, reads in keys.values())
    figures = {"additions": float(sum(len(adds) for adds, _ in keys.values())), "reads": float(shown)}
    if not shown:
        return Verdict(NAME, False, "could not judge: no set was read", figures=figures)
    for key, (adds, reads) in keys.items():
        found = _judge(adds, reads)
        if found is not None:
            text, smallest = found
            return Verdict(NAME, False, f"{key}: {text}", figures=figures, smallest=smallest)
    return Verdict(NAME, True, f"{shown} reads of {len(keys)} sets show what had been added", figures=figures)


def _judge(adds: Sequence[Operation], reads: Sequence[Operation]) -> Found | None:
    by_element = {one.argument: one for one in adds}
    seen = {one.index: frozenset(one.value) for one in reads}
    row = sorted(reads, key=lambda one: (len(seen[one.index]), one.began_s))
    for one in row:
        if len(seen[one.index]) != len(one.value):
            return f"an element is in it twice, as {one.function} saw", [one]
    for one, other in pairwise(row):
        more = seen[one.index] - seen[other.index]
        if more:
            return f"two reads disagree: only the first shows {next(iter(more))}", [one, other]
    return _reads_in_time(row, seen) or _elements(by_element, row, seen)


def _reads_in_time(row: Sequence[Operation], seen: dict[int, frozenset[str]]) -> Found | None:
    """No read shows less than one that had ended before it began."""
    place = {one.index: number for number, one in enumerate(row)}
    ended = sorted(row, key=lambda one: one.ended_s)
    largest: Operation | None = None
    done = 0
    for one in sorted(row, key=lambda each: each.began_s):
        while done < len(ended) and ended[done].ended_s < one.began_s:
            if largest is None or place[ended[done].index] > place[largest.index]:
                largest = ended[done]
            done += 1
        if largest is not None and len(seen[largest.index]) > len(seen[one.index]):
            return "a read shows less than an earlier one", [largest, one]
    return None


def _elements(
    by_element: dict[str, Operation], row: Sequence[Operation], seen: dict[int, frozenset[str]]
) -> Found | None:
    first: dict[str, int] = {}
    for number, one in enumerate(row):
        for element in seen[one.index]:
            first.setdefault(element, number)
    latest = _running(row, lambda one, best: one.began_s > best.began_s)  # of the reads up to each, the one begun last
    soonest = _running(row[::-1], lambda one, best: one.ended_s < best.ended_s)[::-1]  # from each on, ended first
    for element, number in first.items():
        add = by_element.get(element)
        if add is None:
            return f"{element} is there, which nobody added", [row[number]]
        if add.outcome == "failed":
            return f"{element} is there, whose caller was told that it was not added", [add, row[number]]
        if soonest[number].ended_s < add.began_s:
            return f"{element} was there before it was added", [soonest[number], add]
    for element, add in by_element.items():
        without = first.get(element, len(row))
        if add.outcome == "ok" and without and latest[without - 1].began_s > add.ended_s:
            return f"{element} is not there, which had been added", [add, latest[without - 1]]
    return _order(by_element, row, first)


def _order(by_element: dict[str, Operation], row: Sequence[Operation], first: dict[str, int]) -> Found | None:
    """No read shows an element and not another that had been added before that one was begun."""
    answered = sorted((one for one in by_element.values() if one.outcome == "ok"), key=lambda one: one.ended_s)
    ends = [one.ended_s for one in answered]
    latest = _running(
        answered, lambda one, best: first.get(one.argument, len(row)) > first.get(best.argument, len(row))
    )
    for element, number in first.items():
        add = by_element[element]
        before = bisect_left(ends, add.began_s)
        if before and first.get(latest[before - 1].argument, len(row)) > number:
            other = latest[before - 1]
            return f"{element} is there without {other.argument}, which had been added before", [
                other,
                add,
                row[number],
            ]
    return None


def _running(operations: Sequence[Operation], better: Callable[[Operation, Operation], bool]) -> list[Operation]:
    best: list[Operation] = []
    for one in operations:
        best.append(one if not best or better(one, best[-1]) else best[-1])
    return best
