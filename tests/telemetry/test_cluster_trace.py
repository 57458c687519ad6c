"""A call through a real cluster, as a collector sees it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import amino
from amino.aio.mode import drive
from amino.dm import AtLeastOnceRPC, PeriodicCheckpoint, SerializableRPC
from amino.telemetry import names
from amino.testing import LocalCluster
from amino.testing.collector import Collector

pytestmark = pytest.mark.real

ROOT = Path(__file__).parents[2]
STEPS = [
    names.CLIENT_CALL,
    names.CLIENT_DM,
    names.TRANSPORT,
    names.SERVER_CALL,
    names.SERVER_DM,
    names.METHOD,
]


@pytest.fixture
def collector(monkeypatch):
    """A collector that this process and all it starts export to."""
    for variable in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(variable)
    made = Collector()
    drive(made.start())
    for key, value in made.environment().items():
        monkeypatch.setenv(key, value)
    yield made
    drive(made.aclose())


def _sides(collector):
    return {point.attributes[names.SIDE] for point in collector.metric(names.CALLS)}


def test_a_call_through_two_managers_is_one_trace(collector):
    """Client, manager, link, server, manager and method are one trace, each the child of the one before."""
    from bench.workload import Counter

    with LocalCluster(servers=1, app_dirs=[ROOT]) as cluster, cluster.connect() as client:
        counter = client.new(amino.spec(Counter, name="traced", dms=[AtLeastOnceRPC(), SerializableRPC()]), 0)
        assert counter.add(2) == 2
        drive(collector.wait_for(lambda c: c.named(names.CLIENT_CALL, method="Counter.add") and c.named(names.METHOD)))
        drive(collector.wait_for(lambda c: c.named(names.SERVER_CALL) and len(_sides(c)) == 2))
    (method,) = collector.named(names.METHOD, method="add")
    assert collector.ancestry(method) == STEPS
    (served,) = collector.named(names.SERVER_CALL, method="Counter.add")
    (called,) = collector.named(names.CLIENT_CALL, method="Counter.add")
    assert (served.service, called.service) == ("amino-server", "amino-client")
    assert (served.kind, called.kind) == ("server", "client")
    assert _sides(collector) == {names.SIDE_CLIENT, names.SIDE_SERVER}


def test_a_failover_is_one_trace(collector):
    """Lost, detected, elected, placed, restored and the first good call are children of one root, in that order."""
    from bench.workload import Counter

    with LocalCluster(servers=3, app_dirs=[ROOT]) as cluster, cluster.connect() as client:
        chain = [AtLeastOnceRPC(), PeriodicCheckpoint(every=1)]
        counter = client.new(amino.spec(Counter, name="recovered", dms=chain), 0)
        assert counter.add(1) == 1
        drive(collector.wait_for(lambda c: c.named(names.CHECKPOINT) and c.metric(names.CHECKPOINT_SIZE)))
        drive(collector.wait_for(lambda c: c.metric(names.SESSION_VALIDITY) and c.metric(names.QUEUE_DEPTH)))
        home = client.describe("recovered").groups["/"].replicas[0].server
        incarnation = cluster.server(home).kill_kernel()
        assert counter.add(1) == 2
        microservice = counter.__amino_reference__.microservice
        server = {"incarnation": incarnation}  # others are lost when the cluster ends
        told = [names.FAILOVER, names.FAILOVER_LOST, names.FAILOVER_DETECTED]
        done = [names.FAILOVER_PLACED, names.FAILOVER_RESTORED, names.FAILOVER_FIRST_CALL]
        drive(collector.wait_for(lambda c: all(c.named(name, **server) for name in told)))
        drive(collector.wait_for(lambda c: all(c.named(name, microservice=microservice) for name in done)))
        drive(collector.wait_for(lambda c: c.metric(names.FAILOVER_DURATION) and c.metric(names.FAILOVERS)))
        (counted,) = {point.attributes[names.KIND] for point in collector.metric(names.FAILOVERS)}
    (root,) = collector.named(names.FAILOVER, **server)
    assert (root.parent_id, root.attributes[names.SERVER]) == ("", home)
    assert root.attributes[names.KIND] == counted == "crash"
    (lost,) = collector.named(names.FAILOVER_LOST, **server)
    (detected,) = collector.named(names.FAILOVER_DETECTED, **server)
    elected = [span for span in collector.named(names.FAILOVER_ELECTED) if span.trace_id == root.trace_id]
    (placed,) = collector.named(names.FAILOVER_PLACED, microservice=microservice)
    (restored,) = collector.named(names.FAILOVER_RESTORED, microservice=microservice)
    (first_call,) = collector.named(names.FAILOVER_FIRST_CALL, microservice=microservice)
    pieces = [lost, detected, *elected, placed, restored, first_call]
    assert elected
    assert {piece.trace_id for piece in pieces} == {root.trace_id}
    assert {piece.parent_id for piece in pieces} == {root.span_id}
    assert [piece.name for piece in collector.trace(root.trace_id) if piece.parent_id == ""] == [names.FAILOVER]
    assert lost.end_ns <= detected.end_ns <= placed.end_ns <= restored.end_ns <= first_call.end_ns
    assert first_call.attributes[names.METHOD_NAME] == "Counter.add"


def test_a_checkpoint_shows_what_it_waits_for(collector):
    """A checkpoint is a child of the manager that takes it, and its publication in etcd a child of the checkpoint."""
    from bench.workload import Counter

    with LocalCluster(servers=1, app_dirs=[ROOT]) as cluster, cluster.connect() as client:
        counter = client.new(amino.spec(Counter, name="checkpointed", dms=[PeriodicCheckpoint(every=1)]), 0)
        assert counter.add(1) == 1
        drive(collector.wait_for(lambda c: c.named(names.CHECKPOINT, sequence=2) and c.named(names.CLIENT_CALL)))
        drive(collector.wait_for(lambda c: c.named(names.SERVER_CALL) and c.named(names.ETCD, operation="txn")))
    (checkpoint,) = collector.named(names.CHECKPOINT, sequence=2)
    above = [names.CLIENT_CALL, names.TRANSPORT, names.SERVER_CALL, names.SERVER_DM, names.CHECKPOINT]
    assert collector.ancestry(checkpoint) == above
    waits = [span for span in collector.named(names.ETCD) if span.parent_id == checkpoint.span_id]
    assert {span.attributes[names.OPERATION] for span in waits} == {"txn"}
