"""What telemetry costs: null calls with it off, with metrics, with one call in a hundred traced, with every call traced.

Owns the kinds of telemetry and the rows. Leaves the build without telemetry, and measuring one build, to ``telemetry_cost``.
Invariants: every kind has a cluster and a client of its own with telemetry on both sides, exporting to a collector in yet another
process that throws away what it gets. Two processes of the same build differ by up to 10 % for as long as they live (memory is laid out
anew in each), so each kind is compared with its own processes, switched off for every other turn; and all are started anew several
times, of which the median counts. Telemetry that is off is compared with a build that knows none, which needs processes of its own.
Failure behaviour: a build that cannot run raises with its output.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from bench.cluster import ROOT
from bench.rows import Row, row
from bench.stats import p50
from bench.telemetry_cost import KINDS, build, copy_without_telemetry

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

STARTS = 7
TURNS = 20
MEANS = frozenset({"one_percent", "all"})
"""Kinds of which the mean counts: what one call in a hundred costs more shows there only."""
COST_MAX = 1.05
"""What metrics, and one traced call in a hundred, may cost."""
OFF_MAX = 1.03
SHARE = "0.01"

Measured: TypeAlias = dict[str, list[dict[str, float]]]
"""The turns of each build, from one start of all of them."""


def variables(endpoint: str) -> dict[str, dict[str, str]]:
    """Return the variables of each kind of telemetry."""
    otlp = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_METRIC_EXPORT_INTERVAL": "5000"}
    return {
        "metrics": {**otlp, "OTEL_TRACES_EXPORTER": "none"},
        "one_percent": {
            **otlp,
            "OTEL_METRICS_EXPORTER": "none",
            "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
            "OTEL_TRACES_SAMPLER_ARG": SHARE,
        },
        "all": {**otlp, "OTEL_METRICS_EXPORTER": "none"},
    }


def run(*, quick: bool = False) -> list[Row]:
    """Measure all kinds, with every process started several times; about five minutes."""
    starts, turns = (2, 10) if quick else (STARTS, TURNS)
    with tempfile.TemporaryDirectory(prefix="amino-bench-") as folder, _sink() as endpoint:
        copy_without_telemetry(Path(folder))
        off = [_side_by_side(Path(folder), turns) for _ in range(starts)]
        kinds = {
            name: [_switched(each, turns, mean=name in MEANS) for _ in range(starts)]
            for name, each in variables(endpoint).items()
        }
    return judge_off(off) + [one for name, measured in kinds.items() for one in judge(name, measured)]


def _side_by_side(without: Path, turns: int) -> Measured:
    """Measure our build, twice, beside one that knows no telemetry."""
    sources = {"off": ROOT, "again": ROOT, "without": without}
    with ExitStack() as stack:
        builds = {name: stack.enter_context(build(where)) for name, where in sources.items()}
        measured: Measured = {name: [] for name in builds}
        for turn in range(turns):
            for name in sorted(builds, reverse=bool(turn % 2)):
                measured[name].append(builds[name].measure())
    return measured


def _switched(variables: dict[str, str], turns: int, *, mean: bool) -> Measured:
    """Measure our build with telemetry on beside the same processes with it switched off."""
    measured: Measured = {"on": [], "off": [], "again": []}
    with build(ROOT, variables) as one:
        for turn in range(turns):
            for name in sorted(measured, reverse=bool(turn % 2)):
                measured[name].append(one.measure(on=name == "on", mean=mean))
    return measured


def _medians(measured: Measured, kind: str) -> dict[str, float]:
    return {name: p50([turn[kind] for turn in turns]) for name, turns in measured.items()}


def judge_off(starts: Sequence[Measured]) -> list[Row]:
    """Return a row for each kind of method: telemetry that is off, beside a build that knows none; the median over the starts.

    Args:
        starts: of each, microseconds by kind of method, of each turn of ``off``, ``again`` (the same once more) and ``without``.
    """
    rows: list[Row] = []
    for kind in KINDS:
        found = [_medians(one, kind) for one in starts]
        off, again, without = (p50([one[name] for one in found]) for name in ("off", "again", "without"))
        noise = max(off, again) / min(off, again)
        rows.append(
            row(
                f"telemetry.{kind}.off",
                min(off, again),
                "us",
                baseline=without,
                against="a build without telemetry",
                at_most=round(OFF_MAX * noise, 3),
                note=f"median of {len(starts)} starts; two sets of the same build differ by {noise - 1:.1%}",
            )
        )
    return rows


def judge(name: str, starts: Sequence[Measured]) -> list[Row]:
    """Return a row for each kind of method: telemetry that is on, beside the same processes with it switched off.

    Args:
        name: ``metrics``, ``one_percent`` or ``all``; the last has no bar.
        starts: of each, microseconds by kind of method, of each turn with telemetry ``on``, ``off``, and off ``again``.
    """
    limits: dict[str, Any] = {} if name == "all" else {"at_most": COST_MAX}
    rows: list[Row] = []
    for kind in KINDS:
        found = [_medians(one, kind) for one in starts]
        cost = p50([2 * one["on"] / (one["off"] + one["again"]) for one in found])
        noise = p50([max(one["off"], one["again"]) / min(one["off"], one["again"]) for one in found])
        off = p50([(one["off"] + one["again"]) / 2 for one in found])
        rows.append(
            row(
                f"telemetry.{kind}.{name}",
                off * cost,
                "us",
                baseline=off,
                against="the same processes with it switched off",
                note=f"{'mean' if name in MEANS else '10th percentile'}, median of {len(starts)} starts; "
                f"off and off again differ by {noise - 1:.1%}",
                **limits,
            )
        )
    return rows


@contextmanager
def _sink() -> Iterator[str]:
    """Run a collector that throws away what it gets; yields where it listens."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.telemetry"], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        port = process.stdout.readline().strip()
        if not port:
            raise RuntimeError(f"the collector ended with code {process.wait()}")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.stdin.close()
        process.wait(30)


def _swallow() -> None:
    """Take everything that comes over gRPC, until standard input ends."""
    import grpc

    class Everything(grpc.GenericRpcHandler):  # type: ignore[misc]
        def service(self, _: Any) -> Any:
            return grpc.unary_unary_rpc_method_handler(lambda _request, _context: b"")

    server = grpc.server(ThreadPoolExecutor(2), handlers=[Everything()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    sys.stdin.read()
    server.stop(0.2).wait()


if __name__ == "__main__":
    _swallow()
