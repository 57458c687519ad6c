"""Waiting for what nobody announces: other processes, and a cluster's own rounds.

Owns looking again and again, with an end. Leaves what is waited for to the tests.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import amino

T = TypeVar("T")
_LOOK_EVERY_S = 0.02


def until(condition: Callable[[], T], timeout_s: float, why: Callable[[], str] | str = "it did not come to hold") -> T:
    """Wait until ``condition`` returns something true, and return that; an ``AminoError`` counts as not yet.

    Raises:
        AssertionError: not within ``timeout_s`` seconds; says ``why``.
    """
    end = time.perf_counter() + timeout_s
    while True:
        problem: Exception | None = None
        found: T | None = None
        try:
            found = condition()
        except amino.AminoError as error:
            problem = error
        if found:
            return found
        text = why if isinstance(why, str) else why()
        assert time.perf_counter() < end, f"{text} after {timeout_s} s ({problem})"
        time.sleep(_LOOK_EVERY_S)
