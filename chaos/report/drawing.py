"""Pieces of SVG, as text.

Owns scales, ticks, paths and escaping. Leaves what is drawn to ``timeline``, ``sizes`` and ``diagram``.
Invariant: whatever came from a record is escaped. Failure behaviour: none.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape


@dataclass(frozen=True, slots=True)
class Scale:
    """Maps values from one range to places in another; with ``log`` by their logarithms."""

    low: float
    high: float
    begin: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Return the place of a value."""
        if self.log:
            value, low, high = (math.log10(max(each, self.low)) for each in (value, self.low, self.high))
        else:
            low, high = self.low, self.high
        share = (value - low) / (high - low) if high > low else 0.0
        return round(self.begin + share * (self.end - self.begin), 1)

    def ticks(self, count: int = 4) -> list[float]:
        """Return round values within the range, about ``count``; powers of ten of a logarithmic one."""
        if self.log:
            first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
            return [10.0**power for power in range(first, last + 1) if self.low <= 10.0**power <= self.high]
        rough = (self.high - self.low) / max(count, 1)
        if rough <= 0:
            return [self.low]
        unit = 10.0 ** math.floor(math.log10(rough))
        step = next(unit * each for each in (1, 2, 2.5, 5, 10) if unit * each >= rough)
        first = math.ceil(self.low / step)
        return [step * number for number in range(first, math.floor(self.high / step) + 1)]


def element(name: str, content: str | Iterable[str] = "", /, **attributes: object) -> str:
    """Return one element; ``class_`` is ``class``, other underscores are hyphens. The content is taken as it is."""
    text = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    inner = content if isinstance(content, str) else "".join(content)
    return f"<{name}{text}>{inner}</{name}>"


def text(words: str, x: float, y: float, **attributes: object) -> str:
    """Return words at a place."""
    return element("text", escape(words), x=x, y=y, **attributes)


def titled(words: str) -> str:
    """Return what a browser shows when the pointer rests on the element around it."""
    return element("title", escape(words))


def line(points: Sequence[tuple[float, float] | None]) -> str:
    """Return the path through the points, interrupted where one is None."""
    parts: list[str] = []
    pen_down = False
    for point in points:
        if point is None:
            pen_down = False
            continue
        parts.append(f"{'L' if pen_down else 'M'}{point[0]:g} {point[1]:g}")
        pen_down = True
    return "".join(parts)


def amount(value: float) -> str:
    """Return a number in few characters: ``1.5k``, ``12M``, ``0.25``."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g}{unit}"
    return f"{value:.3g}"


def duration(seconds: float) -> str:
    """Return seconds for people: ``12 ms``, ``3.2 s``, ``5 min``."""
    if seconds == math.inf:
        return "never"
    if seconds < 1:
        return f"{seconds * 1e3:.3g} ms"
    return f"{seconds:.3g} s" if seconds < 300 else f"{seconds / 60:.3g} min"
