"""The spans of a call, step by step, through the chains of both sides."""

from __future__ import annotations

import asyncio
import itertools
import time

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from amino.aio.mode import drive
from amino.contracts.calls import Call, Raised, RequestId
from amino.contracts.tracing import observed, outcome_of, traced
from amino.dm.base import ClientBase, Manager, ServerBase
from amino.dm.chain import ComposedServerChain, compose_client
from amino.errors import Invalid, NotExecuted, OutcomeUnknown, Overloaded
from amino.telemetry import names
from amino.telemetry.otel import ChosenIds, OtelTelemetry
from amino.telemetry.trace import Telemetry


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
    """Return telemetry, its finished spans by name, and its metric points by name."""
    exporter = InMemorySpanExporter()
    tracers = TracerProvider(id_generator=ChosenIds(), shutdown_on_exit=False)
    tracers.add_span_processor(SimpleSpanProcessor(exporter))
    reader = InMemoryMetricReader()
    meters = MeterProvider([reader], shutdown_on_exit=False)
    telemetry = OtelTelemetry(tracers.get_tracer(names.SCOPE), meters.get_meter(names.SCOPE))

    def spans():
        return {
            f"{span.name} {span.attributes.get(names.DM, '')}".strip(): span for span in exporter.get_finished_spans()
        }

    def counted():
        data = reader.get_metrics_data()
        return [
            (point.attributes[names.SIDE], point.attributes[names.METHOD_NAME], point.attributes[names.OUTCOME])
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == names.CALLS
            for point in metric.data.data_points
        ]

    yield telemetry, spans, counted
    meters.shutdown()


def a_call():
    return Call("m", "add", (), {}, 0, RequestId("c", "m", 1), time.monotonic() + 5)


def through_both_chains(telemetry, method):
    """Return the first step of a call through First and Second on both sides, a transport between."""
    managers = [First(), Silent(), Second()]
    server = ComposedServerChain(managers, None, telemetry)

    async def serve(call):
        return await observed(
            telemetry, names.SERVER_CALL, lambda call: server.call(call, method), call,
            side=names.SIDE_SERVER, label="C.add", monotonic=time.monotonic, attributes={}, parent=call.traceparent,
        )  # fmt: skip

    async def send(call):
        return await traced(telemetry, names.TRANSPORT, serve, call, kind="client")

    forward = compose_client(managers, None, send, telemetry)

    async def first(call):
        return await observed(
            telemetry, names.CLIENT_CALL, forward, call,
            side=names.SIDE_CLIENT, label="C.add", monotonic=time.monotonic, attributes={},
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
    telemetry, spans, counted = watched

    async def method(call):
        assert call.traceparent == telemetry.traceparent()
        return 7

    call = a_call()
    run = through_both_chains(telemetry, method)(call)
    assert (drive(run) if blocking else asyncio.run(run)) == 7
    found = spans()
    assert set(found) == set(EXPECTED)
    for outer, inner in itertools.pairwise(EXPECTED):
        assert found[inner].parent.span_id == found[outer].context.span_id, (outer, inner)
    assert found[names.CLIENT_CALL].parent is None
    assert call.traceparent is None
    assert counted() == [("server", "C.add", "result"), ("client", "C.add", "result")]


def test_an_application_error_marks_every_step_once(watched):
    """The error's own type is on each span, not the wrapper that carries it."""
    telemetry, spans, counted = watched

    async def method(call):
        raise Raised(ValueError("no such tweet"))

    with pytest.raises(Raised):
        asyncio.run(through_both_chains(telemetry, method)(a_call()))
    for span in spans().values():
        assert span.status.description == "ValueError: no such tweet"
        assert len(span.events) == 1
    assert {outcome for _, _, outcome in counted()} == {names.OUTCOME_APPLICATION_ERROR}


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


def test_without_tracing_chains_are_as_short_as_before():
    """While off, components call each other directly, and a chain without handlers is passed by."""
    off = Telemetry.disabled()

    async def innermost(call):
        return 1

    assert compose_client([Silent()], None, innermost, off) is innermost
    assert ComposedServerChain([Silent()], None, off).passes_through
    assert not ComposedServerChain([First()], None, off).passes_through
