"""Stores that run list-append transactions, correct and broken ones, and a serial order by brute force."""

from __future__ import annotations

import itertools
import math
import random
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from amino.testing.serializability import Append, Outcome, Transaction


def plans(chosen: random.Random, count: int, keys: int) -> list[list[tuple[str, int]]]:
    """Return what ``count`` transactions will do: some of ``r`` and ``w``, of some keys."""
    return [[(chosen.choice("rw"), chosen.randrange(keys)) for _ in range(chosen.randint(1, 4))] for _ in range(count)]


def serial(chosen: random.Random, count: int, keys: int) -> list[Transaction]:
    """Run transactions one after the other; some fail, and of some nobody knows."""
    lists: dict[int, list[Any]] = defaultdict(list)
    history = []
    for number, plan in enumerate(plans(chosen, count, keys)):
        one = Transaction(number, began=2.0 * number)
        copy = {key: list(lists[key]) for key in range(keys)}
        for at, (what, key) in enumerate(plan):
            if what == "w":
                one.append(key, (number, at))
                copy[key].append((number, at))
            else:
                one.read(key, copy[key])
        outcome = chosen.choices(list(Outcome), (8, 1, 1))[0]
        if outcome is Outcome.OK or (outcome is Outcome.UNKNOWN and chosen.random() < 0.5):
            lists.update(copy)
        one.end(outcome, math.inf if outcome is Outcome.UNKNOWN else 2.0 * number + 1)
        history.append(one)
    return history


class Locking:
    """Strict two-phase locking, interleaved step by step; who would wait for ever is aborted and undone.

    Args:
        locks: whether it locks at all. early: whether locks are released before the commit.
        undoes: whether an abort is undone.
    """

    def __init__(self, chosen: random.Random, *, locks: bool = True, early: bool = False, undoes: bool = True) -> None:
        self._chosen = chosen
        self._locks, self._early, self._undoes = locks, early, undoes
        self._lists: dict[int, list[Any]] = defaultdict(list)
        self._held: dict[int, dict[int, str]] = defaultdict(dict)
        self._now = 0.0

    def run(self, count: int, keys: int) -> list[Transaction]:
        """Return the history of ``count`` transactions, at most four at a time."""
        waiting = list(enumerate(plans(self._chosen, count, keys)))
        running: dict[int, Iterator[bool]] = {}
        history: list[Transaction] = []
        stuck = 0
        while waiting or running:
            self._now += 1
            if waiting and (not running or (len(running) < 4 and self._chosen.random() < 0.3)):
                number, plan = waiting.pop(0)
                history.append(Transaction(number, began=self._now))
                running[number] = self._steps(history[-1], plan)
            number = self._chosen.choice(list(running))
            went_on = next(running[number], None)
            stuck = stuck + 1 if went_on is False else 0
            if went_on is None:
                del running[number]
                self._end(history[number], Outcome.OK)
            elif stuck > 40:  # all wait for each other
                del running[number]
                self._abort(history[number])
                stuck = 0
        return history

    def _steps(self, one: Transaction, plan: list[tuple[str, int]]) -> Iterator[bool]:
        """Yield whether it went on, each time."""
        for at, (what, key) in enumerate(plan):
            while not self._lock(one.id, key, what):
                yield False
            if what == "w":
                one.append(key, (one.id, at))
                self._lists[key].append((one.id, at))
            else:
                one.read(key, self._lists[key])
            if self._early:
                self._held[key].pop(one.id, None)
            yield True

    def _lock(self, one: Any, key: int, what: str) -> bool:
        others = {kind for owner, kind in self._held[key].items() if owner != one}
        if self._locks and (others if what == "w" else "w" in others):
            return False
        self._held[key][one] = "w" if "w" in (what, self._held[key].get(one)) else "r"
        return True

    def _end(self, one: Transaction, outcome: Outcome) -> None:
        for held in self._held.values():
            held.pop(one.id, None)
        one.end(outcome, self._now)

    def _abort(self, one: Transaction) -> None:
        if self._undoes:
            for each in one.operations:
                if isinstance(each, Append):
                    self._lists[each.key].remove(each.value)
        self._end(one, Outcome.FAILED)


def snapshots(chosen: random.Random, count: int, keys: int) -> list[Transaction]:
    """Run transactions in pairs on snapshots; who writes what the other wrote first fails. Readers are not validated."""
    lists: dict[int, list[Any]] = defaultdict(list)
    history = []
    work = plans(chosen, count, keys)
    for pair in range(0, count - 1, 2):
        written: set[int] = set()
        copies = [{key: list(lists[key]) for key in range(keys)} for _ in range(2)]
        for copy, number in zip(copies, (pair, pair + 1), strict=True):
            one = Transaction(number, began=float(pair))
            mine: dict[int, list[Any]] = defaultdict(list)
            for at, (what, key) in enumerate(work[number]):
                if what == "w":
                    one.append(key, (number, at))
                    mine[key].append((number, at))
                else:
                    one.read(key, [*copy[key], *mine.get(key, ())])
            if written & set(mine):
                one.end(Outcome.FAILED, pair + 1.0)
            else:
                written |= set(mine)
                for key, values in mine.items():
                    lists[key] += values
                one.end(Outcome.OK, pair + 1.0)
            history.append(one)
    return history


def explained(history: list[Transaction], *, strict: bool = False) -> bool:
    """Whether some serial order of those that committed, and of some of the unknown ones, gives what was read."""
    sure = [one for one in history if one.outcome is Outcome.OK]
    maybe = [one for one in history if one.outcome is Outcome.UNKNOWN]
    return any(
        _runs(order, strict=strict)
        for many in range(len(maybe) + 1)
        for also in itertools.combinations(maybe, many)
        for order in itertools.permutations([*sure, *also])
    )


def _runs(order: tuple[Transaction, ...], *, strict: bool) -> bool:
    lists: dict[Any, tuple[Any, ...]] = defaultdict(tuple)
    latest = -math.inf
    for one in order:
        if strict and one.ended < latest:
            return False
        latest = max(latest, one.began)
        for each in one.operations:
            if isinstance(each, Append):
                lists[each.key] += (each.value,)
            elif lists[each.key] != each.values:
                return False
    return True
