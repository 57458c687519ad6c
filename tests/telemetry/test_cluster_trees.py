"""Whole traces of real clusters, as a collector has them: a call through three managers, a failover, a move, a share of calls."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

import amino
from amino.aio.mode import drive
from amino.dm import DHT, AtLeastOnceRPC, ConsensusRSM, PeriodicCheckpoint
from amino.telemetry import names
from amino.testing import LocalCluster
from amino.testing.collector import Collector
from tests.telemetry.traced_app import Log, Shelf

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
PATIENCE_S = 60.0
CHAIN = "AtLeastOnceRPC,DHT,ConsensusRSM"


@pytest.fixture(params=["grpc", "http/protobuf"])
def protocol(request):
    """How processes export."""
    return request.param


@pytest.fixture
def collector(monkeypatch, request):
    """A collector that this process and all it starts export to."""
    for variable in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(variable)
    made = Collector()
    drive(made.start())
    chosen = request.getfixturevalue("protocol") if "protocol" in request.fixturenames else "grpc"
    for key, value in made.environment(protocol=chosen).items():
        monkeypatch.setenv(key, value)
    yield made
    drive(made.aclose())


def wait(collector, predicate):
    drive(collector.wait_for(predicate, PATIENCE_S))


def shelf_of(client, name, log=None):
    dms = [AtLeastOnceRPC(timeout_s=PATIENCE_S), DHT(shards=2), ConsensusRSM()]
    return client.new(amino.spec(Shelf, name=name, dms=dms), log)


def put(shelf, key, count):
    """Call ``Shelf.put``, which is ``async``, from here."""
    return drive(shelf.put(key, count))


def path_to(collector, span):
    """Return the spans from the root of ``span``'s trace down to it, as name or (name, manager)."""
    by_id = {each.span_id: each for each in collector.trace(span.trace_id)}
    path = []
    while span is not None:
        manager = span.attributes.get(names.DM)
        path.append((span.name, manager) if manager else span.name)
        span = by_id[span.parent_id] if span.parent_id else None
    return path[::-1]


def parents(collector, trace_id):
    """Return the ids of all spans of a trace that have children there."""
    return {span.parent_id for span in collector.trace(trace_id) if span.parent_id}


def answered(collector, method):
    """Return the server's spans of calls of ``method`` that had a result: on a busy machine one may be refused before."""
    found = collector.named(names.SERVER_CALL, method=method)
    return [span for span in found if span.attributes[names.OUTCOME] == "result"]


STEPS = [
    names.CLIENT_CALL,
    (names.CLIENT_DM, "AtLeastOnceRPC"),
    (names.CLIENT_DM, "DHT"),
    names.TRANSPORT,
    names.SERVER_CALL,
    (names.SERVER_DM, "ConsensusRSM"),
    (names.SERVER_DM, "DHT"),
    names.METHOD,
]


def test_a_call_through_three_managers_is_one_tree(collector, protocol):
    """Client, components, link, server, components, method, the method's own span and the nested call: one trace, right parents."""
    with LocalCluster(servers=3, app_dirs=[ROOT]) as cluster, cluster.connect() as client:
        log = client.new(amino.spec(Log, name="log"))
        shelf = shelf_of(client, "shelf", log)
        assert put(shelf, "warm", 1) == 1
        wait(collector, lambda c: c.named(names.CLIENT_CALL, method="Shelf.put"))
        collector.clear()
        assert put(shelf, "ada", 2) == 2
        wait(
            collector, lambda c: c.named(names.CLIENT_CALL, method="Shelf.put") and c.named(names.METHOD, method="note")
        )
        (root,) = collector.named(names.CLIENT_CALL, method="Shelf.put")
        described = client.describe("shelf")
        wait(collector, lambda c: len([s for s in c.trace(root.trace_id) if s.name == names.SERVER_CALL]) == 2)
        wait(collector, lambda c: "shelve" in {span.name for span in c.trace(root.trace_id)})
        wait(collector, lambda c: parents(c, root.trace_id) <= {span.span_id for span in c.trace(root.trace_id)})
    spans = collector.trace(root.trace_id)
    assert {span.trace_id for span in spans} == {root.trace_id}
    assert [span.name for span in spans if not span.parent_id] == [names.CLIENT_CALL]
    (method,) = [span for span in spans if span.name == names.METHOD and span.attributes[names.METHOD_NAME] == "put"]
    assert path_to(collector, method) == STEPS
    (note,) = [span for span in spans if span.name == names.METHOD and span.attributes[names.METHOD_NAME] == "note"]
    nested = [
        step for step in path_to(collector, note)[len(STEPS) :] if step != names.TRANSPORT
    ]  # it may be on one server
    assert nested == ["shelve", names.CLIENT_CALL, names.SERVER_CALL, names.METHOD]
    (served,) = [
        span for span in spans if span.attributes.get(names.METHOD_NAME) == "Shelf.put" and span.kind == "server"
    ]
    groups = described.groups
    (group,) = [
        one for one in groups.values() if served.attributes[names.REPLICA] in {each.id for each in one.replicas}
    ]
    assert served.attributes[names.REPLICA] == group.primary
    assert served.attributes[names.EPOCH] == group.epoch
    assert served.attributes[names.SERVER] == served.instance
    assert served.attributes[names.MICROSERVICE] == described.id
    assert (served.attributes[names.DMS], root.attributes[names.DMS]) == (CHAIN, CHAIN)
    for end in (served, root):
        assert (end.attributes[names.OUTCOME], end.attributes[names.ATTEMPT]) == ("result", 0)
        assert (end.attributes[names.RPC_SERVICE], end.attributes[names.RPC_METHOD]) == ("Shelf", "put")
    assert next(span for span in spans if span.name == "shelve").attributes["shop.count"] == 2


def test_a_failover_adds_up(collector):
    """Detected, promoted and the first good call follow each other and are what the caller measured; elections are linked to it."""
    with LocalCluster(servers=3, app_dirs=[ROOT]) as cluster, cluster.connect() as client:
        shelf = shelf_of(client, "shelf")
        assert put(shelf, "ada", 1) == 1
        wait(collector, lambda c: answered(c, "Shelf.put") and c.named(names.CLIENT_CALL, method="Shelf.put"))
        served = answered(collector, "Shelf.put")[-1]
        home, microservice = served.attributes[names.SERVER], served.attributes[names.MICROSERVICE]
        collector.clear()
        began_ns = time.time_ns()
        incarnation = cluster.server(home).kill_kernel()
        with amino.deadline(PATIENCE_S):
            assert put(shelf, "ada", 1) == 2
        ended_ns = time.time_ns()
        lost_there = {"server": home, "incarnation": incarnation}  # at the end of the cluster others are lost, too
        for name in (names.FAILOVER, names.FAILOVER_LOST, names.FAILOVER_DETECTED):
            wait(collector, lambda c, name=name: c.named(name, **lost_there))
        for name in (names.FAILOVER_FIRST_CALL, names.CLIENT_CALL):
            wait(collector, lambda c, name=name: c.named(name, method="Shelf.put"))
        (first,) = collector.named(names.FAILOVER_FIRST_CALL, method="Shelf.put")
        epoch = first.attributes[names.EPOCH]
        for name in (names.FAILOVER_PLACED, names.FAILOVER_PROMOTED):
            wait(collector, lambda c, name=name: c.named(name, microservice=microservice, epoch=epoch))
    (root,) = collector.named(names.FAILOVER, **lost_there)
    (lost,) = collector.named(names.FAILOVER_LOST, **lost_there)
    (detected,) = collector.named(names.FAILOVER_DETECTED, **lost_there)
    (placed,) = collector.named(names.FAILOVER_PLACED, microservice=microservice, epoch=epoch)
    (promoted,) = collector.named(names.FAILOVER_PROMOTED, microservice=microservice, epoch=epoch)
    pieces = [detected, placed, promoted, first]
    assert {piece.trace_id for piece in [lost, *pieces]} == {root.trace_id}
    assert {piece.parent_id for piece in [lost, *pieces]} == {root.span_id}
    assert lost.start_ns == detected.start_ns
    assert promoted.end_ns == first.start_ns
    assert began_ns <= detected.start_ns <= placed.start_ns <= promoted.end_ns <= first.end_ns
    measured_s = (ended_ns - began_ns) / 1e9
    covered_s, until = 0.0, began_ns
    for piece in pieces:
        covered_s += max(piece.end_ns - max(piece.start_ns, until), 0) / 1e9
        until = max(until, piece.end_ns)
    told = {piece.name: round(piece.duration_s, 3) for piece in pieces}
    assert measured_s / 2 - 1.0 <= covered_s <= measured_s + 1.0, (measured_s, told)
    (call,) = collector.named(names.CLIENT_CALL, method="Shelf.put")
    assert (root.trace_id, root.span_id) in answered(collector, "Shelf.put")[-1].links
    assert {trace for trace, _ in first.links} == {call.trace_id}
    assert all((root.trace_id, root.span_id) in s.links for s in collector.named(names.ELECTION) if s.links)


def moves_waited_for(c):
    """Return the moves that some call names as what it waited for."""
    linked = {trace for span in c.named(names.SERVER_CALL) for trace, _ in span.links}
    return [move for move in c.named(names.MIGRATE) if move.trace_id in linked]


def test_a_call_that_waits_for_a_move_is_linked_to_it(collector):
    """Of calls made all the while an object moves, one waits for it, and names the trace of that move."""
    with LocalCluster(servers=2, app_dirs=[ROOT]) as cluster, cluster.connect() as client:
        log = client.new(amino.spec(Log, name="log", dms=[AtLeastOnceRPC(), PeriodicCheckpoint(every=1000)]))
        over = threading.Event()

        def keep_calling():
            while not over.is_set():
                log.note("again")

        caller = threading.Thread(target=keep_calling)
        caller.start()
        try:
            for _ in range(30):
                client.move("log")
                if moves_waited_for(collector):
                    break
        finally:
            over.set()
            caller.join()
        wait(collector, moves_waited_for)
        (move, *_) = moves_waited_for(collector)

        def steps(c):
            return {(span.name, span.attributes.get(names.METHOD_NAME)) for span in c.trace(move.trace_id)}

        # Both servers export, each in its own time; one of them leads the slot, and asks the other for what is its part.
        wait(collector, lambda c: {(names.ETCD, None), (names.SYSTEM_CALL, "adopt")} <= steps(c))


def test_the_client_decides_which_calls_are_traced(collector, monkeypatch):
    """A client that samples nothing has no spans at servers either, though those would record all; metrics count every call."""
    with LocalCluster(servers=3, app_dirs=[ROOT]) as cluster:
        monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_off")
        with cluster.connect() as client:
            shelf = shelf_of(client, "shelf", client.new(amino.spec(Log, name="log")))
            for number in range(1, 6):
                assert put(shelf, "ada", 1) == number

        def counted(c):
            points = [p for p in c.metric(names.CALLS) if p.attributes[names.METHOD_NAME] == "Shelf.put"]
            return {p.attributes[names.SIDE] for p in points if p.value == 5} == {names.SIDE_CLIENT, names.SIDE_SERVER}

        wait(collector, counted)
    for name in (names.CLIENT_CALL, names.TRANSPORT, names.SERVER_CALL, names.SERVER_DM, names.METHOD, "shelve"):
        assert collector.named(name) == [], name


def test_a_server_shows_all_its_gauges(collector):
    """Every gauge of a server in use has a value, and so have round trips of the session and operations on etcd."""
    with LocalCluster(servers=3, app_dirs=[ROOT]) as cluster, cluster.connect() as client:
        shelf = shelf_of(client, "shelf")
        assert put(shelf, "ada", 1) == 1
        log = client.new(amino.spec(Log, name="log", dms=[PeriodicCheckpoint(every=1)]))
        log.note("once")
        wanted = {
            names.IN_FLIGHT, names.QUEUE_DEPTH, names.SESSION_VALIDITY, names.KEEPALIVE_DURATION, names.SLOTS_LED,
            names.REPLICATION_LAG, names.IN_SYNC, names.WANTED, names.CHECKPOINTS, names.CHECKPOINT_AGE,
            names.CHECKPOINT_SIZE, names.ETCD_DURATION, names.ETCD_SIZE, names.MICROSERVICES, names.MICROSERVICE_MEMORY,
            names.PROCESS_MEMORY, names.MEMORY_AVAILABLE, names.CALLS, names.CALL_DURATION,
        }  # fmt: skip
        wait(collector, lambda c: wanted <= {point.name for point in c.points})
        wait(
            collector,
            lambda c: sum({p.attributes[names.SERVER]: p.value for p in c.metric(names.SLOTS_LED)}.values()) == 64,
        )
    assert all(point.value > 0 for point in collector.metric(names.ETCD_SIZE))
    assert all(point.value > 0 for point in collector.metric(names.MICROSERVICE_MEMORY))
