"""The command line: ``python -m bench NAME [--json FILE] [--plot FILE] [--quick]`` and ``python -m bench bars [NAME...]``.

Owns the list of benchmarks, output and exit code. Leaves measuring to one module per benchmark, each with ``run(quick=)``.
Invariant: the exit code is 0 if and only if every bar of what ran is met.
Failure behaviour: a benchmark that raises counts as falling short; ``bars`` goes on with the next.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from bench import report, rows

if TYPE_CHECKING:
    from bench.rows import Row

BENCHMARKS = {
    "calls": "null calls, payloads and calls in flight, beside raw echo, grpcio, rpyc, Pyro5, xoscar and Ray",
    "failover": "kernel process SIGKILLed 20 times: time to the next good call, nothing acknowledged lost",
    "create": "creating, finding and deleting microservices",
    "scale": "10,000 microservices on three servers, and the loss of one",
    "durable": "16 callers of one object whose calls are synced one by one or in groups",
    "replication": "ConsensusRSM: writes and reads beside a raw echo, time to the next write after a kill, catching up",
    "timers": "a thousand timers due each second, and the loss of a server",
    "telemetry": "null calls with telemetry off, with metrics, with one call in a hundred traced, and with all traced",
    "migrate": "moving a 1 MiB object under eight callers",
}


def measure(name: str, *, quick: bool) -> list[Row]:
    """Run one benchmark; a failure becomes a row that falls short."""
    try:
        found: list[Row] = importlib.import_module(f"bench.{name}").run(quick=quick)
    except Exception as error:  # noqa: BLE001 - the other benchmarks still run; the row says what happened
        traceback.print_exc()
        return [rows.Row(name, None, "", bar="runs to its end", ok=False, note=f"{type(error).__name__}: {error}")]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measure Amino.",
        epilog="\n".join(f"{name:10} {text}" for name, text in {**BENCHMARKS, "bars": "all with bars"}.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", choices=[*BENCHMARKS, "bars"], help="what to measure")
    parser.add_argument("names", nargs="*", help="for bars: which; default all")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw them there (png)")
    parser.add_argument("--quick", action="store_true", help="fewer repetitions; bars are judged all the same")
    options = parser.parse_args()
    unknown = [name for name in options.names if name not in BENCHMARKS]
    if unknown or (options.names and options.name != "bars"):
        parser.error(f"unknown benchmark: {', '.join(unknown or options.names)}; use {', '.join(BENCHMARKS)}")
    bars = options.name == "bars"
    measured: list[Row] = []
    for name in (options.names or list(BENCHMARKS)) if bars else [options.name]:
        began = time.monotonic()
        found = measure(name, quick=options.quick)
        measured += found
        if bars:
            for each in found:
                if each.bar is not None:
                    print(rows.line(each), flush=True)
        else:
            report.table(f"{name}: {BENCHMARKS[name]} ({time.monotonic() - began:.0f} s)", found)
    if options.json is not None:
        rows.write(measured, options.json)
    if options.plot is not None:
        report.plot(f"python -m bench {options.name}", measured, options.plot)
    short = [each.name for each in measured if not each.ok]
    if short:
        print(f"{len(short)} of {sum(each.bar is not None for each in measured)} bars not met: {', '.join(short)}")
    return 1 if short else 0


if __name__ == "__main__":
    sys.exit(main())
