"""The judge of linearizability: is there one order of all calls that fits their times and explains every answer?

Owns dividing histories (by key, and in time) so that the search stays small, the search's bound, and the smallest part of a
failing history. Leaves the search to ``detangle.lin`` (Wing and Gong, *Testing and verifying concurrent objects*, 1993, with
Lowe's memory of visited states) and what objects do to ``models``.
Invariants: pure; keys are independent (Herlihy and Wing, *Linearizability*, 1990: it is local). In time a history is cut at a
call that overlaps no other: the state after it is what it tells, whatever came before.
Failure behaviour: a search that takes more than its steps is a failure that says so, never a pass.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from detangle import lin

from amino.testing.chaos.history import Operation
from amino.testing.chaos.judges.models import Model, Unsaid
from amino.testing.chaos.record import Verdict

NAME = "linearizability"
STEPS_MAX = 300_000
SEGMENT = 40
"""Calls after which a history is cut as soon as it can be."""
TRIES_MAX = 600


def linearizable(operations: Iterable[Operation], model: Model, *, steps_max: int = STEPS_MAX) -> Verdict:
    """Judge the calls of one workload, each key for itself.

    Args:
        operations: calls that ``model`` knows, in any order; at most about five at a time to one key.
        steps_max: of the search, for each part that is searched by itself.
    """
    keys: dict[str, list[Operation]] = {}
    answered = 0
    for one in operations:
        keys.setdefault(one.key, []).append(one)
        answered += one.outcome == "ok"
    if not answered:
        return Verdict(NAME, False, "could not judge: no operation was answered")
    parts = 0
    for key, asked in keys.items():
        asked.sort(key=lambda one: (one.began_s, one.index))
        settled = sorted(model.settle(asked), key=lambda one: (one.began_s, one.index))
        for part in cut(settled, model):
            parts += 1
            try:
                fits = explained(part.operations, model, part.initial, steps_max=steps_max)
            except RuntimeError:
                many = len(part.operations)
                text = f"could not judge: no answer for {many} operations on {key!r} within {steps_max} steps"
                return Verdict(NAME, False, text, smallest=part.operations[:50])
            if not fits:
                smallest = _smallest(settled, part, model, steps_max)
                smallest = _with_refused(asked, smallest, model)
                text = f"no order of the operations on {key!r} explains their answers; the smallest part that shows it has "
                return Verdict(NAME, False, f"{text}{len(smallest)}", smallest=smallest)
    figures = {"operations": float(answered), "keys": float(len(keys)), "parts": float(parts)}
    return Verdict(NAME, True, f"{answered} answers on {len(keys)} keys explained", figures=figures)


@dataclass(frozen=True, slots=True)
class Part:
    """Calls that are judged by themselves: what state they begin in, and which call before them told it."""

    initial: Hashable
    before: Operation | None
    operations: list[Operation]


def cut(operations: Sequence[Operation], model: Model) -> Iterator[Part]:
    """Return parts that can be judged one by one.

    Args:
        operations: of one key, settled, in the order of beginning.
    """
    initial: Hashable = model.initial
    before: Operation | None = None
    part: list[Operation] = []
    busy_until_s = -1.0
    for place, one in enumerate(operations):
        part.append(one)
        alone = one.began_s > busy_until_s
        busy_until_s = max(busy_until_s, one.ended_s)
        if len(part) >= SEGMENT and alone and place + 1 < len(operations):
            state = model.after(one)
            if operations[place + 1].began_s > one.ended_s and not isinstance(state, Unsaid):
                yield Part(initial, before, part)
                initial, before, part = state, one, []
    if part:
        yield Part(initial, before, part)


def explained(
    operations: Sequence[Operation], model: Model, initial: Hashable, *, whole: bool = True, steps_max: int = STEPS_MAX
) -> bool:
    """Return whether some order explains all answers.

    Raises:
        RuntimeError: it was not found out within ``steps_max`` steps.
    """
    return bool(lin.check(_events(operations), _Adapter(model, operations, initial, whole), budget=steps_max).ok)


class _Adapter(lin.Model):
    """A model as the search wants it."""

    def __init__(self, model: Model, operations: Sequence[Operation], initial: Hashable, whole: bool) -> None:
        self.name = model.name
        self._model, self._operations, self._initial, self._whole = model, operations, initial, whole

    def init(self) -> Hashable:
        """Return the state before."""
        return self._initial

    def step(self, state: Any, op: lin.Operation) -> tuple[bool, Any]:
        """Return whether the call fits, and the state after it."""
        return self._model.step(state, self._operations[op.index], self._whole)


def _events(operations: Sequence[Operation]) -> list[lin.Operation]:
    """Return the calls with whole numbers for times; of equal times beginnings come first, so that the calls overlap."""
    moments = sorted(
        [(one.began_s, 0, place) for place, one in enumerate(operations)]
        + [(one.ended_s, 1, place) for place, one in enumerate(operations) if one.outcome == "ok"]
    )
    events = [
        lin.Operation(place, one.worker, one.function, one.key, 0, 0.0, one.value, _STATUS[one.outcome])
        for place, one in enumerate(operations)
    ]
    for tick, (_, end, place) in enumerate(moments):
        if end:
            events[place].ret = tick
        else:
            events[place].call = tick
    return events


_STATUS = {"ok": lin.OK, "unknown": lin.INFO, "failed": lin.FAIL}


# --- the smallest part that fails -----------------------------------------------------------------------------------


def _smallest(settled: Sequence[Operation], part: Part, model: Model, steps_max: int) -> list[Operation]:
    """Return a smallest part of the history that still fails, from the object's first state if possible."""
    before = [part.before] if part.before is not None else []
    complete = _with_givers(settled, [*before, *part.operations], model)

    def fails(operations: list[Operation], state: Hashable, whole: bool) -> bool:
        try:
            return not explained(operations, model, state, whole=whole, steps_max=min(steps_max, 20_000))
        except RuntimeError:
            return False

    for operations, state in ((complete, model.initial), (part.operations, part.initial)):
        if fails(operations, state, False):

            def still(rest: list[Operation], state: Hashable = state) -> bool:
                return fails(rest, state, False)

            return shrink(operations, still, lambda one, rest: _dependants(one, rest, model))
    return part.operations


def shrink(
    operations: Sequence[Operation],
    fails: Callable[[list[Operation]], bool],
    with_it: Callable[[Operation, Sequence[Operation]], list[Operation]],
    tries_max: int = TRIES_MAX,
) -> list[Operation]:
    """Leave out whatever can be left out, in large pieces first, so that the rest still fails.

    Args:
        fails: whether a part fails. with_it: what has to go when an operation goes, itself included, given the rest.
        tries_max: how often ``fails`` is asked.
    """
    rest = list(operations)
    size = max(len(rest) // 2, 1)
    tries = 0
    while tries < tries_max:
        place = 0
        shorter = False
        while place < len(rest) and tries < tries_max:
            gone: set[int] = set()
            for one in rest[place : place + size]:
                if one.index not in gone:
                    gone.update(each.index for each in with_it(one, rest))
            without = [one for one in rest if one.index not in gone]
            tries += 1
            if without and fails(without):
                rest, shorter = without, True
            else:
                place += size
        if size == 1 and not shorter:
            break
        size = max(size // 2, 1)
    return rest


def _dependants(operation: Operation, rest: Sequence[Operation], model: Model) -> list[Operation]:
    """Return ``operation`` and all that need what it gives, and what those give."""
    gone = {operation.index: operation}
    lost = {model.gives(operation)} - {None}
    while lost:
        following = [one for one in rest if one.index not in gone and model.needs(one) in lost]
        gone.update((one.index, one) for one in following)
        lost = {model.gives(one) for one in following} - {None}
    return list(gone.values())


def _with_givers(settled: Sequence[Operation], part: Sequence[Operation], model: Model) -> list[Operation]:
    """Return ``part``, the calls that gave what it needs, and those that gave what these need."""
    givers = {given: one for one in settled if (given := model.gives(one)) is not None}
    found = {one.index: one for one in part}
    waiting = list(part)
    while waiting:
        giver = givers.get(model.needs(waiting.pop()))
        if giver is not None and giver.index not in found:
            found[giver.index] = giver
            waiting.append(giver)
    return sorted(found.values(), key=lambda one: (one.began_s, one.index))


def _with_refused(asked: Sequence[Operation], smallest: Sequence[Operation], model: Model) -> list[Operation]:
    """Return the calls as they were recorded, and those that were refused although somebody saw what they wrote."""
    indices = {one.index for one in smallest}
    needed = {model.needs(one) for one in smallest} - {None}
    refused = {one.index for one in asked if one.outcome == "failed" and model.gives(one) in needed}
    return [msgspec.structs.replace(one) for one in asked if one.index in indices | refused]
