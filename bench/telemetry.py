"""What telemetry costs: null calls with it off, with metrics, with one call in a hundred traced, with every call traced.

Owns the kinds of telemetry and the rows. Leaves the build without telemetry, and measuring one build, to ``telemetry_cost``.
Invariants: every kind has a cluster and a client of its own with telemetry on both sides, exporting to a collector in yet another
process that throws away what it gets; all are measured in turns, in an order that changes. Two processes of the same build
differ by up to 10 % for as long as they live (memory is laid out anew in each), so all are started anew several times, and the median
over those starts counts.
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
TURNS = 10
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
        "off": {},
        "again": {},
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
    """Measure all kinds in turns, with every process started ``STARTS`` times; about four minutes."""
    with tempfile.TemporaryDirectory(prefix="amino-bench-") as folder, _sink() as endpoint:
        copy_without_telemetry(Path(folder))
        starts = 3 if quick else STARTS
        measured = [_started(endpoint, Path(folder)) for _ in range(starts)]
    return judge(measured)


def _started(endpoint: str, without: Path) -> Measured:
    with ExitStack() as stack:
        builds = {name: stack.enter_context(build(ROOT, each)) for name, each in variables(endpoint).items()}
        builds["without"] = stack.enter_context(build(without))
        measured: Measured = {name: [] for name in builds}
        names = list(builds)
        for turn in range(TURNS):
            start = turn % len(names)
            for name in names[start:] + names[:start]:
                measured[name].append(builds[name].measure())
    return measured


def judge(measured: Sequence[Measured]) -> list[Row]:
    """Return a row for each kind of telemetry and of method: the median over the starts beside that of telemetry that is off.

    Args:
        measured: of each start, microseconds by kind of method, of each turn of each build: ``off``, ``again`` (the same once more),
            ``without`` (a build that knows no telemetry), ``metrics``, ``one_percent`` and ``all``.
    """
    rows: list[Row] = []
    for kind in KINDS:
        medians = {name: p50([p50([turn[kind] for turn in start[name]]) for start in measured]) for name in measured[0]}
        noise = max(medians["off"], medians["again"]) / min(medians["off"], medians["again"])
        off = min(medians["off"], medians["again"])
        note = f"median of {len(measured)} starts; two sets of the same build differ by {noise - 1:.1%}"

        def compared(
            name: str,
            value: float,
            baseline: float,
            against: str,
            limit: float | None,
            *,
            kind: str = kind,
            note: str = note,
        ) -> Row:
            limits: dict[str, Any] = {} if limit is None else {"at_most": round(limit, 3)}
            return row(f"telemetry.{kind}.{name}", value, "us", baseline=baseline, against=against, note=note, **limits)

        rows += [
            compared("off", off, medians["without"], "a build without telemetry", OFF_MAX * noise),
            compared("metrics", medians["metrics"], off, "telemetry off", COST_MAX * noise),
            compared("one_percent", medians["one_percent"], off, "telemetry off", COST_MAX * noise),
            compared("all", medians["all"], off, "telemetry off", None),
        ]
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
