"""What telemetry costs while it is off: null calls beside a build without it, in the same run.

Owns making that build (a copy of the sources in which every question "is somebody tracing or metering?" is answered "no" when
they are compiled, so that what would follow is not there at all) and comparing. Leaves timing to ``stats``.
Invariants: the builds (ours twice, to know the noise) have a cluster and a client each, and are measured in turns; the median
over the turns of each turn's 10th percentile counts. In each, client and server have a core of their own. (The best turn only
shows where the scheduler once put the threads; left to it, one build ran at 57 us and another, the same but for metrics, at 89.)
Failure behaviour: a build that cannot run raises with its output.
"""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import amino
from bench.cluster import ROOT, running
from bench.placement import place_client, place_server
from bench.rows import Row, row
from bench.stats import p50, percentile, sequential
from bench.telemetry_switch import SWITCHES, Switch, switch_telemetry

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

TURNS = 60
SECONDS = 0.06
FAST = 0.1
COST_MAX = 1.03
NOISE_MIN = 1.1
"""Two processes of one build differ by so much on a small machine, whatever one pair of them shows."""
KINDS = ("inline", "def")


class _Without(ast.NodeTransformer):
    """Answers ``telemetry.tracing``, ``self._telemetry.observing`` and the like with False."""

    def __init__(self) -> None:
        self.answered = 0

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        self.generic_visit(node)
        if node.attr in SWITCHES and isinstance(node.ctx, ast.Load) and _is_telemetry(node.value):
            self.answered += 1
            return ast.copy_location(ast.Constant(value=False), node)
        return node


def _is_telemetry(node: ast.expr) -> bool:
    name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
    return name.lstrip("_") == "telemetry"


def without_telemetry(source: str) -> tuple[str, int]:
    """Return ``source`` with telemetry's switches answered, and how many there were."""
    transformer = _Without()
    tree = transformer.visit(ast.parse(source))
    return ast.unparse(tree), transformer.answered


def copy_without_telemetry(folder: Path) -> int:
    """Make the build in ``folder``; returns how many switches it answers."""
    answered = 0
    for source in (Path(amino.__file__).parent, Path(__file__).parent):  # amino may be installed elsewhere
        shutil.copytree(source, folder / source.name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in (folder / "amino").rglob("*.py"):
        if "telemetry" in path.relative_to(folder / "amino").parts or "gen" in path.parts:
            continue
        text, number = without_telemetry(path.read_text())
        if number:
            path.write_text(text)
            answered += number
    return answered


def run(*, quick: bool = False) -> list[Row]:
    """Measure both builds in turns; about twenty seconds."""
    turns = 20 if quick else TURNS
    with tempfile.TemporaryDirectory(prefix="amino-bench-") as folder, ExitStack() as stack:
        copy_without_telemetry(Path(folder))
        sources = {"with": ROOT, "again": ROOT, "without": Path(folder)}
        builds = {name: stack.enter_context(build(where)) for name, where in sources.items()}
        measured: dict[str, list[dict[str, float]]] = {name: [] for name in builds}
        for turn in range(turns):
            for name in sorted(builds, reverse=bool(turn % 2)):
                measured[name].append(builds[name].measure())
    return judge(measured["with"], measured["again"], measured["without"])


def judge(ours: list[dict[str, float]], again: list[dict[str, float]], without: list[dict[str, float]]) -> list[Row]:
    """Return a row for each kind of method: the median of the turns beside that of the build without telemetry.

    Args:
        again: of the same build as ``ours``: what the two differ by is noise.
    """
    rows: list[Row] = []
    for kind in KINDS:
        first, second, baseline = (p50([each[kind] for each in turns]) for turns in (ours, again, without))
        noise = max(first, second) / min(first, second)
        rows.append(
            row(
                f"calls.amino.{kind}.telemetry_off",
                min(first, second),
                "us",
                baseline=baseline,
                against="a build without telemetry",
                at_most=round(max(noise * COST_MAX, NOISE_MIN), 3),
                note=f"10th percentile, median of {len(ours)} turns; two runs of the same build differ by {noise - 1:.1%}",
            )
        )
    return rows


class Build:
    """A build that runs, with its cluster."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def measure(self, *, on: bool = True, mean: bool = False) -> dict[str, float]:
        """Measure one turn: microseconds by kind, of the fastest tenth of the calls at most.

        Args:
            on: whether telemetry, where this build has any, is switched on.
            mean: take the mean of all calls, in which those that are dearer than most count for what they are.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"seconds": SECONDS, "on": on, "mean": mean}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a build ended with code {self._process.wait()} while it was measured")
        found: dict[str, float] = json.loads(line)
        return found


@contextmanager
def build(folder: Path, variables: Mapping[str, str] | None = None) -> Iterator[Build]:
    """Run the sources in ``folder`` with a cluster of their own, and those of ``OTEL_*`` that are in ``variables``."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("OTEL_")}
    others = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    environment["PYTHONPATH"] = os.pathsep.join([str(folder), *others])
    environment.update(variables or {})
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.telemetry_cost"],
        cwd=folder,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        made = Build(process)
        made.measure()  # its cluster runs before the next one looks for free ports
        yield made
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(30)


def _serve() -> None:
    """Measure a turn for each line of standard input, on a cluster of this build's."""
    import amino
    from bench.workload import Null

    with running(servers=1) as cluster:
        place_server(cluster.local.server(cluster.servers[0]).kernel_pid)
        place_client()
        null: Any = cluster.client.new(amino.spec(Null))
        switch: Any = cluster.client.new(amino.spec(Switch))
        configured = any(name.startswith("OTEL_") for name in os.environ)
        calls = {"inline": null.null_inline, "def": null.null_def}
        for line in sys.stdin:
            asked = json.loads(line)
            if configured and not (switch.turn(asked["on"]) and switch_telemetry(on=asked["on"])):
                raise RuntimeError("no telemetry was found to be switched, in the server or in the client")
            took = {kind: sequential(call, asked["seconds"]) for kind, call in calls.items()}
            found = {
                kind: (fmean(seconds) if asked["mean"] else percentile(seconds, FAST)) * 1e6
                for kind, seconds in took.items()
            }
            sys.stdout.write(json.dumps(found) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    _serve()
