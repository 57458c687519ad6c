"""Measuring peers from the harness: each in a process of its own, with a bound on its time.

Owns the list of peers, and ending what does not end by itself. Leaves measuring to ``port``.
Invariant: no process of a peer is left.
Failure behaviour: a peer that is not installed or fails is reported with its reason, never raised.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.peers.port import Measured, Peer

if TYPE_CHECKING:
    from collections.abc import Sequence

RAW = ("blocking", "asyncio", "uvloop")
RPC = ("grpcio", "rpyc", "pyro5", "pyro5-marshal", "xoscar", "ray")
PEERS = RAW + RPC
_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one peer: its numbers, or the reason why there are none."""

    name: str
    measured: Measured | None
    reason: str = ""


def load(name: str) -> Peer:
    """Return the peer of that name; imports the system it stands for only when it is used."""
    system, _, variant = name.partition("-")
    module = importlib.import_module(f"bench.peers.{system}_peer")
    peer: Peer = getattr(module, variant.upper() or "PEER")
    return peer


def missing(name: str) -> list[str]:
    """Return the packages that this peer needs and that are not installed."""
    return [package for package in load(name).requires if importlib.util.find_spec(package) is None]


def run(name: str, seconds: float, *, payloads: bool = True, timeout_s: float = 60.0) -> Outcome:
    """Measure one peer.

    Args:
        name: one of ``PEERS``.
        seconds: length of each of its loops.
        payloads: also measure 1 KiB and 1 MiB.
        timeout_s: after so many seconds its processes are killed.
    """
    absent = missing(name)
    if absent:
        return Outcome(name, None, f"not installed: {', '.join(absent)}; make venv installs the bench extra")
    command = [sys.executable, "-m", "bench.peers", name, "measure", str(seconds)]
    if not payloads:
        command.append("--null-only")
    process = subprocess.Popen(
        command,
        cwd=_ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )
    try:
        out, err = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        _kill_group(process)
        process.communicate()
        return Outcome(name, None, f"not done within {timeout_s:g} s")
    finally:
        _kill_group(process)
    for text in out.splitlines():
        if text.startswith("MEASURED "):
            return Outcome(name, Measured(**json.loads(text.removeprefix("MEASURED "))))
    return Outcome(name, None, f"failed: {_last(err)}")


def run_all(names: Sequence[str], seconds: float, *, payloads: bool = True) -> dict[str, Outcome]:
    """Measure several peers, one after the other."""
    return {name: run(name, seconds, payloads=payloads) for name in names}


def _kill_group(process: subprocess.Popen[str]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _last(text: str) -> str:
    lines = [each for each in text.splitlines() if each.strip()]
    return lines[-1] if lines else "no output"
