"""One result of a benchmark, with the bar it is held to.

Owns the row and how it is judged, written and shown. Leaves measuring to the benchmarks.
Invariant: ``ok`` follows from ``value`` (or ``ratio``) and ``bar`` alone; a row without a bar is always ok.
Failure behaviour: a value that could not be measured is None and fails its bar.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

Judged = Literal["value", "ratio"]
Sense = Literal["at most", "at least"]


@dataclass(frozen=True, slots=True)
class Row:
    """One result.

    Args:
        name: stable, dotted; rows of two runs are compared by it.
        value: what was measured; None when it could not be.
        unit: of ``value`` and ``baseline``.
        baseline: what it is compared with, measured in the same run; None without.
        ratio: ``value / baseline``.
        bar: what must hold, for people, for example ``<= 4.5 x raw uvloop echo``; None without.
        ok: whether it holds.
        note: why a value is missing, or what it was measured with.
    """

    name: str
    value: float | None
    unit: str
    baseline: float | None = None
    ratio: float | None = None
    bar: str | None = None
    ok: bool = True
    note: str = ""


def row(
    name: str,
    value: float | None,
    unit: str,
    *,
    baseline: float | None = None,
    against: str = "",
    at_most: float | None = None,
    at_least: float | None = None,
    note: str = "",
) -> Row:
    """Return a judged row.

    Args:
        name: see ``Row``.
        value: see ``Row``.
        unit: see ``Row``.
        baseline: see ``Row``.
        against: name of the baseline; with it the limits are for the ratio, else for the value.
        at_most: upper limit.
        at_least: lower limit.
        note: see ``Row``.
    """
    ratio = value / baseline if value is not None and baseline else None
    judged = ratio if against else value
    limits: list[tuple[Sense, float]] = []
    if at_most is not None:
        limits.append(("at most", at_most))
    if at_least is not None:
        limits.append(("at least", at_least))
    said = [
        f"{sense} {limit:g} x {against}" if against else f"{sense} {limit:g} {unit}".rstrip() for sense, limit in limits
    ]
    ok = all(
        judged is not None and (judged <= limit if sense == "at most" else judged >= limit) for sense, limit in limits
    )
    return Row(name, value, unit, baseline, ratio, " and ".join(said) or None, ok, note)


def write(rows: Iterable[Row], path: Path) -> None:
    """Write the rows as a JSON array."""
    path.write_text(json.dumps([asdict(each) for each in rows], indent=1) + "\n")


def shown(value: float | None) -> str:
    """Return ``value`` with about four digits that count, ``-`` for None."""
    if value is None:
        return "-"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def line(each: Row) -> str:
    """Return one line for people and logs: verdict, name, value, bar."""
    verdict = "ok  " if each.ok else "FAIL"
    text = f"{verdict} {each.name}: {shown(each.value)} {each.unit}".rstrip()
    if each.ratio is not None:
        text += f", {shown(each.ratio)} x {shown(each.baseline)}"
    if each.bar is not None:
        text += f" (bar: {each.bar})"
    return f"{text} [{each.note}]" if each.note else text
