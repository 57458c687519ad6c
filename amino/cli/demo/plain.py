"""The display where there is no terminal: a line for each event, and one a second.

Owns the lines. Leaves the state to ``board``.
Invariant: writes to the stream it was given only.
Failure behaviour: none of its own.
"""

from __future__ import annotations

import time
from typing import Self, TextIO

from amino.cli.demo.board import Board

_EVERY_S = 1.0


class PlainView:
    """Writes lines."""

    def __init__(self, board: Board, stream: TextIO) -> None:
        self._board = board
        self._stream = stream
        self._next = 0.0

    def __enter__(self) -> Self:
        self._board.told = self._write
        for at, text in self._board.log:
            self._write(at, text)
        return self

    def __exit__(self, *exc: object) -> None:
        self._board.told = None

    def tick(self) -> None:
        """Write the line of this second, if it is due."""
        board, now = self._board, time.monotonic()
        if now < self._next or not board.meter.calls:
            return
        self._next = now + _EVERY_S
        seen = board.meter.latencies(now - _EVERY_S).values()
        worst_ms = max((each.max_ms for each in seen), default=0.0)
        servers = "  ".join(
            f"{line.name} {line.objects if line.state == 'serves' else line.state}" for line in board.servers
        )
        rate = board.meter.rate(now, _EVERY_S)
        self._write(now - board.began, f"{rate:4.0f} calls/s, slowest {worst_ms:.0f} ms; objects: {servers}")

    def _write(self, at: float, text: str) -> None:
        self._stream.write(f"{at:5.1f} s  {text}\n")
        self._stream.flush()
