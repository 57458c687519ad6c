"""Scale: ten thousand microservices on three servers, then the loss of one server.

Owns the numbers and the judgement. Leaves creating to the client and the floor to ``etcd_floor``.
Invariant: creation and etcd's raw rate are measured in the same run on the same etcd.
Failure behaviour: an object that does not answer in time fails the bar.
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from bench import etcd_floor
from bench.cluster import running
from bench.create import CONCURRENT, rate
from bench.rows import Row, row

if TYPE_CHECKING:
    from collections.abc import Callable

OBJECTS = 10_000
SERVERS = 3
RATE_RATIO_MIN = 0.2
BYTES_PER_OBJECT_MAX = 8 * 1024
ANSWER_S_MAX = 10.0


def run(*, quick: bool = False) -> list[Row]:
    """Create 10,000 objects (1,000 when quick), lose a server, call all it had."""
    import amino
    from bench.workload import Idle

    names = [f"idle-{number:05}" for number in range(1_000 if quick else OBJECTS)]
    with running(servers=SERVERS) as cluster:
        client = cluster.client
        endpoint = cluster.local.etcd_endpoints[0]
        raw_per_s = etcd_floor.transactions_per_s(endpoint)

        def create(name: str) -> Any:
            return client.new(amino.spec(Idle, name=name, on_loss="recreate"))

        for number in range(200):  # imports, threads and caches are not the objects'
            create(f"warm-{number}")
        before = cluster.kernel_bytes()
        created_per_s = rate(create, names)
        each_bytes = (cluster.kernel_bytes() - before) / len(names)
        leases = asyncio.run(etcd_floor.leases(endpoint))
        victim = cluster.host_of(names[0])
        lost = cluster.hosted_by(victim)
        stubs = [client.get(name, Idle) for name in lost]
        killed = cluster.kill_kernel(victim)
        answered_s = time_to_answer([stub.ping for stub in stubs], killed)
    return [
        row(
            "scale.create.rate",
            created_per_s,
            "/s",
            baseline=raw_per_s,
            against="raw etcd transactions",
            at_least=RATE_RATIO_MIN,
            note=f"{len(names)} objects, 64 at a time",
        ),
        row("scale.memory_per_object", each_bytes, "bytes", at_most=BYTES_PER_OBJECT_MAX),
        row("scale.leases", float(leases), "leases", at_most=SERVERS, at_least=SERVERS),
        row("scale.all_answer_after_loss", answered_s, "s", at_most=ANSWER_S_MAX, note=f"{len(lost)} objects"),
    ]


def time_to_answer(calls: list[Callable[[], Any]], since: float, patience_s: float = 60.0) -> float | None:
    """Call each until it answers; return the seconds from ``since`` to the last; None if one never does."""

    def until_answered(call: Callable[[], Any]) -> bool:
        while time.perf_counter() < since + patience_s:
            try:
                call()
            except Exception:  # noqa: BLE001 - not yet; asked again until the patience ends
                time.sleep(0.05)
            else:
                return True
        return False

    with ThreadPoolExecutor(CONCURRENT) as pool:
        answered = list(pool.map(until_answered, calls))
    return time.perf_counter() - since if all(answered) else None
