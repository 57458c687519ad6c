"""Runs the ``console`` blocks of an example's README and compares what is printed.

Owns reading the blocks and running their commands in ``examples/``. Leaves clusters to the tests.
Invariant: a command's output, error output after it, must be the lines below it in the README.
Failure behaviour: a difference shows both; a command that takes longer than ``TIMEOUT_S`` is killed.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
TIMEOUT_S = 60.0
_BLOCK = re.compile(r"^```console\n(.*?)^```", re.MULTILINE | re.DOTALL)
_PROGRAMS = {"amino": [sys.executable, "-m", "amino.cli"], "python": [sys.executable]}


def commands(readme: Path) -> Iterator[tuple[str, str]]:
    """Yield each command of a README with the output it promises."""
    for block in _BLOCK.findall(readme.read_text(encoding="utf-8")):
        for part in block.split("$ ")[1:]:
            command, _, output = part.partition("\n")
            yield command, output


def arguments(command: str) -> list[str]:
    """Return a command's arguments, with the programs of this environment."""
    name, *rest = shlex.split(command)
    return [*_PROGRAMS[name], *rest]


def environment(**more: str) -> dict[str, str]:
    """Return the environment for commands, in which the package under test is found."""
    import amino

    package = str(Path(amino.__file__).parents[1])
    return {**os.environ, "PYTHONPATH": package, "PYTHONUNBUFFERED": "1", **more}


def run(command: str, **more: str) -> str:
    """Run a command in ``examples/``; return what it printed, what it said on standard error last."""
    done = subprocess.run(
        arguments(command),
        cwd=EXAMPLES,
        env=environment(**more),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    return done.stdout + done.stderr
