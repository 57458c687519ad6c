"""The flight board: what a kernel process is running right now, readable after its death.

Owns a file of cells mapped into memory by the kernel process (which writes) and its supervisor (which reads once the
writer is dead). Leaves what to do with suspects to the OMS. Calls are noted on the hot path, so a note costs no lock, no
system call and well under a microsecond.
Invariants: bounded: with all cells taken a call is simply not noted; a cell belongs to one call until it is left.
Failure behaviour: what cannot be read is left out; a writer killed in the middle of a note spoils that note only.
"""

from __future__ import annotations

import mmap
from collections import deque
from functools import lru_cache
from pathlib import Path
from typing import Final, Protocol

CELLS: Final = 1024
CELL_BYTES: Final = 128
NOT_NOTED: Final = -1


class Board(Protocol):
    """Where running calls are noted."""

    def enter(self, microservice: str, method: str) -> int:
        """Note that ``method`` begins to run; returns what ``leave`` wants. From any thread; never waits."""
        ...

    def leave(self, cell: int) -> None:
        """The call noted in ``cell`` has ended. From any thread; never waits."""
        ...


class NoBoard:
    """A board that notes nothing, for processes without a supervisor."""

    __slots__ = ()

    def enter(self, microservice: str, method: str) -> int:  # noqa: ARG002 - the port's signature
        """Note nothing."""
        return NOT_NOTED

    def leave(self, cell: int) -> None:
        """Do nothing."""


class FlightBoard:
    """The writing side; one per kernel process.

    Args:
        path: the file, made by ``create_board``.
    """

    __slots__ = ("_free", "_give", "_map", "_take")

    def __init__(self, path: Path) -> None:
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), CELLS * CELL_BYTES)
        self._free = deque(range(0, CELLS * CELL_BYTES, CELL_BYTES))
        self._take = self._free.pop  # deque operations are atomic, so threads need no lock
        self._give = self._free.append

    def __repr__(self) -> str:
        return f"FlightBoard({CELLS - len(self._free)} running)"

    def enter(self, microservice: str, method: str) -> int:
        """Note that ``method`` begins to run; ``NOT_NOTED`` when all cells are taken. From any thread; never waits."""
        try:
            cell = self._take()
        except IndexError:
            return NOT_NOTED
        note = _note(microservice, method)
        self._map[cell : cell + len(note)] = note
        return cell

    def leave(self, cell: int) -> None:
        """The call noted in ``cell`` has ended. From any thread; never waits."""
        if cell >= 0:
            self._map[cell] = 0
            self._give(cell)

    def close(self) -> None:
        """Unmap the file; nothing may be noted after. Idempotent."""
        self._map.close()


@lru_cache(maxsize=4096)
def _note(microservice: str, method: str) -> bytes:
    return f"{microservice}\0{method}\0".encode()[:CELL_BYTES]


def create_board(path: Path) -> None:
    """Make an empty board file at ``path``."""
    with path.open("wb") as file:
        file.truncate(CELLS * CELL_BYTES)


def read_board(path: Path) -> tuple[tuple[str, str], ...]:
    """Return the (microservice id, method) pairs that were running when the writer died, each once, sorted."""
    try:
        content = path.read_bytes()
    except OSError:
        return ()
    running: set[tuple[str, str]] = set()
    for start in range(0, len(content), CELL_BYTES):
        cell = content[start : start + CELL_BYTES]
        if cell[0] == 0:
            continue
        microservice, _, rest = cell.partition(b"\0")
        method = rest.partition(b"\0")[0]
        try:
            pair = (microservice.decode(), method.decode(errors="ignore"))
        except UnicodeDecodeError:
            continue
        if all(pair):
            running.add(pair)
    return tuple(sorted(running))
