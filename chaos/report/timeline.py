"""The timeline: answers per second, latency, and errors, with the faults drawn in.

Owns the picture of one workload, or of all together. Leaves numbers to ``series``.
Invariants: all panels share the time axis; each fault is one band across all of them and one label above.
Failure behaviour: none.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

from amino.testing.chaos.record import FaultRecord
from chaos.report.drawing import Scale, amount, duration, element, line, text, titled
from chaos.report.series import Series

WIDTH, LEFT, RIGHT = 1160, 62, 14
LANE, PANEL, GAP = 17, 118, 30
LANES_MAX = 6
NAMED_MAX = 60
"""More faults than this stand in one lane without their names, which the pointer and the table of faults still tell."""
LABEL = 6.3
"""Width of a letter of a label, about."""


def timeline(series: Series, faults: Sequence[FaultRecord], until_s: float) -> str:
    """Return the picture as one SVG element, with its data for the pointer in ``data-series``."""
    x = Scale(0, max(until_s, series.until_s, 0.1), LEFT, WIDTH - RIGHT)
    lanes, depth = _lanes(faults, x)
    top = 8 + LANE * max(depth, 1) + 24
    tops = [top + number * (PANEL + GAP) for number in range(3)]
    height = tops[-1] + PANEL + 34
    parts = [_bands(faults, x, top - 20, tops[-1] + PANEL), *lanes]
    parts += _throughput(series, x, tops[0])
    parts += _latency(series, x, tops[1])
    parts += _errors(series, x, tops[2])
    parts += _time_axis(x, tops[-1] + PANEL)
    parts.append(element("line", class_="cursor", x1=0, x2=0, y1=top - 20, y2=tops[-1] + PANEL))
    data = {
        "width": series.width_s, "left": x(0), "scale": x(1) - x(0), "ok": series.ok, "failed": series.failed,
        "unknown": series.unknown, "p50": _short(series.p50_ms), "p99": _short(series.p99_ms),
        "worst": _short(series.worst_ms),
    }  # fmt: skip
    return element(
        "svg",
        parts,
        class_="timeline",
        viewBox=f"0 0 {WIDTH} {height:g}",
        role="img",
        aria_label="answers per second, latency and errors over time, with faults",
        data_series=json.dumps(data, separators=(",", ":")),
    )


def _short(values: Sequence[float | None]) -> list[float | None]:
    return [None if value is None else float(f"{value:.3g}") for value in values]


def family(kind: str) -> str:
    """Return what sort of fault it is, by which bands are coloured."""
    first = kind.split("+", maxsplit=1)[0]
    if "member" in first or "etcd" in first or first in ("compact", "defragment", "kill-majority", "freeze-majority"):
        return "etcd"
    return {
        "kill": "kill",
        "freeze": "freeze",
        "cut": "net",
        "isolate": "net",
        "swallow": "net",
        "disconnect": "net",
    }.get(first.split("-")[0], "net" if first.endswith(("network", "connections")) else "other")


def _end(fault: FaultRecord, x: Scale) -> float:
    return x(min(fault.healed_s, x.high)) if fault.healed_s < math.inf else x.end


def _bands(faults: Sequence[FaultRecord], x: Scale, top: float, bottom: float) -> str:
    return element(
        "g",
        (
            element(
                "rect",
                titled(_told(fault)),
                class_=f"band {family(fault.kind)}",
                x=x(fault.began_s),
                y=top,
                width=max(round(_end(fault, x) - x(fault.began_s), 1), 1.5),
                height=round(bottom - top, 1),
            )
            for fault in faults
        ),
    )


def _lanes(faults: Sequence[FaultRecord], x: Scale) -> tuple[list[str], int]:
    """Return the marks above the panels, on as many lanes as they need, and how many those are.

    Each has its name beside it, if there are not too many for that.
    """
    if len(faults) > NAMED_MAX:
        return [_mark(fault, x, 0, "") for fault in faults], 1
    parts: list[str] = []
    free_from: list[float] = []
    for fault in sorted(faults, key=lambda each: each.began_s):
        words = f"{fault.kind} {fault.target}".strip()
        begin, end = x(fault.began_s), _end(fault, x)
        room = begin if begin + 6 + len(words) * LABEL < WIDTH else begin - 6 - len(words) * LABEL
        lane = next((place for place, free in enumerate(free_from) if free <= room), None)
        if lane is None and len(free_from) < LANES_MAX:
            free_from.append(0.0)
            lane = len(free_from) - 1
        if lane is None:
            parts.append(_mark(fault, x, LANES_MAX - 1, ""))
            continue
        free_from[lane] = max(end, room + 6 + len(words) * LABEL) + 6
        parts.append(_mark(fault, x, lane, words, before=room < begin))
    return parts, len(free_from)


def _mark(fault: FaultRecord, x: Scale, lane: int, words: str, *, before: bool = False) -> str:
    begin, y = x(fault.began_s), 8 + lane * LANE
    width = max(round(_end(fault, x) - begin, 1), 3)
    parts = [
        titled(_told(fault)),
        element("rect", class_=f"mark {family(fault.kind)}", x=begin, y=y, width=width, height=12, rx=2),
    ]
    if words:
        place, anchor = (begin - 4, "end") if before else (begin + 5, "start")
        parts.append(text(words, place, y + 10, class_="label", text_anchor=anchor))
    return element("g", parts, class_=None if fault.verified else "unverified")


def _told(fault: FaultRecord) -> str:
    lasted = duration(fault.healed_s - fault.began_s) if fault.healed_s < math.inf else "the rest of the run"
    happened = "" if fault.verified else " - did not happen"
    return f"{fault.kind} {fault.target}{happened}\nat {fault.began_s:.2f} s for {lasted}\n{fault.text}".strip()


def _frame(name: str, unit: str, y: Scale, x: Scale, *, whole: bool = False) -> list[str]:
    parts = [
        text(name, LEFT, y.end - 7, class_="name"),
        text(unit, LEFT + 8 + len(name) * 8.2, y.end - 7, class_="unit"),
    ]
    for tick in y.ticks(3):
        if whole and tick != int(tick):
            continue
        parts.append(element("line", class_="grid", x1=x.begin, x2=x.end, y1=y(tick), y2=y(tick)))
        parts.append(text(amount(tick), LEFT - 8, y(tick) + 4, class_="tick", text_anchor="end"))
    return parts


def _throughput(series: Series, x: Scale, top: float) -> list[str]:
    rates = [count / series.width_s for count in series.ok]
    y = Scale(0, max([*rates, 1]) * 1.05, top + PANEL, top)
    steps: list[tuple[float, float]] = []
    for place, rate in enumerate(rates):
        steps += [(x(place * series.width_s), y(rate)), (x(min((place + 1) * series.width_s, x.high)), y(rate))]
    area = line([(x.begin, y.begin), *steps, (steps[-1][0], y.begin)]) + "Z"
    parts = [*_frame("answers", "per second", y, x), element("path", class_="area ok", d=area)]
    return [*parts, element("path", class_="stroke ok", d=line(steps))]


def _latency(series: Series, x: Scale, top: float) -> list[str]:
    seen = [value for value in [*series.p50_ms, *series.worst_ms] if value is not None] or [1.0]
    low, high = min(seen), max(seen)
    y = Scale(
        10 ** math.floor(math.log10(max(low, 0.01))),
        10 ** math.ceil(math.log10(max(high, 0.02))),
        top + PANEL,
        top,
        log=True,
    )
    parts = _frame("latency", "ms, of good answers", y, x)
    lines = (("worst", series.worst_ms), ("p99", series.p99_ms), ("p50", series.p50_ms))
    for name, values in lines:
        points = [
            None if each is None else (x((place + 0.5) * series.width_s), y(each)) for place, each in enumerate(values)
        ]
        parts.append(element("path", class_=f"stroke {name}", d=line(_with_lonely(points))))
    for place, (name, _) in enumerate(reversed(lines)):
        at = WIDTH - RIGHT - 150 + place * 54
        parts.append(element("line", class_=f"stroke {name}", x1=at, x2=at + 14, y1=top - 11, y2=top - 11))
        parts.append(text(name, at + 18, top - 7, class_="legend"))
    return parts


def _with_lonely(points: Sequence[tuple[float, float] | None]) -> list[tuple[float, float] | None]:
    """Draw points that have no neighbour as short dashes, so that they are seen."""
    found: list[tuple[float, float] | None] = []
    for place, point in enumerate(points):
        found.append(point)
        lonely = all(other is None for other in (*points[max(place - 1, 0) : place], *points[place + 1 : place + 2]))
        if point is not None and lonely:
            found += [(point[0] + 2, point[1]), None]
    return found


def _errors(series: Series, x: Scale, top: float) -> list[str]:
    most = max([failed + unknown for failed, unknown in zip(series.failed, series.unknown, strict=True)] or [0])
    y = Scale(0, max(most, 1) * 1.05, top + PANEL, top)
    parts = _frame("errors", f"in {series.width_s:g} s", y, x, whole=True)
    width = max(x(series.width_s) - x(0) - 0.6, 1.2)
    for place, (failed, unknown) in enumerate(zip(series.failed, series.unknown, strict=True)):
        at = x(place * series.width_s)
        for name, low, high in (("failed", 0, failed), ("unknown", failed, failed + unknown)):
            if high > low:
                size = round(y(low) - y(high), 1)
                parts.append(
                    element("rect", class_=f"fill {name}", x=at, y=y(high), width=round(width, 1), height=size)
                )
    for place, (name, words) in enumerate((("failed", "not executed"), ("unknown", "outcome unknown"))):
        at = WIDTH - RIGHT - 226 + place * 106
        parts.append(element("rect", class_=f"fill {name}", x=at, y=top - 16, width=10, height=10, rx=2))
        parts.append(text(words, at + 15, top - 7, class_="legend"))
    if not most:
        parts.append(text("none", (x.begin + x.end) / 2, top + PANEL / 2, class_="unit", text_anchor="middle"))
    return parts


def _time_axis(x: Scale, bottom: float) -> list[str]:
    parts = [element("line", class_="axis", x1=x.begin, x2=x.end, y1=bottom, y2=bottom)]
    for tick in x.ticks(12):
        parts.append(element("line", class_="axis", x1=x(tick), x2=x(tick), y1=bottom, y2=bottom + 4))
        parts.append(text(f"{tick:g} s", x(tick), bottom + 18, class_="tick", text_anchor="middle"))
    return parts
