"""Figures that the acceptance tests measure, and how strictly they are judged.

Owns the environment of a run (``AMINO_ACCEPTANCE_ROUNDS``, ``_SLACK``, ``_FIGURES``) and the file that figures are noted
in. Leaves the table to ``report``.
Invariant: a figure is noted before it is judged, so a run that falls short still reports it.
Failure behaviour: a figure beyond its bar fails its test.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

FULL_ROUNDS = 20


def rounds(full: int = FULL_ROUNDS) -> int:
    """Return how often a fault is repeated: ``full`` times in a full run, else a share of it, at least once."""
    asked = int(os.environ.get("AMINO_ACCEPTANCE_ROUNDS", "3"))
    return max(1, round(full * asked / FULL_ROUNDS))


T = TypeVar("T")


def in_full(short: T, full: T) -> T:
    """Return how much there is of something, or how long a fault lasts: ``full`` in a full run."""
    return full if rounds() >= FULL_ROUNDS else short


def slack() -> float:
    """Return by how much times may exceed their bars: 1 in a full run; machines that share their cores need more."""
    return float(os.environ.get("AMINO_ACCEPTANCE_SLACK", "3"))


class Figures:
    """Notes figures of one row.

    Args:
        row: of the acceptance table.
    """

    def __init__(self, row: str) -> None:
        self.row = row
        self._short: list[str] | None = None

    @contextmanager
    def together(self) -> Iterator[None]:
        """Judge at the end all that is noted meanwhile, so that one that falls short keeps no other from being noted."""
        self._short = short = []
        try:
            yield
        finally:
            self._short = None
        assert not short, "; ".join(short)

    def note(
        self, name: str, value: float, unit: str = "", *, at_most: float | None = None, note: str = "", excuse: str = ""
    ) -> None:
        """Note a time or count, and judge it: a time (unit ``s``) with slack, a count without.

        ``excuse``: why a bar may be missed without failing the test; the table shows the miss and the excuse all the same.
        """
        entry: dict[str, Any] = {"row": self.row, "name": name, "value": round(value, 4), "unit": unit}
        if at_most is not None:
            entry.update(bar=at_most, ok=value <= at_most)
        if excuse:
            entry["excuse"] = excuse
        if note or excuse:
            entry["note"] = "; ".join(filter(None, (note, excuse)))
        file = os.environ.get("AMINO_ACCEPTANCE_FIGURES")
        if file:
            with Path(file).open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(entry) + "\n")
        if at_most is not None and not excuse:
            allowed = at_most * slack() if unit == "s" else at_most
            problem = f"{self.row}: {name} is {value:.3f} {unit}, the bar is {at_most} {unit} ({note})"
            if self._short is None:
                assert value <= allowed, problem
            elif value > allowed:
                self._short.append(problem)
