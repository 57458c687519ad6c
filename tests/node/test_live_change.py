"""A microservice gets other managers while it is called: state and answers stay, no call fails."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

import amino
from amino.dm import DHT, AtLeastOnceRPC, ConsensusRSM, PeriodicCheckpoint, SerializableRPC
from amino.testing import LocalCluster
from bench.callers import Callers
from tests.acceptance.figures import Figures
from tests.etcd_fixtures import etcd_binaries
from tests.node.counter import Counter, Tally

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(180)]
CALLERS = 4
FIGURES = Figures("change of managers")

CHAINS: list[list[Any]] = [
    [PeriodicCheckpoint(every=5)],
    [SerializableRPC(), AtLeastOnceRPC()],
    [AtLeastOnceRPC(timeout_s=10.0), PeriodicCheckpoint(every=1), SerializableRPC()],
    [ConsensusRSM(replicas=3)],
    [AtLeastOnceRPC(), ConsensusRSM(replicas=2, min_in_sync=1)],
    [PeriodicCheckpoint(every=50, interval_s=1.0)],
    [SerializableRPC()],
]


@pytest.fixture(scope="module")
def local():
    """Three servers."""
    with LocalCluster(3, app_dirs=[ROOT], session_ttl_s=2, etcd_binary=etcd_binaries()[0]) as running:
        yield running


@pytest.fixture
def client(local: LocalCluster):
    """A connection."""
    with local.connect() as connected:
        yield connected


def test_managers_change_under_load(client: amino.Cluster) -> None:
    """Through all chains and back: each caller's answers are its own, together they are 1, 2, 3, ...: none lost, none twice."""
    spec = amino.spec(Counter, name="hits", dms=[SerializableRPC()])
    hits = client.new(spec)
    other = client.get("hits", Counter)
    with Callers([hits.add] * CALLERS + [other.add]) as callers:
        for chain in CHAINS:
            assert client.apply(amino.spec(Counter, name="hits", dms=chain))
            some_time_on = time.perf_counter() + 0.3  # load on each chain
            assert callers.first_good_after(some_time_on, 10.0) is not None, chain
    failed = [each.error for each in callers.seen if each.error]
    FIGURES.note(
        f"through {len(CHAINS)} chains: failed calls", len(failed), "calls", at_most=0, note=f"of {len(callers.seen)}"
    )
    assert failed == []
    answers = sorted(each.result for each in callers.seen)
    assert answers == list(range(1, len(answers) + 1))
    assert client.apply(amino.spec(Counter, name="hits", dms=CHAINS[-1])) == []
    description = client.describe("hits")
    assert [dm.name for dm in description.record.spec.dms] == ["SerializableRPC"]
    assert description.groups["/"].kind == ""
    assert len(description.groups["/"].replicas) == 1


SHARDED: list[list[Any]] = [
    [PeriodicCheckpoint(every=1)],
    [ConsensusRSM(replicas=3)],
    [DHT(shards=3), ConsensusRSM(replicas=2, min_in_sync=1)],
    [DHT(shards=2), ConsensusRSM(replicas=2, min_in_sync=1)],
    [AtLeastOnceRPC(), DHT(shards=2), PeriodicCheckpoint(every=1)],
    [ConsensusRSM(replicas=2, min_in_sync=1)],
    [],
]


def test_an_object_becomes_replicated_and_sharded_under_load(client: amino.Cluster) -> None:
    """`[]`, checkpoints, replicas, shards of replicas and all the way back: each key's answers are 1, 2, 3, ..."""
    store = client.new(amino.spec(Tally, name="tally"))
    keys = [f"key-{number}" for number in range(24)]
    left = [store.add(key) for key in keys]
    assert left == [1] * len(keys)
    mine = [keys[part::CALLERS] for part in range(CALLERS)]
    seen: list[list[tuple[str, int]]] = [[] for _ in mine]

    def caller(part: int) -> Any:
        def call() -> None:
            key = mine[part][len(seen[part]) % len(mine[part])]
            seen[part].append((key, store.add(key)))

        return call

    with Callers([caller(part) for part in range(CALLERS)]) as callers:
        for chain in SHARDED:
            with amino.deadline(60.0):
                assert client.apply(amino.spec(Tally, name="tally", dms=chain))
            load_until = time.perf_counter() + 1.0  # on each chain, and on shards that grow
            assert callers.first_good_after(load_until, 10.0) is not None, chain
    failed = [each.error for each in callers.seen if each.error]
    FIGURES.note(
        "to replicas, shards and back: failed calls", len(failed), "calls", at_most=0, note=f"of {len(callers.seen)}"
    )
    assert failed == []
    for key in keys:
        answers = [answer for part in seen for other, answer in part if other == key]
        assert answers == list(range(2, len(answers) + 2)), key
        assert store.add(key) == len(answers) + 2
