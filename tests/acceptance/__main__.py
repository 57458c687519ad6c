"""``python -m tests.acceptance [runtime|managers|operations] [--full] [--json FILE] [--report FILE] [PYTEST ARGUMENT...]``: run and report.

Owns the environment of a run and its exit code: 0 when all tests pass and every figure keeps its bar,
except those with an excuse, which are shown as misses.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.acceptance.figures import FULL_ROUNDS
from tests.acceptance.report import table
from tests.acceptance.suites import RUNTIME, SUITES
from tests.etcd_fixtures import etcd_binaries

ROOT = Path(__file__).resolve().parents[2]
REPORTS = ROOT / "docs" / "reports"
_COUNTS = re.compile(r"(\d+) (passed|failed|error|errors|skipped)")


def main() -> int:
    """Run; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.acceptance", description=__doc__)
    parser.add_argument(
        "suite", nargs="?", default=RUNTIME.name, choices=SUITES, help=f"which table; default {RUNTIME.name}"
    )
    parser.add_argument("--full", action="store_true", help=f"{FULL_ROUNDS} rounds, and times judged without slack")
    parser.add_argument("--json", type=Path, help="write figures and counts here too")
    parser.add_argument("--report", type=Path, help=f"write the table here; default with --full: in {REPORTS}")
    options, pytest_arguments = parser.parse_known_args()
    suite = SUITES[options.suite]
    report = options.report or (REPORTS / suite.report if options.full else None)
    with tempfile.TemporaryDirectory() as folder:
        noted = Path(folder) / "figures"
        noted.touch()
        environment = {**os.environ, "AMINO_ACCEPTANCE_FIGURES": str(noted)}
        if options.full:
            environment |= {"AMINO_ACCEPTANCE_ROUNDS": str(FULL_ROUNDS), "AMINO_ACCEPTANCE_SLACK": "1"}
        busy = os.getloadavg()[1]
        began = time.monotonic()
        chosen = any((ROOT / each.partition("::")[0]).exists() for each in pytest_arguments)
        code, summary = _run([*pytest_arguments, *([] if chosen else suite.tests)], environment)
        took_s = time.monotonic() - began
        figures = [json.loads(line) for line in noted.read_text(encoding="utf-8").splitlines()]
    tests = {outcome: int(count) for count, outcome in _COUNTS.findall(summary)}
    about = {
        "commit": _output("git", "rev-parse", "--short", "HEAD"),
        "machine": f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "etcd": _output(etcd_binaries()[0], "--version").partition("\n")[0] if etcd_binaries() else "none",
        "rounds": str(FULL_ROUNDS if options.full else os.environ.get("AMINO_ACCEPTANCE_ROUNDS", "3")),
        "other work": f"a load of {busy:.1f} in the five minutes before",
        "took": f"{took_s / 60:.0f} minutes",
    }
    if options.json:
        document = {"about": about, "tests": tests, "figures": figures}
        options.json.write_text(json.dumps(document, indent=1), encoding="utf-8")
    if report:
        report.parent.mkdir(parents=True, exist_ok=True)
        report.write_text(table(suite, figures, tests, about), encoding="utf-8")
        sys.stdout.write(f"wrote {report}\n")
    short = [each for each in figures if each.get("ok") is False]
    for each in short:
        excuse = f" (excused: {each['excuse']})" if "excuse" in each else ""
        sys.stdout.write(f"falls short: {each['row']}: {each['name']}: {each['value']} {each['unit']}{excuse}\n")
    return code or (1 if options.full and any("excuse" not in each for each in short) else 0)


def _run(arguments: list[str], environment: dict[str, str]) -> tuple[int, str]:
    """Run pytest, showing what it says; returns its code and its last line."""
    command = [sys.executable, "-m", "pytest", "-o", "timeout=1800", "--tb=short", *arguments]
    last = ""
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            sys.stdout.write(line)
            sys.stdout.flush()
            last = line if _COUNTS.search(line) else last
    return process.returncode, last


def _output(*command: str) -> str:
    return subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
