"""Histories made up for tests of judges: right ones at random, and operations in one line."""

from __future__ import annotations

import math
import random as random_module
from collections.abc import Callable
from typing import Any

from amino.testing.chaos.history import Operation


def did(
    index: int,
    function: str,
    argument: Any = None,
    value: Any = None,
    *,
    at: tuple[float, float],
    outcome: str = "ok",
    key: str = "k",
    worker: int | None = None,
) -> Operation:
    """Return one operation."""
    error = "" if outcome == "ok" else outcome
    return Operation(
        index if worker is None else worker, index, function, "", key, argument, outcome, value, error, *at
    )


class Cells:
    """Cells by key, as they should be."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    def ask(self, random: random_module.Random, key: str, token: str) -> tuple[str, Any, Callable[[], Any]]:
        """Return a function, its argument, and what does it."""
        function = random.choice(["read", "read", "write", "swap"])

        def do() -> Any:
            before = self.values.get(key)
            if function != "read":
                self.values[key] = token
            return None if function == "write" else before

        return function, None if function == "read" else token, do


class Counters:
    """Counters by key, as they should be, and the order of additions."""

    def __init__(self) -> None:
        self.log: dict[str, list[str]] = {}

    def ask(self, random: random_module.Random, key: str, token: str) -> tuple[str, Any, Callable[[], Any]]:
        """Return a function, its argument, and what does it."""
        function = random.choice(["add", "add", "read"])

        def do() -> Any:
            log = self.log.setdefault(key, [])
            if function == "add":
                log.append(token)
            return len(log)

        return function, None if function == "read" else token, do


def right(
    seed: int, thing: Any, *, workers: int = 5, calls: int = 40, keys: int = 2, busy: float = 1.0
) -> list[Operation]:
    """Return a history that some order explains: each call takes effect at one moment between its beginning and its end.

    A tenth ends unknown, half of those happened; some are refused.

    Args:
        busy: how long calls take, in proportion to the pauses between them.
    """
    random = random_module.Random(seed)
    plans = []
    for worker in range(workers):
        now = 0.0
        for number in range(calls):
            began = now + random.uniform(0.001, 1.0)
            ended = began + random.uniform(0.001, 1.0) * busy
            now = ended
            plans.append((random.uniform(began, ended), began, ended, worker, f"w{worker}.{number}"))
    operations = []
    for _, began, ended, worker, token in sorted(plans):
        key = f"k{random.randrange(keys)}"
        function, argument, do = thing.ask(random, key, token)
        operation = Operation(worker, 0, function, "", key, argument, began_s=began, ended_s=ended)
        chance = random.random()
        if chance < 0.9:
            operation.value, operation.outcome = do(), "ok"
        elif chance < 0.95:
            do()
            operation.ended_s = random.choice([math.inf, ended])
        elif chance < 0.98:
            operation.outcome = "failed"
        operations.append(operation)
    operations.sort(key=lambda one: one.began_s)
    for index, one in enumerate(operations):
        one.index = index
    return operations
