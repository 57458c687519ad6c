"""Every server is restarted as operators do it, one after the other, while blocking and async clients call."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import amino
from amino.contracts.services import DrainRequest
from amino.dm import DHT, AtLeastOnceRPC, ConsensusRSM, ExplicitMigration, PeriodicCheckpoint, SerializableRPC
from amino.node.cluster_document import SHUTTING_DOWN
from amino.testing import LocalCluster
from amino.testing.local_cluster import LocalServer
from bench.callers import Callers
from tests.acceptance.figures import Figures, in_full
from tests.etcd_fixtures import an_etcd
from tests.node.counter import Counter, Tally
from tests.node.rolling import judge, roll

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(900)]
ROOT = Path(__file__).resolve().parents[2]
FIGURES = Figures("rolling restart of all servers under load")
ROUNDS = in_full(1, 5)
DRAIN_S = 60.0
CHAINS: dict[str, tuple[type[Any], list[Any]]] = {
    "checkpointed": (Counter, [AtLeastOnceRPC(), PeriodicCheckpoint(every=1)]),
    "migrating": (Counter, [ExplicitMigration(), SerializableRPC()]),
    "replicated": (Counter, [AtLeastOnceRPC(), ConsensusRSM(replicas=3)]),
    "sharded": (Tally, [DHT(shards=2)]),
}
KEYS = ("left", "right")
"""Called at the sharded ones, each by a caller of its own."""


def calls_of(stubs: dict[str, Any], form: Callable[[Any], Callable[..., Any]] = lambda method: method) -> list[Any]:
    """Return what each caller of one client calls: a counter of its own, at each chain.

    Args:
        stubs: by the chain's name. form: what makes a method's form of it, such as ``amino.aio``.
    """
    calls = [form(stub.add) for name, stub in stubs.items() if CHAINS[name][0] is Counter]
    return calls + [partial(form(stubs["sharded"].add), key) for key in KEYS]


def made_by(client: amino.Cluster, prefix: str) -> dict[str, Any]:
    """Make one microservice of each chain."""
    return {name: client.new(amino.spec(cls, name=f"{prefix}-{name}", dms=dms)) for name, (cls, dms) in CHAINS.items()}


def test_a_rolling_restart_fails_no_call() -> None:
    """Servers end by SIGTERM alone, as of systemd, and by a drain before it, as pods; each call is answered, once."""
    with (
        LocalCluster(3, app_dirs=[ROOT], session_ttl_s=3, etcd_binary=an_etcd()) as local,
        local.connect() as client,
        local.connect() as other,
    ):
        blocking, awaiting = made_by(client, "blocking"), made_by(client, "awaiting")
        theirs = {name: other.get(f"awaiting-{name}", CHAINS[name][0]) for name in CHAINS}
        ended: list[LocalServer] = []

        def as_pods_end(server: LocalServer) -> None:
            ended.append(server)
            if len(ended) % 2:  # as `amino drain --until-restart`
                request = DrainRequest(server.name, timeout_s=DRAIN_S, why=SHUTTING_DOWN, leave=True)
                client.registry.drain(request, timeout_s=DRAIN_S + 5.0)

        before = {name: server.incarnation for name, server in local.servers.items()}
        with Callers(calls_of(blocking), awaited=calls_of(theirs, amino.aio)) as callers:
            for _ in range(ROUNDS):
                roll(local, first=as_pods_end)
        assert len(ended) == 3 * ROUNDS
        assert all(server.incarnation > before[name] for name, server in local.servers.items())
        note = f"{len(ended)} restarts; {', '.join(CHAINS)}; blocking and async"
        judge(callers, calls_of(blocking) + calls_of(awaiting), FIGURES, "failed calls", note)
        FIGURES.note("calls", len(callers.seen), "calls")
        FIGURES.note("longest stall of a caller", max(each.took for each in callers.seen), "s", note=note)
