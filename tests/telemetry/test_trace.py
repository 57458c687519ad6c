"""Spans: parents in every calling style, and nothing at all while tracing is off."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import timeit

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from amino.aio import mode
from amino.telemetry import names
from amino.telemetry.otel import ChosenIds, OtelTelemetry
from amino.telemetry.trace import NO_SPAN, Telemetry, current_traceparent, failover_traceparent


class Recorded:
    """Telemetry whose spans are kept in memory."""

    def __init__(self):
        self.exporter = InMemorySpanExporter()
        provider = TracerProvider(id_generator=ChosenIds(), shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.telemetry = OtelTelemetry(provider.get_tracer(names.SCOPE), None)

    def spans(self):
        return {span.name: span for span in self.exporter.get_finished_spans()}


@pytest.fixture
def recorded():
    return Recorded()


def ids(span):
    return f"00-{span.context.trace_id:032x}-{span.context.span_id:016x}"


def test_nested_spans_are_parent_and_child(recorded):
    """A span started inside another is its child, and the outer one is current again afterwards."""
    with recorded.telemetry.span("outer") as outer:
        with recorded.telemetry.span("inner"):
            assert recorded.telemetry.traceparent() != outer.traceparent()
        assert recorded.telemetry.traceparent() == outer.traceparent()
    assert recorded.telemetry.traceparent() is None
    spans = recorded.spans()
    assert spans["inner"].parent.span_id == spans["outer"].context.span_id
    assert spans["outer"].parent is None


def test_parent_from_another_process(recorded):
    """A traceparent from a frame makes the span a child of the sender's span, whatever is current here."""
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    with recorded.telemetry.span("local"), recorded.telemetry.span("served", kind="server", parent=parent):
        assert recorded.telemetry.traceparent().startswith("00-0af7651916cd43dd8448eb211c80319c-")
    served = recorded.spans()["served"]
    assert f"{served.parent.span_id:016x}" == "b7ad6b7169203331"
    assert served.parent.is_remote


def test_tracestate_travels_with_traceparent(recorded):
    """A tracestate behind the traceparent is kept and handed on."""
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01 vendor=1,other=2"
    with recorded.telemetry.span("served", parent=parent):
        assert recorded.telemetry.traceparent().endswith("-01 vendor=1,other=2")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "garbage",
        "00-0-0-01",
        "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00-zzf7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    ],
)
def test_malformed_traceparent_starts_a_new_trace(recorded, text):
    """What a peer sends wrongly never fails a call: the span becomes a root."""
    with recorded.telemetry.span("outer"), recorded.telemetry.span("served", parent=text):
        pass
    assert recorded.spans()["served"].parent is None


def test_unsampled_parent_is_not_recorded(recorded):
    """The sender's decision not to sample holds for its children."""
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
    with recorded.telemetry.span("served", parent=parent) as span:
        assert not span.recording
    assert recorded.spans() == {}


async def test_tasks_have_their_own_current_span(recorded):
    """Concurrent tasks nest their spans each for itself."""
    both_inside = asyncio.Barrier(2)

    async def call(name):
        with recorded.telemetry.span(name):
            await both_inside.wait()
            with recorded.telemetry.span(f"{name}-method"):
                await both_inside.wait()

    await asyncio.gather(call("a"), call("b"))
    spans = recorded.spans()
    for name in "ab":
        assert spans[f"{name}-method"].parent.span_id == spans[name].context.span_id
        assert spans[name].parent is None


def test_worker_thread_continues_by_traceparent(recorded):
    """A blocking chain driven in a thread of its own nests under the traceparent it was handed."""

    async def chain(parent):
        with recorded.telemetry.span("served", parent=parent):
            await mode.sleep(0)
            with recorded.telemetry.span("method"):
                pass

    with recorded.telemetry.span("outer") as outer:
        thread = threading.Thread(target=lambda: mode.drive(chain(outer.traceparent())))
        thread.start()
        thread.join()
    spans = recorded.spans()
    assert spans["served"].parent.span_id == spans["outer"].context.span_id
    assert spans["method"].parent.span_id == spans["served"].context.span_id


def test_exception_marks_the_span(recorded):
    """An exception passes through, and the span tells its type and message."""
    with pytest.raises(ValueError, match="no such tweet"), recorded.telemetry.span("call"):
        raise ValueError("no such tweet")
    span = recorded.spans()["call"]
    assert span.status.description == "ValueError: no such tweet"
    assert span.events[0].attributes["exception.type"] == "ValueError"


async def test_cancellation_marks_the_span(recorded):
    """A cancelled call's span ends and says so."""
    inside = asyncio.Event()

    async def call():
        with recorded.telemetry.span("call"):
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(call())
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert recorded.spans()["call"].status.description == "cancelled"


def test_long_lived_span_has_explicit_times(recorded):
    """A span by hand keeps the times it was given, is never current, and ends once."""
    span = recorded.telemetry.start_span("session", start_ns=1_000, attributes={names.SERVER: "s1"})
    assert recorded.telemetry.traceparent() is None
    span.event("renewed", {names.EPOCH: 2}, at_ns=1_500)
    span.error("lease lost")
    span.end(at_ns=2_000)
    span.end(at_ns=9_000)
    done = recorded.spans()["session"]
    assert (done.start_time, done.end_time) == (1_000, 2_000)
    assert done.events[0].timestamp == 1_500
    assert done.status.description == "lease lost"


def test_failover_is_one_trace_told_by_three_processes():
    """Supervisor, slot leader and new server agree on the parent without talking; the root is told last."""
    supervisor, leader, server = Recorded(), Recorded(), Recorded()
    parent = failover_traceparent("c", "s1", 42)
    attributes = {names.MICROSERVICE: "m"}
    supervisor.telemetry.emit(names.FAILOVER_DETECTED, parent=parent, start_ns=100, end_ns=110)
    leader.telemetry.emit(names.FAILOVER_PLACED, parent=parent, start_ns=110, end_ns=150, attributes=attributes)
    server.telemetry.emit(names.FAILOVER_RESTORED, parent=parent, start_ns=150, end_ns=180, attributes=attributes)
    leader.telemetry.emit_failover("c", "s1", 42, kind="crash", start_ns=100, end_ns=180)
    root = leader.spans()[names.FAILOVER]
    assert root.parent is None
    assert parent.startswith(ids(root))
    assert root.attributes[names.KIND] == "crash"
    for process, name in (
        (supervisor, names.FAILOVER_DETECTED),
        (leader, names.FAILOVER_PLACED),
        (server, names.FAILOVER_RESTORED),
    ):
        span = process.spans()[name]
        assert span.context.trace_id == root.context.trace_id
        assert span.parent.span_id == root.context.span_id
        assert span.context.span_id != root.context.span_id


def test_failovers_have_different_traces():
    """Each incarnation's loss is a trace of its own."""
    assert failover_traceparent("c", "s1", 1) == failover_traceparent("c", "s1", 1)
    assert len({failover_traceparent(c, s, i) for c in "cd" for s in ("s1", "s2") for i in (1, 2)}) == 8


def test_emitted_span_never_ends_before_it_starts(recorded):
    """Clocks of two machines differ; a span told with both still has a length of zero or more."""
    recorded.telemetry.emit("late", start_ns=500, end_ns=400, error="clock")
    span = recorded.spans()["late"]
    assert (span.start_time, span.end_time) == (500, 500)
    assert span.status.description == "clock"


def test_disabled_telemetry_does_nothing():
    """While off, every call is accepted and nothing comes of it."""
    off = Telemetry.disabled()
    assert (off.tracing, off.metering) == (False, False)
    with off.span(names.METHOD, kind="server", parent="x", attributes={}) as span:
        assert span is NO_SPAN
        assert not span.recording
        span.set("a", 1)
        span.event("b")
        span.error("c")
        assert span.traceparent() is None
        assert off.traceparent() is None
    assert off.emit(names.FAILOVER_LOST, start_ns=0, end_ns=1) is None
    off.emit_failover("c", "s", 1, kind="crash", start_ns=0, end_ns=1)
    off.start_span(names.METHOD).end()
    with off.inside("x") as inside:
        inside.link("y")
    assert current_traceparent() is None
    off.metrics.calls("client", "A.b", "DHT").add("result", 0.1)
    off.metrics.watch(names.QUEUE_DEPTH, lambda: [({}, 1.0)])()
    off.metrics.keepalive(0.1)
    off.metrics.etcd("get", 0.1)
    off.metrics.failover("crash", 1.0)
    off.metrics.checkpoint(1, 1.0)
    off.metrics.refused("frame")
    assert mode.drive(off.aclose())


def test_disabled_telemetry_is_cheap():
    """Asking whether tracing is on costs a small fraction of a microsecond."""
    off = Telemetry.disabled()
    best_s = min(timeit.repeat("off.tracing", globals={"off": off}, number=100_000, repeat=5)) / 100_000
    assert best_s < 1e-6


def test_off_imports_nothing():
    """A process without the variables imports neither OpenTelemetry nor gRPC for telemetry."""
    program = (
        "import sys; from amino.telemetry.setup import from_environment; import amino.telemetry.logs\n"
        "assert not from_environment('x', environ={}).tracing\n"
        "assert not [m for m in sys.modules if m.split('.')[0] in ('opentelemetry', 'grpc')]"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
