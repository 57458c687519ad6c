"""Workloads on simulated clusters: workers that step while servers crash, and the record that comes of it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Any

from amino.coordination.store import Event, Record
from amino.dm import Manager
from amino.testing import simulate
from amino.testing.chaos.history import Recorder
from amino.testing.chaos.record import FaultRecord, KeyEvent, RunRecord
from amino.testing.chaos.workloads.registry import workload


def recorded(
    kind: str, dms: Sequence[Manager], *, seed: int = 1, workers: int = 5, seconds: float = 50.0, crashes: int = 2
) -> RunRecord:
    """Run a workload on a simulated cluster whose servers crash in turn; return the record, not yet judged."""
    records = []

    async def main(cluster: Any) -> None:
        loop = asyncio.get_running_loop()
        recorder = Recorder(loop.time)
        one = workload(kind, recorder, dms)
        clients = [cluster.client(f"client{number}").cluster for number in range(2)]
        record = RunRecord("simulated", "simulation", seed, seconds, workloads=[one.described])

        def changed(record_of: Record, kind: str = "put") -> None:
            key = record_of.key.removeprefix(cluster.keys.root)
            created, value = record_of.create_revision, record_of.value
            record.events.append(KeyEvent(key, kind, record_of.mod_revision, created, recorder.now_s, value))

        def committed(_: int, events: tuple[Event, ...]) -> None:
            for event in events:
                changed(event.record, event.kind.value)

        for one_record in sorted(cluster.etcd.list(cluster.keys.root)[0], key=lambda each: each.mod_revision):
            changed(one_record)
        cluster.etcd.on_commit.append(committed)
        await one.prepare(clients)

        async def work(worker: int) -> None:
            chance = random.Random(f"{seed} {worker}")
            while recorder.now_s < seconds:
                await one.step(worker, chance)
                await asyncio.sleep(0.05)

        async def crash() -> None:
            for number in range(crashes):
                await asyncio.sleep(seconds / (crashes + 1))
                name = f"s{number % len(cluster.servers) + 1}"
                began_s = recorder.now_s
                cluster.servers[name].crash()
                record.faults.append(FaultRecord("kill-kernel", name, began_s, recorder.now_s, True))

        await asyncio.gather(crash(), *(work(worker) for worker in range(workers)))
        await one.audit(clients[0])
        record.operations = recorder.history.operations
        records.append(record)

    simulate(main, seed=seed)
    return records[0]
