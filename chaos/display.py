"""How a run is shown while it goes on, and what it came to.

Owns a live table on a terminal, plain lines elsewhere, and the summary. Leaves the page for people to ``chaos.report``.
Invariant: showing never changes the run.
Failure behaviour: none of its own.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from amino.testing.chaos.record import FaultRecord, RunRecord

if TYPE_CHECKING:
    from amino.testing.chaos.history import Recorder

_FAULTS_SHOWN = 8


class Progress:
    """Shows one run; implements ``runner.Display``."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console if console is not None else Console(highlight=False, stderr=True)
        self._faults: dict[int, tuple[FaultRecord, str]] = {}
        self._live: Live | None = None

    def phase(self, name: str) -> None:
        """Show what is done now."""
        self.console.print(Text(name, style="dim"))

    def fault(self, record: FaultRecord, what: str) -> None:
        """Show what became of a fault."""
        self._faults[id(record)] = (record, what)
        if self._live is None or not self.console.is_terminal:
            at_s = record.healed_s if what == "healed" else record.began_s
            text = record.text if what != "healed" else record.target
            self.console.print(Text(f"{at_s:7.1f} s  {record.kind}: {what}: {text}"), soft_wrap=True)

    @contextlib.contextmanager
    def live(self, recorder: Recorder, until_s: float) -> Iterator[None]:
        """Show operations and faults while they happen."""
        if not self.console.is_terminal:
            yield
            return
        with Live(
            get_renderable=lambda: self._now(recorder, until_s), console=self.console, refresh_per_second=4
        ) as live:
            self._live = live
            try:
                yield
            finally:
                self._live = None

    def _now(self, recorder: Recorder, until_s: float) -> RenderableType:
        table = Table(box=None, pad_edge=False)
        for title in ("workload", "ok", "failed", "unknown", "under way"):
            table.add_column(title, justify="left" if title == "workload" else "right")
        for name, counts in counted(recorder.operations).items():
            table.add_row(name, *(str(counts[one]) for one in ("ok", "failed", "unknown", "")))
        faults = Table(box=None, pad_edge=False, show_header=False)
        for record, what in list(self._faults.values())[-_FAULTS_SHOWN:]:
            faults.add_row(f"{record.began_s:.1f} s", record.kind, record.target, what)
        return Group(Text(f"{recorder.now_s:.0f} of {until_s:.0f} s", style="bold"), table, faults)


def counted(operations: object) -> dict[str, Counter[str]]:
    """Return how many operations of each workload ended how; those under way under the empty name."""
    found: dict[str, Counter[str]] = {}
    for one in list(operations):  # type: ignore[call-overload]
        under_way = one.ended_s == float("inf")
        found.setdefault(one.workload, Counter())["" if under_way else one.outcome] += 1
    return found


def summary(record: RunRecord, console: Console | None = None) -> None:
    """Print what a run came to."""
    console = console if console is not None else Console(highlight=False)
    table = Table(box=None, pad_edge=False, title_justify="left")
    for title in ("", "judge", "workload", "what it saw"):
        table.add_column(title, overflow="fold")
    for verdict in record.verdicts:
        style = "green" if verdict.ok else "bold red"
        table.add_row(
            Text("ok" if verdict.ok else "FAIL", style=style), verdict.judge, verdict.workload, Text(verdict.text)
        )
    console.print(table)
    counts = Counter(one.outcome for one in record.operations)
    said = ", ".join(f"{counts[one]} {one}" for one in ("ok", "failed", "unknown"))
    passed = Text("PASSED", style="bold green") if record.ok else Text("FAILED", style="bold red")
    console.print(
        passed, f"{record.scenario} on {record.topology}, seed {record.seed}, {record.duration_s:g} s:",
        f"{len(record.faults)} faults; {len(record.operations)} operations, {said}",
    )  # fmt: skip
