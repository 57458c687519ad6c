"""The spans of a call, step by step, through the chains of both sides."""

from __future__ import annotations

import asyncio
import itertools
import time

import pytest

from amino.aio.mode import drive
from amino.contracts.calls import Call, Raised, RequestId
from amino.contracts.tracing import observed, outcome_of, traced
from amino.dm.base import ClientBase, Manager, ServerBase
from amino.dm.chain import ComposedServerChain, compose_client
from amino.errors import Invalid, NotExecuted, OutcomeUnknown, Overloaded
from amino.telemetry import names
from amino.telemetry.trace import Telemetry
from tests.telemetry.recording import Recorded


class Passing(ClientBase):
    async def on_call(self, call, forward):
        return await forward(call)


class Serving(ServerBase):
    async def on_call(self, call, forward):
        return await forward(call)


class First(Manager):
    def client(self, context):
        return Passing()

    def server(self, context):
        return Serving()


class Second(First):
    pass


class Silent(Manager):
    """Has components that handle no calls."""

    def client(self, context):
        return ClientBase()

    def server(self, context):
        return ServerBase()


@pytest.fixture
def watched():
    """Return telemetry that records, and what it recorded."""
    made = Recorded()
    yield made
    made.meters.shutdown()


def by_step(recorded):
    return {f"{span.name} {span.attributes.get(names.DM, '')}".strip(): span for span in recorded.spans()}


def a_call():
    return Call("m", "add", (), {}, 0, RequestId("c", "m", 1), time.monotonic() + 5)


def through_both_chains(telemetry, method):
    """Return the first step of a call through First and Second on both sides, a transport between."""
    managers = [First(), Silent(), Second()]
    server = ComposedServerChain(managers, lambda _: None, telemetry)

    async def serve(call):
        call.traced = telemetry.choose(call.traceparent)
        return await observed(
            telemetry, names.SERVER_CALL, lambda call: server.call(call, method), call,
            side=names.SIDE_SERVER, attributes={}, ticket=call.traced,
        )  # fmt: skip

    async def send(call):
        return await traced(telemetry, names.TRANSPORT, serve, call, kind="client")

    forward = compose_client(managers, None, send, telemetry)

    async def first(call):
        return await observed(
            telemetry, names.CLIENT_CALL, forward, call,
            side=names.SIDE_CLIENT, attributes={}, ticket=telemetry.choose(None),
        )  # fmt: skip

    return first


EXPECTED = [
    names.CLIENT_CALL,
    f"{names.CLIENT_DM} First",
    f"{names.CLIENT_DM} Second",
    names.TRANSPORT,
    names.SERVER_CALL,
    f"{names.SERVER_DM} Second",
    f"{names.SERVER_DM} First",
    names.METHOD,
]


@pytest.mark.parametrize("blocking", [False, True])
def test_a_call_is_one_trace_in_the_order_of_its_steps(watched, blocking):
    """Client, each component, transport, server, each component, method: each the child of the one before."""
    telemetry = watched.telemetry

    async def method(call):
        assert call.traceparent == telemetry.traceparent()
        return 7

    call = a_call()
    run = through_both_chains(telemetry, method)(call)
    assert (drive(run) if blocking else asyncio.run(run)) == 7
    found = by_step(watched)
    assert set(found) == set(EXPECTED)
    for outer, inner in itertools.pairwise(EXPECTED):
        assert found[inner].parent.span_id == found[outer].context.span_id, (outer, inner)
    assert found[names.CLIENT_CALL].parent is None
    assert call.traceparent is None
    for end in (names.CLIENT_CALL, names.SERVER_CALL):
        assert found[end].attributes[names.OUTCOME] == names.OUTCOME_RESULT
        assert found[end].attributes[names.ATTEMPT] == 0


def test_an_application_error_marks_every_step_once(watched):
    """The error's own type is on each span, not the wrapper that carries it."""
    telemetry = watched.telemetry

    async def method(call):
        raise Raised(ValueError("no such tweet"))

    with pytest.raises(Raised):
        asyncio.run(through_both_chains(telemetry, method)(a_call()))
    found = by_step(watched)
    for span in found.values():
        assert span.status.description == "ValueError: no such tweet"
        assert span.attributes[names.ERROR_TYPE] == "ValueError"
        assert len(span.events) == 1
    for end in (names.CLIENT_CALL, names.SERVER_CALL):
        assert found[end].attributes[names.OUTCOME] == names.OUTCOME_APPLICATION_ERROR


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (Raised(OutcomeUnknown("of a nested call")), names.OUTCOME_APPLICATION_ERROR),
        (NotExecuted("moved"), names.OUTCOME_NOT_EXECUTED),
        (Overloaded("full"), names.OUTCOME_NOT_EXECUTED),
        (Invalid("bad"), names.OUTCOME_NOT_EXECUTED),
        (OutcomeUnknown("lost"), names.OUTCOME_UNKNOWN),
        (asyncio.CancelledError(), names.OUTCOME_UNKNOWN),
    ],
)
def test_outcomes_have_names(error, outcome):
    """Every way a call can end is one of the four outcomes."""
    assert outcome_of(error) == outcome


def test_a_call_that_is_left_out_has_no_span_at_any_step(watched):
    """Whoever began the trace has decided: each step goes straight on, with the same context."""
    left_out = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
    seen = []

    async def step(call):
        seen.append(call.traceparent)
        return 7

    call = a_call()
    call.traceparent = left_out
    assert watched.telemetry.choose(left_out) == left_out
    forward = compose_client([First(), Second()], None, step, watched.telemetry)
    assert asyncio.run(forward(call)) == 7
    chain = ComposedServerChain([First(), Second()], lambda _: None, watched.telemetry)
    assert asyncio.run(chain.call(call, step)) == 7
    assert watched.spans() == []
    assert seen == [left_out, left_out]


def test_without_tracing_chains_are_as_short_as_before(watched):
    """While off, components call each other directly, and a chain without handlers is passed by, traced or not."""
    assert ComposedServerChain([Silent()], lambda _: None, watched.telemetry).passes_through
    off = Telemetry.disabled()

    async def innermost(call):
        return 1

    assert compose_client([Silent()], None, innermost, off) is innermost
    assert ComposedServerChain([Silent()], lambda _: None, off).passes_through
    assert not ComposedServerChain([First()], lambda _: None, off).passes_through
