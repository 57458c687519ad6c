"""Results for people: a table on the terminal, a plot in a file.

Owns how rows are shown. Leaves them to the benchmarks.
Invariant: a plot is made only when asked for, so matplotlib is needed only then.
Failure behaviour: without matplotlib the plot is left out with the reason.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from bench.rows import Row, shown

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def table(title: str, rows: Sequence[Row]) -> None:
    """Print the rows as a table."""
    made = Table(title=title, title_justify="left")
    for column, right in (
        ("name", False),
        ("value", True),
        ("unit", False),
        ("ratio", True),
        ("bar", False),
        ("", False),
    ):
        made.add_column(column, justify="right" if right else "left", overflow="fold")
    for row in rows:
        verdict = "" if row.bar is None else ("[green]ok[/]" if row.ok else "[bold red]FAIL[/]")
        note = f"{row.bar or ''}{' ' if row.bar and row.note else ''}{f'({row.note})' if row.note else ''}"
        made.add_row(row.name, shown(row.value), row.unit, shown(row.ratio) if row.ratio else "", note, verdict)
    Console().print(made)


def plot(title: str, rows: Sequence[Row], path: Path) -> None:
    """Draw one panel of bars per unit into ``path`` (png), and print the path."""
    try:
        import matplotlib as mpl

        mpl.use("Agg")
        from matplotlib import pyplot as plt
    except ImportError as error:
        print(f"no plot: {error}; make venv installs the bench extra")
        return
    panels: dict[str, list[tuple[str, float]]] = {}
    for row in rows:
        if row.value is not None:
            panels.setdefault(row.unit, []).append((row.name, row.value))
    height = sum(0.4 * len(bars) + 0.9 for bars in panels.values())
    figure, axes = plt.subplots(
        len(panels),
        1,
        figsize=(9, max(2.0, height)),
        squeeze=False,
        height_ratios=[len(bars) + 1 for bars in panels.values()],
    )
    for (unit, bars), axis in zip(panels.items(), axes[:, 0], strict=True):
        names = [name for name, _ in bars][::-1]
        values = [value for _, value in bars][::-1]
        colours = ["#c44e52" if ".amino" in name or name.startswith("amino") else "#4c72b0" for name in names]
        drawn = axis.barh(names, values, color=colours)
        axis.bar_label(drawn, labels=[shown(value) for value in values], padding=3, fontsize=8)
        axis.set_xlabel(unit)
        axis.margins(x=0.15)
        if min(values) > 0 and max(values) / min(values) > 50:
            axis.set_xscale("log")
    figure.suptitle(title)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
    print(f"plot: {path}")
