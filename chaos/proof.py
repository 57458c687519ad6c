"""Proof that the judges see something: defects applied to copies of the sources, one at a time, each run where it must show.

Owns copying, applying, running and telling. Leaves which defects there are to ``defects``.
Invariants: the sources themselves are never changed; a defect counts as caught only by a judge of what was seen, never because
its run broke down.
Failure behaviour: a defect that cannot be applied, or whose run says nothing in time, counts as not caught, with the reason.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

import amino
from amino.errors import Invalid
from amino.testing.chaos.record import RunRecord
from chaos.defects import DEFECTS, Defect

SOURCES = {"amino": Path(amino.__file__).resolve().parent, "chaos": Path(__file__).resolve().parent}
"""What is copied and changed, from where it is imported: a package may be installed elsewhere."""
RUN_S = 180.0
"""For so long a defect may stay unseen."""
NO_JUDGEMENT = "could not judge"
NOT_A_JUDGE = {"run", "faults"}
"""Verdicts about the run itself: they catch nothing."""


class Proof(msgspec.Struct):
    """What became of one defect, or of the unmodified sources.

    Args:
        caught_by: the judge, empty if nobody saw anything. text: what it said, or why nobody could. took_s: of the run.
    """

    defect: str
    caught_by: str
    text: str
    took_s: float
    command: str


def prove(names: Sequence[str], patch: Path | None, scenario: str, *, clean: bool, json: Path | None) -> bool:
    """Run the proof; returns whether every defect was caught and the unmodified sources were clean.

    Args:
        names: of defects; empty: all, or none with ``patch``. patch: one more, shown by ``scenario``.
        clean: run the same on the unmodified sources. json: where to write the proofs.
    """
    chosen = [_named(name) for name in names] or ([] if patch else list(DEFECTS.values()))
    if patch is not None:
        chosen.append(Defect(patch.name, f"the patch {patch.name}", (), "chaos", ("run", scenario, "--duration", "40")))
    console = Console(highlight=False)
    proofs: list[Proof] = []
    clean_runs: dict[tuple[str, ...], Proof] = {}
    for one in chosen:
        console.print(f"[bold]{one.name}[/]: {one.text}", soft_wrap=True)
        proof = _try(one, patch if one.name not in DEFECTS else None)
        proofs.append(proof)
        _told(console, proof, good=bool(proof.caught_by))
        run = (one.module, *one.arguments)
        if clean and run not in clean_runs:
            unmodified = clean_runs[run] = _try(without(one), None)
            _told(console, unmodified, good=not unmodified.caught_by and not unmodified.text)
    _summary(console, proofs, list(clean_runs.values()))
    if json is not None:
        json.write_bytes(msgspec.json.format(msgspec.json.encode([*proofs, *clean_runs.values()])))
    return all(one.caught_by for one in proofs) and not any(one.caught_by or one.text for one in clean_runs.values())


def _named(name: str) -> Defect:
    if name not in DEFECTS:
        raise Invalid(f"no defect {name!r}; there are {', '.join(DEFECTS)}")
    return DEFECTS[name]


def without(defect: Defect) -> Defect:
    """Return the same run without the defect."""
    return Defect("unmodified", f"the run of {defect.name}, without it", (), defect.module, defect.arguments)


def apply(defect: Defect, root: Path) -> None:
    """Make a defect's changes below ``root``.

    Raises:
        Invalid: what it changes is not there exactly once.
    """
    for edit in defect.edits:
        path = root / edit.file
        text = path.read_text(encoding="utf-8")
        if text.count(edit.before) != 1:
            raise Invalid(
                f"{defect.name}: what it changes is in {edit.file} {text.count(edit.before)} times; mend chaos/defects.py"
            )
        path.write_text(text.replace(edit.before, edit.after), encoding="utf-8")


def _try(defect: Defect, patch: Path | None) -> Proof:
    command = f"python -m {defect.module} {' '.join(defect.arguments)}"
    with tempfile.TemporaryDirectory(prefix="amino-proof-") as folder:
        root = Path(folder)
        for part, source in SOURCES.items():
            shutil.copytree(source, root / part, ignore=shutil.ignore_patterns("__pycache__"))
        try:
            apply(defect, root)
            if patch is not None:
                _patch(patch, root)
        except Invalid as error:
            return Proof(defect.name, "", str(error), 0.0, command)
        began = time.monotonic()
        found = root / "found.json"
        environment = {**os.environ, "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
        try:
            done = subprocess.run(
                [sys.executable, "-P", "-m", defect.module, *defect.arguments, "--json", str(found)],
                cwd=root, env=environment, capture_output=True, text=True, timeout=RUN_S, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return Proof(defect.name, "", f"its run did not end in {RUN_S:g} s", RUN_S, command)
        took_s = time.monotonic() - began
        if not found.exists():
            return Proof(defect.name, "", f"its run said nothing: {done.stderr[-400:].strip()}", took_s, command)
        caught_by, text = _seen(defect, found)
        return Proof(defect.name, caught_by, text, took_s, command)


def _patch(patch: Path, root: Path) -> None:
    done = subprocess.run(
        ["git", "apply", "--unsafe-paths", f"--directory={root}", str(patch.resolve())],
        cwd=root, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise Invalid(f"{patch} does not apply: {done.stderr.strip()}")


def _seen(defect: Defect, found: Path) -> tuple[str, str]:
    """Return which judge caught it, and what it said."""
    if defect.module != "chaos":
        findings: list[str] = msgspec.json.decode(found.read_bytes(), type=list[str])
        if not findings:
            return "", ""
        judge, _, text = findings[0].partition(": ")
        return (judge, text) if defect.module == "chaos.staged" else ("the simulation's invariants", findings[0])
    bad = [one for one in RunRecord.load(found).verdicts if not one.ok]
    for one in bad:
        if one.judge not in NOT_A_JUDGE and not one.text.startswith(NO_JUDGEMENT):
            return (f"{one.judge} of {one.workload}" if one.workload else one.judge), one.text
    return "", "; ".join(f"{one.judge}: {one.text}" for one in bad)


def _told(console: Console, proof: Proof, *, good: bool) -> None:
    verdict = f"caught by {proof.caught_by}" if proof.caught_by else "nothing was seen"
    if proof.defect == "unmodified":
        verdict = "clean" if good else f"not clean: {proof.caught_by}"
    text = Text(
        f"  {proof.defect}: {verdict} in {proof.took_s:.0f} s. {proof.text[:300]}", style="green" if good else "red"
    )
    console.print(text, soft_wrap=True)


def _summary(console: Console, proofs: Sequence[Proof], clean: Sequence[Proof]) -> None:
    table = Table(box=None, pad_edge=False)
    for title in ("defect", "caught by", "in", "run"):
        table.add_column(title, overflow="fold")
    for one in proofs:
        style = "green" if one.caught_by else "bold red"
        table.add_row(one.defect, Text(one.caught_by or "nobody", style=style), f"{one.took_s:.0f} s", one.command)
    console.print(table)
    dirty = [one for one in clean if one.caught_by or one.text]
    console.print(
        f"{sum(bool(one.caught_by) for one in proofs)} of {len(proofs)} caught; "
        f"{len(clean) - len(dirty)} of {len(clean)} runs of the unmodified sources clean"
    )
