"""Etcd is lost again and again under load, and everything is rebuilt from checkpoints: no guarantee is broken."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from amino.checkpoint import names
from amino.checkpoint.access import StoreAccess
from amino.contracts.documents import ClusterDocument, encode
from amino.coordination.memory import MemoryStore
from amino.coordination.store import Delete, Put
from amino.node.adapters import Chains
from amino.oms import rebuilding
from amino.oms.rebuilding import BACK, Outcome, Rebuilding
from amino.testing.simulation.run import run_seed

SECONDS = 40.0
LOADS = [
    ("checkpointed", "replicated-checkpointed"),
    ("dht", "durable"),
    ("optimistic", "durable-transactions", "explicit-checkpoint"),
    ("events", "timers", "periodic-calls"),
]
"""All that keep checkpoints, side by side, but promises of two-phase commits, which wait for an operator then."""


@pytest.fixture(autouse=True)
def _quiet(monkeypatch):
    monkeypatch.setattr(rebuilding, "identify", lambda _: "simulated")  # as the simulated servers say
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


class Loss:
    """The fault, and what was brought back after it."""

    def __init__(self, cluster: Any) -> None:
        self._cluster = cluster
        self._one = asyncio.Lock()
        self.outcomes: list[Outcome] = []
        cluster.checkpoints.write(names.IDENTITY, [b"a store"])

    async def lose_etcd(self) -> None:
        """All machines go down, etcd loses everything, the command is run, the machines start."""
        cluster = self._cluster
        async with self._one:
            for server in cluster.servers.values():
                server.crash_machine()
            await asyncio.sleep(1.0)
            while cluster.etcd.landing:  # noqa: ASYNC110 - the time is virtual
                await asyncio.sleep(0.1)
            cluster.etcd.txn([], [Delete(cluster.keys.root, prefix=True)], [])
            fresh = ClusterDocument(hash_seed=1, counts_from=int(cluster.clock.wall() * 1e6))
            cluster.etcd.txn([], [Put(cluster.keys.cluster, encode(fresh))], [])
            store = MemoryStore(cluster.etcd, clock=cluster.clock, name="operator")
            run = Rebuilding(
                store=store,
                keys=cluster.keys,
                access=StoreAccess(cluster.checkpoints),
                chains=Chains(),
                clock=cluster.clock,
            )
            self.outcomes += await run.run()
            await store.aclose()
            for server in cluster.servers.values():
                server.start()


def lost(seed: int, *loads: str) -> tuple[Any, list[Outcome]]:
    """Run a seed with that fault alone; returns its report and what was brought back."""
    made: list[Loss] = []

    def prepare(cluster: Any, nemesis: Any) -> None:
        made.append(Loss(cluster))
        nemesis.kinds = {made[0].lose_etcd: 1}
        nemesis.pause_s = (4.0, 9.0)

    return run_seed(seed, SECONDS, loads=loads, prepare=prepare), made[0].outcomes


@pytest.mark.parametrize("loads", LOADS, ids=lambda loads: loads[0])
def test_the_guarantees_hold_through_losses_of_etcd(loads):
    """Nothing acknowledged and checkpointed is lost or doubled, shards that come and go included; all is brought back."""
    report, outcomes = lost(2, *loads)
    assert report.findings == []
    assert report.faults["lose_etcd"] >= 3
    assert outcomes
    assert {one.outcome for one in outcomes} == {BACK}
    for load in loads:
        assert any(what.startswith(f"{load}: ") and what.endswith(" ok") for what in report.outcomes)
