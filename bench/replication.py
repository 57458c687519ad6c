"""ConsensusRSM with three replicas: what a write and a read cost beside a raw echo, how soon writes resume, how fast one catches up.

Owns the measuring. Leaves the peers' numbers to ``peers``.
Invariant: calls and the raw echo alternate, round by round, on the same machine, placed alike on cores; the medians of the
rounds are compared.
Failure behaviour: a resumption that does not come within ``PATIENCE_S`` counts as that long.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from bench.callers import Callers
from bench.cluster import ROOT, running
from bench.peers.run import run as run_peer
from bench.placement import place_client, placed_group
from bench.rows import row
from bench.stats import p50, rate_threads, sequential, sequential_async

if TYPE_CHECKING:
    from bench.cluster import Running
    from bench.rows import Row

ROUNDS = 5
SECONDS = 1.5
KILLS = 20
PATIENCE_S = 30.0
CATCH_UP_CALLS = 5000
RAW_WRITE_MAX = 12.0
RESUME_P50_S_MAX = 0.5
NAME = "bench-replicated"


def run(*, quick: bool = False) -> list[Row]:
    """Measure everything; about a minute and a half, half of that when quick."""
    import amino
    from amino.dm import AtLeastOnceRPC, ConsensusRSM
    from bench.workload import Counter, Replicated

    raw: list[float] = []
    ours: list[dict[str, float]] = []
    with running(servers=3) as cluster:
        calls = cluster.client.new(amino.spec(Replicated, name=NAME, dms=[ConsensusRSM()]))
        with placed_group(_pids(cluster, _await_whole(cluster, calls))):
            for _ in range(2 if quick else ROUNDS):
                outcome = run_peer("uvloop", SECONDS, payloads=False)
                if outcome.measured is not None:
                    raw.append(outcome.measured.null_us)
                ours.append(_measure_apart(cluster.local.addresses[0]))
        counter = cluster.client.new(
            amino.spec(Counter, name="bench-killed", dms=[AtLeastOnceRPC(timeout_s=PATIENCE_S), ConsensusRSM()])
        )
        resumed = _resumptions(cluster, counter, 4 if quick else KILLS)
        per_s = _catch_up(cluster, counter)
    value = {name: statistics.median(each[name] for each in ours) for name in ours[0]}
    echo = statistics.median(raw) if raw else None
    writes = [
        row(
            f"replication.{name}.p50",
            value[name],
            "us",
            baseline=echo,
            against="raw uvloop echo",
            at_most=RAW_WRITE_MAX,
            note="sequential, 3 replicas",
        )
        for name in ("write_async", "write_def")
    ]
    return [
        row("replication.raw_uvloop_echo", echo, "us"),
        *writes,
        row("replication.read_async.p50", value["read_async"], "us", baseline=echo),
        row("replication.read_def.p50", value["read_def"], "us", baseline=echo),
        row("replication.write_16_threads", value["write_16_per_s"], "calls/s"),
        row(
            "replication.kill_to_next_write.p50",
            p50(resumed),
            "s",
            at_most=RESUME_P50_S_MAX,
            note=f"{len(resumed)} kills, worst {max(resumed):.2f} s",
        ),
        row("replication.catch_up", per_s, "entries/s", note=f"{CATCH_UP_CALLS} entries, writes going on"),
    ]


def _measure_apart(address: str) -> dict[str, float]:
    command = [sys.executable, "-m", "bench.replication", address]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    for text in done.stdout.splitlines():
        if text.startswith("MEASURED "):
            found: dict[str, float] = json.loads(text.removeprefix("MEASURED "))
            return found
    raise RuntimeError(f"measuring replication failed:\n{done.stdout}\n{done.stderr}")


def _pids(cluster: Running, document: Any) -> list[int]:
    """Return the kernel processes of the group's replicas, the primary's first."""
    replicas = sorted(document.replicas, key=lambda one: (one.id != document.primary, one.id))
    return [cluster.local.server(one.server).kernel_pid for one in replicas]


def measure(address: str) -> dict[str, float]:
    """Measure the calls of ``NAME`` at the cluster at ``address`` from this process, microseconds by name."""
    import amino
    from bench.workload import Replicated

    place_client()
    with amino.connect(address) as connected:
        target = connected.get(NAME, Replicated)
        found = {
            "write_def": p50(sequential(target.add, SECONDS)) * 1e6,
            "read_def": p50(sequential(target.get, SECONDS / 2)) * 1e6,
            "write_16_per_s": rate_threads([target.add] * 16, SECONDS),
        }
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            found |= runner.run(_on_a_loop(target))
    return found


async def _on_a_loop(target: Any) -> dict[str, float]:
    return {
        "write_async": p50(await sequential_async(target.add_async, SECONDS)) * 1e6,
        "read_async": p50(await sequential_async(target.get_async, SECONDS / 2)) * 1e6,
    }


def _loop_factory() -> Any:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop
    return uvloop.new_event_loop


def _await_whole(cluster: Running, target: Any, count: int = 3) -> Any:
    """Wait until so many replicas are in sync, and return the group's document."""
    end = time.perf_counter() + PATIENCE_S
    while True:
        document = cluster.client.describe(target).groups["/"]
        if len(document.in_sync) == count == len(document.replicas):
            return document
        if time.perf_counter() > end:
            raise TimeoutError(f"not {count} replicas in sync: {document}")
        time.sleep(0.05)


def _resumptions(cluster: Running, counter: Any, kills: int) -> list[float]:
    took = []
    with Callers([counter.add] * 2) as callers:
        for _ in range(kills):
            document = _await_whole(cluster, counter)
            cluster.await_servers(3)
            primary = next(one for one in document.replicas if one.id == document.primary)
            killed = cluster.kill_kernel(primary.server)
            good = callers.first_good_after(killed, PATIENCE_S)
            took.append(good.ended - killed if good is not None else PATIENCE_S)
    return took


def _catch_up(cluster: Running, counter: Any) -> float:
    """Freeze a follower for some thousands of writes; return how many entries per second it takes in once it is back."""
    document = _await_whole(cluster, counter)
    away = cluster.local.server(next(one.server for one in document.replicas if one.id != document.primary))
    away.stop_kernel()
    _await_whole_without(cluster, counter)
    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(counter.add) for _ in range(CATCH_UP_CALLS)]:
            done.result()
    away.continue_kernel()
    began = time.perf_counter()
    with Callers([counter.add]):
        while len(cluster.client.describe(counter).groups["/"].in_sync) < 3:
            time.sleep(0.01)
            if time.perf_counter() - began > PATIENCE_S:
                raise TimeoutError("the replica that was away did not come back in sync")
    return CATCH_UP_CALLS / (time.perf_counter() - began)


def _await_whole_without(cluster: Running, counter: Any) -> None:
    end = time.perf_counter() + PATIENCE_S
    counter.add()
    while len(cluster.client.describe(counter).groups["/"].in_sync) != 2:
        counter.add()
        if time.perf_counter() > end:
            raise TimeoutError("a frozen replica stays in sync")


if __name__ == "__main__":
    print("MEASURED " + json.dumps(measure(sys.argv[1])), flush=True)
