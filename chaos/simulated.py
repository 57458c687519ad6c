"""A load on simulated clusters until the first finding: what ``prove`` runs for defects that real time shows too seldom.

Owns choosing and favouring faults, and stopping early. Leaves simulating to ``amino.testing.simulation``.
Invariant: the exit code is 1 if anything was found. Failure behaviour: none of its own.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from amino.testing.simulation.run import run_seed

if TYPE_CHECKING:
    from amino.testing.simulation.cluster import SimulatedCluster
    from amino.testing.simulation.faults import Nemesis

FAVOURED, USUAL = 10, 3
"""How much more often a favoured fault is caused, and the weight of one that the load does not cause by itself."""


def main() -> int:
    """Run it; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m chaos.simulated")
    parser.add_argument("load")
    parser.add_argument("--favour", nargs="*", default=[])
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--seeds", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)

    def prepare(_: SimulatedCluster, nemesis: Nemesis) -> None:
        for name in options.only:
            nemesis.kinds[getattr(nemesis, name)] = USUAL
        if options.only:
            nemesis.kinds = {fault: weight for fault, weight in nemesis.kinds.items() if fault.__name__ in options.only}
        for name in options.favour:
            fault = getattr(nemesis, name)
            nemesis.kinds[fault] = FAVOURED * nemesis.kinds.get(fault, USUAL)

    findings: list[str] = []
    for seed in range(1, options.seeds + 1):
        report = run_seed(seed, options.seconds, loads=[options.load], prepare=prepare)
        findings = [f"seed {seed}: {one}" for one in report.findings]
        if findings:
            break
    options.json.write_bytes(msgspec.json.encode(findings))
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
