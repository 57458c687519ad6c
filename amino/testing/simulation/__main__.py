"""``python -m amino.testing.simulation``: many seeds, one verdict.

Owns the command line, spreading seeds over processes, and the report. Leaves simulating to ``run``.
Invariants: exit code 0 only if every seed ran and nothing was found; each finding comes with its seed, which repeats it.
Failure behaviour: interrupted, it reports what it has and exits with 130.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import gc
import logging
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from amino.testing.simulation.run import SECONDS, RunReport, run_seed
from amino.testing.simulation.workloads import LOADS

HOUR_S = 3600.0
TOLD_EVERY = 25


class Summary(msgspec.Struct):
    """All seeds together."""

    ok: bool
    loads: list[str]
    seeds: int
    simulated_hours: float
    real_s: float
    replies: int
    steps: int
    findings: list[str]
    faults: dict[str, int]
    outcomes: dict[str, int]
    longest_call_s: float


def _arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m amino.testing.simulation",
        description="Simulate clusters under load and faults, in virtual time, and check Amino's invariants.",
    )
    parser.add_argument("--seeds", type=int, default=15, help="how many seeds (default 15)")
    parser.add_argument("--first", type=int, default=1, help="the first seed (default 1)")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--hours", type=float, help=f"simulated hours of all seeds together (default {SECONDS} s each)")
    length.add_argument("--seconds", type=float, help="simulated seconds of each seed")
    parser.add_argument(
        "--load",
        choices=sorted(LOADS),
        action="append",
        help="what clients do (default: checkpointed); given several times, all at once on the same cluster",
    )
    parser.add_argument("--list", action="store_true", help="print the loads and exit")
    parser.add_argument("--jobs", type=int, default=1, help="processes (default 1)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write summary and all runs to FILE")
    return parser.parse_args(given)


def _list() -> None:
    console = Console()
    width = max(map(len, LOADS))
    for name, kind in sorted(LOADS.items()):
        console.print(f"{name:<{width}}  {kind.about}", markup=False, highlight=False, soft_wrap=True)


def _run(seed: int, seconds: float, loads: Sequence[str]) -> RunReport:
    logging.disable(logging.CRITICAL)  # thousands of warnings about faults that are wanted
    gc.disable()
    try:
        return run_seed(seed, seconds, loads=loads)
    finally:
        gc.enable()
        gc.collect()


def _reports(seeds: range, seconds: float, jobs: int, loads: Sequence[str]) -> Iterator[RunReport]:
    if jobs <= 1:
        for seed in seeds:
            yield _run(seed, seconds, loads)
        return
    with concurrent.futures.ProcessPoolExecutor(jobs) as pool:
        waiting = [pool.submit(_run, seed, seconds, loads) for seed in seeds]
        try:
            for done in concurrent.futures.as_completed(waiting):
                yield done.result()
        finally:
            for one in waiting:
                one.cancel()


def summarize(reports: Sequence[RunReport], wanted: int, real_s: float) -> Summary:
    """Return the verdict of ``reports``."""
    faults: Counter[str] = Counter()
    outcomes: Counter[str] = Counter()
    for report in reports:
        faults.update(report.faults)
        outcomes.update(report.outcomes)
    findings = [f"seed {report.seed}: {finding}" for report in reports for finding in report.findings]
    return Summary(
        ok=not findings and len(reports) == wanted,
        loads=sorted({name for report in reports for name in report.loads}),
        seeds=len(reports),
        simulated_hours=sum(report.simulated_s for report in reports) / HOUR_S,
        real_s=real_s,
        replies=sum(report.replies for report in reports),
        steps=sum(report.steps for report in reports),
        findings=findings,
        faults=dict(sorted(faults.items())),
        outcomes=dict(sorted(outcomes.items())),
        longest_call_s=max((report.longest_s for report in reports), default=0.0),
    )


def main(given: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    arguments = _arguments(given)
    if arguments.list:
        _list()
        return 0
    seeds = range(arguments.first, arguments.first + arguments.seeds)
    seconds = arguments.seconds or SECONDS
    if arguments.hours is not None:
        seconds = arguments.hours * HOUR_S / max(arguments.seeds, 1)
    loads = list(dict.fromkeys(arguments.load or ["checkpointed"]))
    console = Console(stderr=True)
    reports: list[RunReport] = []
    began, code = time.perf_counter(), 0
    columns: tuple[Any, ...] = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    )  # fmt: skip
    try:
        with Progress(*columns, console=console) as progress:
            task = progress.add_task("simulating", total=arguments.seeds)
            for report in _reports(seeds, seconds, arguments.jobs, loads):
                reports.append(report)
                progress.advance(task)
                if not console.is_terminal and len(reports) % TOLD_EVERY == 0:
                    console.print(f"{len(reports)} of {arguments.seeds} seeds, {time.perf_counter() - began:.0f} s")
                for finding in report.findings:
                    progress.console.print(f"seed {report.seed}: {finding}", markup=False, highlight=False)
    except KeyboardInterrupt:
        code = 130
    reports.sort(key=lambda report: report.seed)
    summary = summarize(reports, arguments.seeds, time.perf_counter() - began)
    if arguments.json is not None:
        document = {"summary": summary, "runs": reports}
        arguments.json.write_bytes(msgspec.json.format(msgspec.json.encode(document)) + b"\n")
    verdict = "all invariants held" if summary.ok else f"{len(summary.findings)} findings"
    console.print(
        f"{verdict}: {summary.simulated_hours:.1f} simulated hours of {summary.seeds} seeds, "
        f"{sum(count for name, count in summary.faults.items() if ':' not in name):,} faults, {summary.replies:,} replies, in {summary.real_s:.0f} s"
    )
    return code or (0 if summary.ok else 1)


if __name__ == "__main__":
    sys.exit(main())
