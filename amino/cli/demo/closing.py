"""What the demo says at the end: tables and timelines for people, one JSON document for programs.

Owns both forms. Leaves judging to ``ledger``.
Invariant: the keys ``ok``, ``calls``, ``failovers`` (``kind``, ``detect_s``, ``recover_s``), ``lost_acknowledged`` and
``duplicated`` keep their meaning; others may be added.
Failure behaviour: times that were not seen are shown as a dash, and as null.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from amino.cli.demo.bars import bars
from amino.cli.demo.failover import Failover
from amino.cli.demo.kinds import HAPPENS, FailoverKind
from amino.cli.demo.ledger import Verdict
from amino.cli.demo.meter import Meter
from amino.cli.demo.workload import MIX

_WIDTH_S = 0.1
_BEFORE = 10
_AFTER_MIN = 15
_AFTER_MAX = 60


@dataclass(slots=True)
class Result:
    """Everything the demo found out.

    Args:
        asked: the failovers that should have happened. seconds: how long the load ran.
        problems: what else went wrong, in words.
    """

    verdict: Verdict
    failovers: list[Failover]
    asked: list[FailoverKind]
    meter: Meter
    seconds: float
    users: int
    problems: list[str]

    @property
    def ok(self) -> bool:
        """Whether nothing was lost, doubled or failed, and every failover was seen through."""
        seen = [each.kind for each in self.failovers if each.detect_s is not None and each.recover_s is not None]
        return (
            seen == self.asked
            and not (self.verdict.lost or self.verdict.duplicated or self.meter.failed or self.problems)
            and self.meter.calls > 0
        )

    def document(self) -> dict[str, Any]:
        """Return the JSON document."""
        return {
            "ok": self.ok,
            "calls": self.meter.calls,
            "failovers": [
                {
                    "kind": each.kind.value,
                    "detect_s": _rounded(each.detect_s),
                    "recover_s": _rounded(each.recover_s),
                    "bound_s": each.bound_s,
                    "server": each.server,
                    "objects": each.objects,
                }
                for each in self.failovers
            ],
            "lost_acknowledged": self.verdict.lost,
            "duplicated": self.verdict.duplicated,
            "acknowledged": self.verdict.acknowledged,
            "failed_calls": self.meter.failed,
            "users": self.users,
            "seconds": round(self.seconds, 1),
            "calls_per_s": round(self.meter.calls / self.seconds, 1) if self.seconds else 0.0,
            "problems": [*self.verdict.told, *self.meter.errors, *self.problems],
        }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 4)


def show(result: Result, console: Console) -> None:
    """Show tables, timelines and the verdict."""
    for failover in result.failovers:
        _show_timeline(failover, result.meter, console)
    console.print(_failover_table(result.failovers))
    console.print()
    console.print(_call_table(result.meter))
    console.print()
    verdict = result.verdict
    calls = f"{result.meter.calls} calls in {result.seconds:.1f} s, {result.meter.failed} failed"
    console.print(Text(f"{calls}; {result.users} users."))
    counted = f"{verdict.acknowledged} changes were acknowledged, and every one was looked for afterwards:"
    told = f"{verdict.lost} lost, {verdict.duplicated} duplicated."
    console.print(Text.assemble(f"{counted} ", (told, "bold green" if result.ok else "bold red")))
    for problem in (*verdict.told, *result.meter.errors, *result.problems):
        console.print(Text(f"  {problem}", "red"))


def _failover_table(failovers: list[Failover]) -> Table:
    table = Table("what happened", "server", "objects", "noticed after", "first good call after", "bound", box=None)
    for each in failovers:
        within = each.recover_s is not None and each.recover_s <= each.bound_s
        table.add_row(
            HAPPENS[each.kind],
            each.server,
            str(each.objects),
            _seconds(each.detect_s),
            Text(_seconds(each.recover_s), "green" if within else "yellow"),
            f"{each.bound_s:.1f} s",
        )
    return table


def _call_table(meter: Meter) -> Table:
    table = Table("call", "share", "calls", "p50", "p99", "slowest", box=None)
    latencies = meter.latencies()
    for kind, share in MIX.items():
        seen = latencies.get(kind)
        if seen is not None:
            times = (f"{each:.1f} ms" for each in (seen.p50_ms, seen.p99_ms, seen.max_ms))
            table.add_row(kind, f"{share} %", str(seen.calls), *times)
    return table


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f} s"


def _show_timeline(failover: Failover, meter: Meter, console: Console) -> None:
    after = int((failover.recover_s or 0.0) / _WIDTH_S) + _AFTER_MIN
    counts = meter.buckets(failover.at - _BEFORE * _WIDTH_S, _WIDTH_S, _BEFORE + min(after, _AFTER_MAX))
    ascii_only = not (console.encoding or "").lower().startswith("utf")
    title = f"{failover.server}: {HAPPENS[failover.kind]}. Calls per 100 ms around it, at most {max(counts)}:"
    console.print(Text(title, "bold"))
    console.print(Text("|" + bars(counts, ascii_only=ascii_only) + "|", "cyan"))
    marks = [(0.0, "x", "lost"), (failover.detect_s, "^", "noticed"), (failover.recover_s, "^", "first good call")]
    for at_s, sign, word in marks:
        if at_s is not None:
            when = "" if at_s == 0 else f" after {at_s:.3f} s"
            console.print(Text(" " * (1 + _BEFORE + int(at_s / _WIDTH_S)) + f"{sign} {word}{when}"))
    console.print()
