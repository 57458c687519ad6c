"""Amino's side of ``calls``: a client process that measures a cluster.

Owns the measuring client (``python -m bench.amino_calls ADDRESS SECONDS [--sequential]``). Leaves comparing to ``calls``.
Invariant: the objects that are measured live on one kernel server, the client is a process of its own.
Failure behaviour: the client's error is raised with its output.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from typing import Any

from bench.cluster import ROOT
from bench.peers.port import IN_FLIGHT, KIB, MIB
from bench.placement import place_client
from bench.stats import p50, rate_async, rate_threads, sequential, sequential_async


def measure_apart(address: str, seconds: float, *, only_sequential: bool = False) -> dict[str, float]:
    """Measure the cluster at ``address`` from a new process; loops of ``seconds`` each."""
    command = [sys.executable, "-m", "bench.amino_calls", address, str(seconds)]
    if only_sequential:
        command.append("--sequential")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    for text in done.stdout.splitlines():
        if text.startswith("MEASURED "):
            found: dict[str, float] = json.loads(text.removeprefix("MEASURED "))
            return found
    raise RuntimeError(f"measuring calls failed:\n{done.stdout}\n{done.stderr}")


def measure(address: str, seconds: float) -> dict[str, float]:
    """Measure the cluster at ``address`` from this process: microseconds and calls per second by name."""
    import amino
    from bench.workload import Neighbour, Null

    found: dict[str, float] = {}
    with amino.connect(address) as connected:
        null = connected.get_or_create(amino.spec(Null, name="bench-null"))
        near = connected.get_or_create(amino.spec(Neighbour, name="bench-neighbour"))
        found["inline_us"] = p50(sequential(null.null_inline, seconds)) * 1e6
        found["def_us"] = p50(sequential(null.null_def, seconds)) * 1e6
        found["def_per_s"] = rate_threads([null.null_def] * IN_FLIGHT, seconds)
        with asyncio.Runner(loop_factory=_new_loop()) as runner:
            found |= runner.run(_on_a_loop(null, near, seconds))
        found["colocated_inline_us"] = p50(near.time_inline(null, seconds / 2)) * 1e6
    return found


def measure_sequential(address: str, seconds: float) -> dict[str, float]:
    """As ``measure``, but only the calls one at a time that are made where their frame is read."""
    import amino
    from bench.workload import Null

    with amino.connect(address) as connected, asyncio.Runner(loop_factory=_new_loop()) as runner:
        null = connected.get_or_create(amino.spec(Null, name="bench-null"))
        return {
            "inline_us": p50(sequential(null.null_inline, seconds)) * 1e6,
            "async_us": p50(runner.run(sequential_async(null.null_async, seconds))) * 1e6,
        }


async def _on_a_loop(null: Any, near: Any, seconds: float) -> dict[str, float]:
    import amino

    return {
        "async_us": p50(await sequential_async(null.null_async, seconds)) * 1e6,
        "async_per_s": await rate_async(null.null_async, IN_FLIGHT, seconds),
        "inline_per_s": await rate_async(amino.aio(null.null_inline), IN_FLIGHT, seconds),
        "kib_us": p50(await sequential_async(lambda: null.echo(KIB), seconds / 2)) * 1e6,
        "mib_us": p50(await sequential_async(lambda: null.echo(MIB), seconds / 2, warm_up=5)) * 1e6,
        "colocated_async_us": p50(await near.time_async(null, seconds / 2)) * 1e6,
    }


def _new_loop() -> Any:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop
    return uvloop.new_event_loop


if __name__ == "__main__":
    place_client()
    act = measure_sequential if "--sequential" in sys.argv else measure
    print("MEASURED " + json.dumps(act(sys.argv[1], float(sys.argv[2]))), flush=True)
