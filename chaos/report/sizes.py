"""Sizes over the run: memory, what etcd holds, open files; a small picture for each.

Owns these pictures. Leaves reading sizes to whoever ran the cluster, and judging growth to ``judges.growth``.
Invariant: figures of one kind share a picture, a line for each server.
Failure behaviour: figures that were never read have no picture.
"""

from __future__ import annotations

from collections.abc import Sequence

from amino.testing.chaos.record import Sample
from chaos.report.drawing import Scale, amount, element, line, text, titled

WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 370, 150, 46, 30, 22
KINDS = ("memory bytes", "etcd keys", "etcd events", "etcd bytes", "descriptors", "objects", "threads", "tasks")
COLOURS = 8


def sizes(samples: Sequence[Sample]) -> str:
    """Return the pictures of all kinds of figures, as SVG elements."""
    pictures = []
    names = sorted({name for sample in samples for name in sample.figures})
    for kind in KINDS:
        mine = [name for name in names if name.endswith(kind)]
        if mine:
            pictures.append(_picture(kind, mine, samples))
    return "".join(pictures)


def _picture(kind: str, names: Sequence[str], samples: Sequence[Sample]) -> str:
    lines = {name: [(one.at_s, one.figures[name]) for one in samples if name in one.figures] for name in names}
    values = [value for each in lines.values() for _, value in each]
    x = Scale(samples[0].at_s, samples[-1].at_s, LEFT, WIDTH - 10)
    y = Scale(0, max([*values, 1]) * 1.08, HEIGHT - BOTTOM, TOP)
    whose = f"{len(names)} servers" if len(names) > 1 else ""
    parts = [text(kind, LEFT, 16, class_="name"), text(whose, WIDTH - 10, 16, class_="unit", text_anchor="end")]
    for tick in y.ticks(3):
        parts.append(element("line", class_="grid", x1=LEFT, x2=WIDTH - 10, y1=y(tick), y2=y(tick)))
        parts.append(text(amount(tick), LEFT - 6, y(tick) + 4, class_="tick", text_anchor="end"))
    for number, (name, points) in enumerate(lines.items()):
        path = line([(x(at), y(value)) for at, value in points])
        parts.append(element("path", titled(name), class_=f"stroke many many{number % COLOURS}", d=path))
    parts += [text(f"{tick:g} s", x(tick), HEIGHT - 5, class_="tick", text_anchor="middle") for tick in x.ticks(4)]
    label = f"{kind} over time"
    return element("svg", parts, class_="size", viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=label)
