"""The matrix: every manager with a claim, under every fault that applies, on each topology; resumable.

Owns which cells there are, what is run for them, and the file of results. Leaves a run to ``python -m chaos run`` in a process of its
own, the page to ``guarantees``.
Invariants: managers and faults are those of the registries; a cell that has a verdict is not run again, unless
its chain is another now, or it is asked for; the file is whole at any time.
Failure behaviour: a run that breaks down leaves its cells as not judged, with the reason, and they are run again next time.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from amino.errors import Invalid
from amino.testing.chaos.faults import Shape
from amino.testing.chaos.faults.catalogue import FAULTS, applicable
from amino.testing.chaos.faults.fault import PRIMARY
from amino.testing.chaos.record import RunRecord, Verdict
from chaos.bounds import bound_of
from chaos.claims import Claim, claims
from chaos.scenarios import MANAGERS

ROOT = Path(__file__).resolve().parents[1]
SLOW_S = 240.0
"""What a run may take beyond its seconds under faults."""
NOT_JUDGED = "could not judge"
CellVerdict = Literal["held", "late", "violated", "not judged"]
VERDICTS: tuple[CellVerdict, ...] = get_args(CellVerdict)
OF_THE_RUN = {"run", "rest", "faults", "workers"}
"""Verdicts about the run itself: with one of these its cells say nothing; a fault that did not happen is not counted, that is all."""


class Cell(msgspec.Struct, omit_defaults=True):
    """What became of one manager under one fault on one topology.

    Args:
        verdict: ``held``; ``violated``: a judge saw something; ``late``: held, and unavailable for longer than its bound;
            ``not judged``. text: the judge and what it saw.
        faults: how many happened. p50_s, worst_s: unavailability from their beginning; healed_s: the worst from when they were undone.
        chain: the managers. operations: of the workload. judges: that found it good, or that did not. commit: of the sources.
        command: that shows it again; only where it did not hold. day: on which it was run.
    """

    manager: str
    fault: str
    topology: str
    verdict: CellVerdict
    text: str = ""
    chain: str = ""
    faults: int = 0
    p50_s: float = 0.0
    worst_s: float = 0.0
    healed_s: float = 0.0
    operations: int = 0
    judges: list[str] = []
    seconds: float = 0.0
    commit: str = ""
    command: str = ""
    day: str = ""

    @property
    def key(self) -> str:
        """Its name in the file of results."""
        return f"{self.topology}/{self.manager}/{self.fault}"


class Results(msgspec.Struct):
    """All cells so far, by ``Cell.key``."""

    cells: dict[str, Cell] = {}
    ttl_s: float = 2.0
    format: int = 1

    @classmethod
    def load(cls, path: Path) -> Results:
        """Read what ``save`` wrote; empty if there is no such file.

        Raises:
            Invalid: it is something else.
        """
        if not path.exists():
            return cls()
        try:
            return msgspec.json.decode(path.read_bytes(), type=cls)
        except (msgspec.DecodeError, msgspec.ValidationError) as error:
            raise Invalid(f"{path} is not a file of the matrix: {error}; name another, or remove it") from error

    def save(self, path: Path) -> None:
        """Write it, whole or not at all: a line for each cell, in order, so that what a run changed can be read from a diff."""
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(path.name + ".new")
        head = msgspec.json.encode({"format": self.format, "ttl_s": self.ttl_s})
        lines = [msgspec.json.encode({key: cell})[1:-1] for key, cell in sorted(self.cells.items())]
        fresh.write_bytes(head[:-1] + b', "cells": {\n' + b",\n".join(lines) + b"\n}}\n")
        fresh.replace(path)


@dataclass(frozen=True, slots=True)
class Batch:
    """One run: some managers side by side under one fault."""

    topology: str
    fault: str
    managers: tuple[str, ...]


def keys(shape: Shape, there: Mapping[str, Claim]) -> list[tuple[str, str]]:
    """Return the cells of a topology, as (fault, manager): every fault that a cluster of that shape lets happen, and applies."""
    return [
        (fault, claim.manager)
        for fault in applicable(FAULTS, shape)
        for claim in there.values()
        if not claim.beyond(fault)
    ]


def batches(
    shapes: Mapping[str, Shape],
    results: Results,
    *,
    only: Sequence[str] = (),
    again: Collection[str] = (),
    together: int = 5,
) -> tuple[list[Batch], int]:
    """Return what is still to be run, and how many cells there are in all.

    Args:
        shapes: by topology. only: parts of the cells' names, ``topology/manager/fault``; a cell with any of them is meant.
        again: verdicts whose cells are run once more. together: how many managers share a run at most.
    """
    there, _ = claims()
    stale = {"not judged", *again}
    waiting: dict[tuple[str, str], list[str]] = {}
    count = 0
    for topology, shape in shapes.items():
        for fault, manager in keys(shape, there):
            key = f"{topology}/{manager}/{fault}"
            if only and not any(part in key for part in only):
                continue
            count += 1
            known = results.cells.get(key)
            if known is None or known.verdict in stale or known.chain != there[manager].text:
                waiting.setdefault((topology, fault), []).append(manager)
    found = [
        Batch(topology, fault, tuple(managers[start : start + together]))
        for (topology, fault), managers in waiting.items()
        for start in range(0, len(managers), together)
    ]
    return found, count


def command_of(batch: Batch, shape: Shape, seed: int, seconds: float) -> list[str]:
    """Return the arguments of ``python -m chaos`` that run a batch: the fault at what has most primaries, and anywhere."""
    kind = FAULTS[batch.fault]
    faults = [batch.fault, *([f"{batch.fault}:{PRIMARY}"] if PRIMARY in kind.targets(shape) else [])]
    return [
        "run", MANAGERS + ",".join(batch.managers), "--topology", batch.topology, "--seed", str(seed),
        "--duration", f"{seconds:g}", *(part for fault in faults for part in ("--fault", fault)),
    ]  # fmt: skip


def cells_of(batch: Batch, record: RunRecord, ttl_s: float, commit: str, command: str) -> list[Cell]:
    """Return what a run says about each of its managers."""
    there, _ = claims()
    return [_cell(batch, there[name], record, ttl_s, commit, command) for name in batch.managers]


def _cell(batch: Batch, claim: Claim, record: RunRecord, ttl_s: float, commit: str, command: str) -> Cell:
    mine = [one for one in record.verdicts if one.workload in ("", claim.name)]
    cell = Cell(claim.manager, batch.fault, batch.topology, "held", seconds=record.duration_s, commit=commit)
    cell.chain = claim.text
    cell.operations = len(record.history(claim.name).operations)
    cell.judges = [one.judge for one in mine if one.judge not in OF_THE_RUN]
    cell.faults = sum(one.verified for one in record.faults)
    for one in mine:
        if one.judge == "liveness":
            figures = one.figures
            cell.p50_s, cell.worst_s = figures.get("unavailable_s_p50", 0.0), figures.get("unavailable_s_worst", 0.0)
            cell.healed_s = figures.get(f"{batch.fault}: after_heal_s_worst", 0.0)
    seen = [one for one in mine if not one.ok and one.judge not in OF_THE_RUN and not one.text.startswith(NOT_JUDGED)]
    rest = [one for one in mine if not one.ok and one not in seen and (one.judge != "faults" or not cell.faults)]
    if seen:
        cell.verdict, cell.text = "violated", _told(seen[0])
    elif rest:
        cell.verdict, cell.text = "not judged", _told(rest[0])
    elif bound_of(batch.fault).broken(ttl_s, cell.p50_s, cell.worst_s, cell.healed_s):
        cell.verdict, cell.text = "late", f"promised: {bound_of(batch.fault).told(ttl_s)}"
    cell.command = command if cell.verdict != "held" else ""
    return cell


def _told(verdict: Verdict) -> str:
    return f"{verdict.judge}: {verdict.text}"


def commit() -> str:
    """Return the commit of the sources, with ``+`` if they were changed since; ``unknown`` outside of git."""
    try:
        head, changed = (
            subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
            for arguments in (["rev-parse", "--short", "HEAD"], ["status", "--porcelain", "--", "amino", "chaos"])
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head + ("+" if changed else "")


def run(
    shapes: Mapping[str, Shape],
    path: Path,
    *,
    only: Sequence[str] = (),
    again: Collection[str] = (),
    together: int = 5,
    seconds: float = 40.0,
    seed: int = 1,
    jobs: int = 1,
    minutes: float = 0.0,
    console: Console | None = None,
) -> Results:
    """Run what has no verdict yet; returns all results, which ``path`` has, too, after each run.

    Args:
        shapes: of the clusters, by topology. only, again, together: see ``batches``. seconds: under faults, each run.
        jobs: runs at a time. minutes: after so many no further run begins; 0: all are run.
    """
    console = console if console is not None else Console(highlight=False, stderr=True)
    results = Results.load(path)
    results.ttl_s = next(iter(shapes.values())).ttl_s
    waiting, count = batches(shapes, results, only=only, again=again, together=together)
    ends = time.monotonic() + 60.0 * minutes if minutes else float("inf")
    done = count - sum(len(one.managers) for one in waiting)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress, ThreadPoolExecutor(jobs) as pool:
        bar = progress.add_task("cells", total=count, completed=done)
        running: dict[Future[list[Cell]], Batch] = {}
        while waiting or running:
            while waiting and len(running) < jobs and time.monotonic() < ends:
                batch = waiting.pop(0)
                progress.update(bar, description=f"{batch.fault} on {batch.topology}")
                running[pool.submit(_one, batch, shapes[batch.topology], seed, seconds)] = batch
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                batch = running.pop(future)
                cells = future.result()
                for cell in cells:
                    cell.day = time.strftime("%Y-%m-%d")
                results.cells.update({cell.key: cell for cell in cells})
                results.save(path)
                progress.advance(bar, len(cells))
                _show(console, batch, cells)
    return results


def _show(console: Console, batch: Batch, cells: Iterable[Cell]) -> None:
    for cell in cells:
        style = {"held": "green", "violated": "bold red", "late": "yellow"}.get(cell.verdict, "red")
        console.print(
            f"[{style}]{cell.verdict}[/] {batch.topology} {batch.fault} {cell.manager}: {cell.faults} faults, "
            f"{cell.p50_s:.2f} s (p50), {cell.worst_s:.2f} s (worst) {cell.text[:200]}", soft_wrap=True,
        )  # fmt: skip


def _one(batch: Batch, shape: Shape, seed: int, seconds: float) -> list[Cell]:
    arguments = command_of(batch, shape, seed, seconds)
    command, at = f"python -m chaos {' '.join(arguments)}", commit()
    with tempfile.TemporaryDirectory(prefix="amino-matrix-") as folder:
        found = Path(folder) / "record.json"
        try:
            done = subprocess.run(
                [sys.executable, "-m", "chaos", *arguments, "--json", str(found)],
                cwd=ROOT, env={**os.environ}, capture_output=True, text=True, timeout=seconds + SLOW_S, check=False,
            )  # fmt: skip
            why = done.stderr.strip()[-300:]
        except subprocess.TimeoutExpired:
            why = f"its run did not end in {seconds + SLOW_S:g} s"
        if found.exists():
            return cells_of(batch, RunRecord.load(found), shape.ttl_s, at, command)
    there, _ = claims()
    return [
        Cell(
            name, batch.fault, batch.topology, "not judged", f"run: {why}", there[name].text, commit=at, command=command
        )
        for name in batch.managers
    ]
