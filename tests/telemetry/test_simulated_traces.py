"""Whole traces of simulated clusters: every server and client of one tells the same telemetry, in virtual time."""

from __future__ import annotations

import pytest

import amino
from amino.dm import DHT, AtLeastOnceRPC, ConsensusRSM, PeriodicCheckpoint, SerializableRPC
from amino.telemetry import names
from amino.telemetry.trace import failover_traceparent
from amino.testing.simulation import simulate
from tests.telemetry.recording import Recorded, context_of
from tests.telemetry.traced_app import Log, Shelf

CHAIN = "AtLeastOnceRPC,DHT,ConsensusRSM"


def path_to(recorded, span):
    """Return the spans from the root of ``span``'s trace down to it, as name or (name, manager)."""
    by_id = {each.context.span_id: each for each in recorded.spans()}
    path = []
    while span is not None:
        manager = span.attributes.get(names.DM)
        path.append((span.name, manager) if manager else span.name)
        span = by_id[span.parent.span_id] if span.parent is not None else None
    return path[::-1]


def named(recorded, name, **attributes):
    wanted = {f"amino.{key}": value for key, value in attributes.items()}
    return [span for span in recorded.spans(name) if wanted.items() <= dict(span.attributes).items()]


def shelf_spec(name="shelf"):
    return amino.spec(Shelf, name=name, dms=[AtLeastOnceRPC(), DHT(shards=2), ConsensusRSM()])


def test_a_call_through_three_managers_is_one_tree():
    """Client, components, link, server, components, method and the nested call: one trace, right parents, every attribute."""
    recorded = Recorded()

    async def main(cluster):
        client = cluster.client().cluster
        log = await amino.aio(client.new)(amino.spec(Log, name="log"))
        shelf = await amino.aio(client.new)(shelf_spec(), log)
        recorded.exporter.clear()
        assert await amino.aio(shelf.put)("ada", 2) == 2

    simulate(main, 1, telemetry=recorded.telemetry)
    (put,) = named(recorded, names.METHOD, method="put")
    (note,) = named(recorded, names.METHOD, method="note")
    steps = [
        names.CLIENT_CALL, (names.CLIENT_DM, "AtLeastOnceRPC"), (names.CLIENT_DM, "DHT"), names.TRANSPORT,
        names.SERVER_CALL, (names.SERVER_DM, "ConsensusRSM"), (names.SERVER_DM, "DHT"), names.METHOD,
    ]  # fmt: skip
    assert path_to(recorded, put) == steps
    nested = [step for step in path_to(recorded, note)[len(steps) :] if step != names.TRANSPORT]
    assert nested == [names.CLIENT_CALL, names.SERVER_CALL, names.METHOD]
    (served,) = named(recorded, names.SERVER_CALL, method="Shelf.put")
    (called,) = named(recorded, names.CLIENT_CALL, method="Shelf.put")
    assert called.parent is None
    for end in (served, called):
        assert (end.attributes[names.DMS], end.attributes[names.OUTCOME], end.attributes[names.ATTEMPT]) == (
            CHAIN, "result", 0,
        )  # fmt: skip
        assert (end.attributes[names.RPC_SERVICE], end.attributes[names.RPC_METHOD]) == ("Shelf", "put")


def test_a_failover_adds_up_exactly():
    """From the loss to the first good call: the pieces of one object follow each other and fill the time but for the ways between."""
    recorded = Recorded()

    async def main(cluster):
        client = cluster.client().cluster
        shelf = await amino.aio(client.new)(shelf_spec())
        assert await amino.aio(shelf.put)("ada", 1) == 1
        (served,) = named(recorded, names.SERVER_CALL, method="Shelf.put")
        home, microservice = served.attributes[names.SERVER], served.attributes[names.MICROSERVICE]
        incarnation = cluster.servers[home].kernel.incarnation
        recorded.exporter.clear()
        began = cluster.clock.wall()
        cluster.servers[home].crash()
        with amino.deadline(60.0):
            assert await amino.aio(shelf.put)("ada", 1) == 2
        measured_s = cluster.clock.wall() - began
        await cluster.until(lambda: recorded.spans(names.FAILOVER), 60.0)
        return home, incarnation, microservice, began, measured_s

    home, incarnation, microservice, began, measured_s = simulate(main, 3, telemetry=recorded.telemetry)
    trace = failover_traceparent("simulated", home, incarnation)
    (root,) = recorded.spans(names.FAILOVER)
    assert trace.startswith(context_of(root))
    (detected,) = recorded.spans(names.FAILOVER_DETECTED)
    (first,) = named(recorded, names.FAILOVER_FIRST_CALL, microservice=microservice, method="Shelf.put")
    epoch = first.attributes[names.EPOCH]
    (placed,) = named(recorded, names.FAILOVER_PLACED, microservice=microservice, epoch=epoch)
    (promoted,) = named(recorded, names.FAILOVER_PROMOTED, microservice=microservice, epoch=epoch)
    pieces = [detected, placed, promoted, first]
    assert {each.parent.span_id for each in pieces} == {root.context.span_id}
    covered_s, until = 0.0, int(began * 1e9)
    for piece in pieces:
        covered_s += max(piece.end_time - max(piece.start_time, until), 0) / 1e9
        until = max(until, piece.end_time)
    assert measured_s - 0.1 < covered_s <= measured_s, [
        (each.name, (each.end_time - each.start_time) / 1e9) for each in pieces
    ]
    (call,) = named(recorded, names.CLIENT_CALL, method="Shelf.put")
    assert [link.context.trace_id for link in first.links] == [call.context.trace_id]
    good = named(recorded, names.SERVER_CALL, method="Shelf.put", outcome="result")
    assert [context_of_link(link) for link in good[-1].links] == [context_of(root)]
    linked = [span for span in recorded.spans(names.ELECTION) if span.links]
    assert {span.attributes[names.SLOT] for span in linked} <= set(range(64))
    assert len(linked) == len(recorded.spans(names.FAILOVER_ELECTED))


def context_of_link(link):
    return f"00-{link.context.trace_id:032x}-{link.context.span_id:016x}"


def test_a_restored_object_shows_its_placing_in_the_failovers_trace():
    """What is placed anew from a checkpoint: placing, reading the checkpoint and restoring are in the failover's trace."""
    recorded = Recorded()

    async def main(cluster):
        client = cluster.client().cluster
        log = await amino.aio(client.new)(
            amino.spec(Log, name="log", dms=[AtLeastOnceRPC(), PeriodicCheckpoint(every=1)])
        )
        assert await amino.aio(log.note)("one") == 1
        (served,) = named(recorded, names.SERVER_CALL, method="Log.note")
        recorded.exporter.clear()
        cluster.servers[served.attributes[names.SERVER]].crash()
        with amino.deadline(60.0):
            assert await amino.aio(log.note)("two") == 2
        await cluster.until(lambda: recorded.spans(names.FAILOVER), 60.0)

    simulate(main, 5, telemetry=recorded.telemetry)
    (root,) = recorded.spans(names.FAILOVER)
    (restore,) = [s for s in recorded.spans(names.RESTORE) if s.context.trace_id == root.context.trace_id]
    assert path_to(recorded, restore)[:2] == [names.FAILOVER, names.PLACE]
    (restored,) = recorded.spans(names.FAILOVER_RESTORED)
    (first,) = recorded.spans(names.FAILOVER_FIRST_CALL)
    for piece in (restored, first):
        assert piece.parent.span_id == root.context.span_id


def move(client):
    return amino.aio(client.move)("log")


def change(client):
    return amino.aio(client.apply)(amino.spec(Log, name="log", dms=[AtLeastOnceRPC(), SerializableRPC()]))


@pytest.mark.parametrize(
    ("work", "span", "commands"),
    [(move, names.MIGRATE, {"adopt"}), (change, names.CHANGE, set())],  # what is new is where its slot is led
    ids=["move", "live change"],
)
def test_a_call_that_waits_is_linked_to_what_it_waited_for(work, span, commands):
    """Calls go on while an object moves or gets other managers; those that were kept waiting name the trace of that."""
    recorded = Recorded()

    async def main(cluster):
        client = cluster.client().cluster
        log = await amino.aio(client.new)(amino.spec(Log, name="log", dms=[AtLeastOnceRPC()]))
        other = cluster.client().cluster
        seen = await amino.aio(other.get)("log")
        over = []

        async def keep_calling():
            while not over:
                await amino.aio(seen.note)("again")

        caller = cluster.clients[list(cluster.clients)[-1]].spawn(keep_calling())
        await work(client)
        await amino.aio(log.note)("after")
        over.append(True)
        await caller

    simulate(main, 2, telemetry=recorded.telemetry)
    (asked,) = recorded.spans(span)
    delayed = [span for span in recorded.spans(names.SERVER_CALL) if span.links]
    assert delayed
    assert {link.context.trace_id for span in delayed for link in span.links} == {asked.context.trace_id}
    inside = {one.attributes.get(names.METHOD_NAME) for one in recorded.spans(names.SYSTEM_CALL)}
    assert commands <= inside
