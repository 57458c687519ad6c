"""Creating, finding and deleting microservices, one at a time and 64 at a time.

Owns the loops. Leaves the rate at ten thousand objects, with its bar, to ``scale``.
Invariant: what is created is deleted; the registry is empty of it at the end.
Failure behaviour: an operation that fails fails the benchmark.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from bench.cluster import running
from bench.rows import Row, row
from bench.stats import p50, p99

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

CONCURRENT = 64


def run(*, quick: bool = False) -> list[Row]:
    """Create, get and delete 100 one at a time and 1,000 at 64 at a time (a fifth when quick)."""
    import amino
    from bench.workload import Idle

    few, many = (20, 200) if quick else (100, 1_000)
    rows: list[Row] = []
    with running(servers=3) as cluster:
        client = cluster.client

        def create(name: str) -> Any:
            return client.new(amino.spec(Idle, name=name, on_loss="recreate"))

        def get(name: str) -> Any:
            return client.get(name, Idle)

        first = [f"one-{number}" for number in range(few)]
        second = [f"many-{number}" for number in range(many)]
        create("warm").ping()
        for what, operation in (("create", create), ("get", get), ("delete", client.delete)):
            took = _each(operation, first)
            rows.append(row(f"create.{what}.p50", p50(took) * 1e3, "ms"))
            rows.append(row(f"create.{what}.p99", p99(took) * 1e3, "ms"))
            rows.append(row(f"create.{what}.rate_64", rate(operation, second), "/s", note=f"{many} at 64 at a time"))
        client.delete("warm")
    return rows


def _each(operation: Callable[[str], Any], names: Iterable[str]) -> list[float]:
    took: list[float] = []
    for name in names:
        began = time.perf_counter()
        operation(name)
        took.append(time.perf_counter() - began)
    return took


def rate(operation: Callable[[str], Any], names: list[str]) -> float:
    """Run ``operation`` on each of ``names``, 64 at a time; return operations per second."""
    began = time.perf_counter()
    with ThreadPoolExecutor(CONCURRENT) as pool:
        for _ in pool.map(operation, names):
            pass
    return len(names) / (time.perf_counter() - began)
