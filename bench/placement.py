"""Where the sides of what is measured run: the client on one core, the server on another, for every system alike.

Owns choosing the cores and putting processes there. Leaves which processes to the measures.
Without it the scheduler decides: it keeps a pair that does little on one core, where a call needs no wake-up of another, and
spreads one that does more over two, so that what is compared differs by the placement more than by the systems.
Invariant: processes and threads that are started later by those placed here run there too.
Failure behaviour: with one core only, or where affinity cannot be set, everything stays where it is.
"""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


def place_server(pid: int) -> None:
    """Put the server process ``pid`` with all its threads on its core; before the measuring process places itself."""
    _place(pid, 1)


@contextmanager
def placed_group(pids: Sequence[int]) -> Iterator[None]:
    """While this is entered, the server that the client calls (the first) is on its core, its followers on the next ones.

    Cores are counted round: with two, the first follower shares the client's core and the second the first server's.
    """
    for number, pid in enumerate(pids, 1):
        _place(pid, number)
    try:
        yield
    finally:
        for pid in pids:
            _put(pid, set(_cores()))


def place_client() -> None:
    """Put this process, the measuring client, on its core, with all threads that it has."""
    cores = _cores()
    if cores:
        _put(os.getpid(), {cores[0]})


def _place(pid: int, number: int) -> None:
    cores = _cores()
    _put(pid, {cores[number % len(cores)]} if cores else set())


def _put(pid: int, cores: set[int]) -> None:
    if len(_cores()) > 1:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setaffinity(int(thread.name), cores)


def _cores() -> list[int]:
    return sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else []
