"""A small history as a diagram: a row for each worker, a bar for each call.

Owns the picture. Leaves which calls it shows to the judges.
Invariants: beginnings and ends stand in the order in which they happened, equally far apart, so that calls of a microsecond and
pauses of a minute are both seen; the times stand below.
Failure behaviour: of very many calls the first ones are shown, and how many are left out.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

from amino.testing.chaos.history import Operation
from amino.testing.chaos.record import FaultRecord
from chaos.report.drawing import element, text, titled

CALLS_MAX = 24
LEFT, RIGHT, ROW, TOP = 92, 30, 44, 30
STEP_MIN, LETTER = 62, 7.3


def told(operation: Operation) -> str:
    """Return a call in few words: ``write(k1, w0.7)``, ``read(k1) = w0.3``."""
    what = ", ".join(_short(each) for each in (operation.key, operation.argument) if each not in ("", None))
    if operation.outcome == "ok":
        answer = "" if operation.value is None and operation.argument is not None else f" = {_short(operation.value)}"
    else:
        answer = " refused" if operation.outcome == "failed" else " ?"
    return f"{operation.function}({what}){answer}"


def _short(value: object, most: int = 30) -> str:
    words = value if isinstance(value, str) else "nothing" if value is None else json.dumps(value)
    return words if len(words) <= most else f"{words[: most - 3]}..."


def diagram(operations: Sequence[Operation], faults: Sequence[FaultRecord] = ()) -> str:
    """Return the picture as one SVG element."""
    shown = sorted(operations, key=lambda one: (one.began_s, one.index))[:CALLS_MAX]
    moments = sorted({one.began_s for one in shown} | {one.ended_s for one in shown if one.ended_s < math.inf})
    places = {moment: number for number, moment in enumerate(moments)}
    step = _step(shown, places)
    width = LEFT + step * max(len(moments), 1) + RIGHT
    workers = sorted({one.worker for one in shown})
    bottom = TOP + ROW * len(workers)
    parts = [_faults_behind(faults, moments, step, bottom)]
    for row, worker in enumerate(workers):
        y = TOP + ROW * row
        name = f"worker {worker}" if worker >= 0 else "audit"
        parts.append(text(name, LEFT - 12, y + ROW / 2 + 4, class_="name", text_anchor="end"))
        parts.append(element("line", class_="grid", x1=LEFT, x2=width - RIGHT, y1=y + ROW / 2, y2=y + ROW / 2))
    for one in shown:
        y = TOP + ROW * workers.index(one.worker)
        begin = LEFT + step * places[one.began_s]
        open_end = one.ended_s == math.inf
        end = width - RIGHT if open_end else LEFT + step * places[one.ended_s]
        words = told(one)
        bar = element(
            "rect",
            class_=f"call {one.outcome}{' open' if open_end else ''}",
            x=begin,
            y=y + 8,
            width=end - begin,
            height=ROW - 16,
            rx=4,
        )
        label = text(words, begin + 7, y + ROW / 2 + 4, class_="calls-label")
        parts.append(element("g", [titled(str(one)), bar, label]))
    for moment, number in places.items():
        x = LEFT + step * number
        parts.append(element("line", class_="axis", x1=x, x2=x, y1=bottom, y2=bottom + 4))
        parts.append(text(f"{moment:.3f}", x, bottom + 18, class_="tick", text_anchor="middle"))
    parts.append(text("s", width - RIGHT + 12, bottom + 18, class_="tick"))
    if len(operations) > len(shown):
        parts.append(text(f"and {len(operations) - len(shown)} more", LEFT, 16, class_="unit"))
    return element(
        "svg", parts, class_="diagram", viewBox=f"0 0 {width:g} {bottom + 28:g}", width=f"{width:g}", role="img",
        aria_label="the operations of the smallest failing history, by worker",
    )  # fmt: skip


def _step(shown: Sequence[Operation], places: dict[float, int]) -> float:
    """Return how far two moments stand apart, so that each call's words fit into its bar."""
    step = float(STEP_MIN)
    for one in shown:
        until = places[one.ended_s] if one.ended_s < math.inf else len(places)
        step = max(step, (len(told(one)) * LETTER + 16) / max(until - places[one.began_s], 1))
    return round(min(step, 260.0), 1)


def _faults_behind(faults: Sequence[FaultRecord], moments: Sequence[float], step: float, bottom: float) -> str:
    """Return the faults that began between the first moment and the last, as lines where they began."""
    behind: dict[int, list[FaultRecord]] = {}
    for fault in faults:
        before = sum(moment <= fault.began_s for moment in moments)
        if 0 < before < len(moments):
            behind.setdefault(before, []).append(fault)
    parts = []
    for before, here in behind.items():
        x = LEFT + step * (before - 0.5)
        told_all = titled("\n".join(f"{one.began_s:.2f} s: {one.kind} {one.target}" for one in here))
        words = f"{here[0].kind} {here[0].target}" if len(here) == 1 else f"{len(here)} faults"
        rule = element("line", class_="fault-line", x1=x, x2=x, y1=TOP - 8, y2=bottom)
        parts.append(element("g", [told_all, rule, text(words, x, TOP - 13, class_="label", text_anchor="middle")]))
    return element("g", parts)
