"""Switching on by the standard variables, and export to a collector."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

from amino.errors import Invalid
from amino.telemetry import names
from amino.telemetry.setup import Plan, from_environment, plan
from amino.testing.collector import Collector

EVERYTHING = "OTEL_EXPORTER_OTLP_ENDPOINT"
OTLP, HTTP = ("otlp",), "http/protobuf"
BOTH = Plan(OTLP, OTLP)


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    for variable in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(variable)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, Plan()),
        ({EVERYTHING: "http://c:4317"}, BOTH),
        ({EVERYTHING: "http://c:4317", "OTEL_SDK_DISABLED": "TRUE"}, Plan()),
        ({EVERYTHING: "http://c:4317", "OTEL_METRICS_EXPORTER": "none"}, Plan(traces=OTLP)),
        ({EVERYTHING: "http://c:4317", "OTEL_TRACES_EXPORTER": "none"}, Plan(metrics=OTLP)),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4317"}, Plan(traces=OTLP)),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, Plan(traces=OTLP)),
        ({"OTEL_METRICS_EXPORTER": "console"}, Plan(metrics=("console",))),
        ({"OTEL_METRICS_EXPORTER": "otlp, prometheus"}, Plan(metrics=("otlp", "prometheus"))),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, Plan(traces=OTLP)),
        ({EVERYTHING: "http://c:4318", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, Plan(OTLP, OTLP, HTTP, HTTP)),
        (
            {EVERYTHING: "http://c:4318", "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL": "http/protobuf"},
            Plan(OTLP, OTLP, metrics_protocol=HTTP),
        ),
        ({"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.01"}, Plan(sampled=0.01)),
        ({"OTEL_TRACES_SAMPLER": "parentbased_traceidratio"}, Plan(sampled=1.0)),
        ({"OTEL_TRACES_SAMPLER": "parentbased_always_off"}, Plan(sampled=0.0)),
        ({"OTEL_TRACES_SAMPLER": "parentbased_always_on"}, Plan()),
        ({"OTEL_SERVICE_NAME": "shop"}, Plan()),
    ],
)
def test_plan_follows_the_standard_variables(environ, expected):
    """Exporters, endpoints and the off switch mean what OpenTelemetry says they mean."""
    assert plan(environ) == expected
    assert plan(environ).on == bool(expected.traces or expected.metrics)


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "OTEL_TRACES_EXPORTER='zipkin'.*otlp, console or none"),
        ({"OTEL_TRACES_EXPORTER": "prometheus"}, "OTEL_TRACES_EXPORTER='prometheus'.*otlp, console or none"),
        ({EVERYTHING: "http://c:4318", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"}, "4317"),
        ({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "1 %"}, "from 0 to 1"),
        ({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "7"}, "from 0 to 1"),
    ],
)
def test_settings_that_cannot_work_are_refused(environ, said):
    """The error names the value and the remedy."""
    with pytest.raises(Invalid, match=said):
        plan(environ)


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
async def test_export_to_a_collector(monkeypatch, protocol):
    """Spans and metrics arrive with their resource, over gRPC and HTTP; standard variables win over our defaults."""
    async with Collector() as collector:
        for key, value in collector.environment(protocol=protocol).items():
            monkeypatch.setenv(key, value)
        monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.instance.id=from-outside,team=shop")
        telemetry = from_environment("amino-server", instance="s1", attributes={"amino.cluster": "c"})
        assert telemetry.tracing
        assert telemetry.metering
        served = telemetry.span(names.SERVER_CALL, kind="server", attributes={names.METHOD_NAME: "C.add"})
        with served, telemetry.span(names.METHOD) as method:
            method.event("half-way")
        telemetry.metrics.calls(names.SIDE_SERVER, "C.add", "DHT").add(names.OUTCOME_RESULT, 0.5)
        await collector.wait_for(lambda c: c.named(names.METHOD) and c.metric(names.CALLS))
        (span,) = collector.named(names.METHOD)
        assert collector.ancestry(span) == [names.SERVER_CALL, names.METHOD]
        assert [each.name for each in collector.trace(span.trace_id)] == [names.SERVER_CALL, names.METHOD]
        assert (span.service, span.instance, span.error, span.events) == (
            "amino-server", "from-outside", None, ("half-way",),
        )  # fmt: skip
        assert collector.named(names.SERVER_CALL, method="C.add")[0].kind == "server"
        assert not collector.named(names.SERVER_CALL, method="C.other")
        assert collector.metric(names.CALLS)[0].value == 1
        assert collector.metric(names.CALL_DURATION)[0].value == 0.5
        assert await telemetry.aclose()
        assert await telemetry.aclose()


async def test_prometheus_reads_metrics_over_http(monkeypatch, caplog):
    """With the exporter ``prometheus`` there is an endpoint, with calls, gauges and the memory of the process in it."""
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "prometheus")
    monkeypatch.setenv("OTEL_EXPORTER_PROMETHEUS_PORT", "0")
    with caplog.at_level("INFO", "amino.telemetry"):
        telemetry = from_environment("amino-server")
    (url,) = [word for record in caplog.records for word in record.getMessage().split() if word.startswith("http")]
    telemetry.metrics.calls(names.SIDE_SERVER, "C.add", "DHT,ConsensusRSM").add(names.OUTCOME_RESULT, 0.002)
    telemetry.metrics.watch(names.SLOTS_LED, lambda: [({names.SERVER: "s1"}, 64.0)])

    def scrape():
        with urllib.request.urlopen(url, timeout=60) as answer:
            return answer.read().decode()

    text = await asyncio.to_thread(scrape)
    labels = ['amino_side="server"', 'amino_method="C.add"', 'amino_dms="DHT,ConsensusRSM"', 'amino_outcome="result"']
    (line,) = [line for line in text.splitlines() if line.startswith("amino_calls_total{")]
    assert line.endswith(" 1.0")
    assert all(label in line for label in labels)
    assert "amino_call_duration_seconds_bucket{" in text
    assert 'amino_slots_led{amino_server="s1"} 64.0' in text
    assert "amino_process_memory_bytes" in text
    assert await telemetry.aclose(30.0)


async def test_a_port_that_is_taken_leaves_the_process_without_the_endpoint(monkeypatch, caplog):
    """A server whose endpoint cannot be opened says so and works on."""
    taken = socket.create_server(("127.0.0.1", 0))
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "prometheus")
    monkeypatch.setenv("OTEL_EXPORTER_PROMETHEUS_HOST", "127.0.0.1")
    monkeypatch.setenv("OTEL_EXPORTER_PROMETHEUS_PORT", str(taken.getsockname()[1]))
    telemetry = from_environment("amino-server")
    assert "no endpoint for Prometheus" in caplog.text
    assert await telemetry.aclose(30.0)
    taken.close()


async def test_close_exports_what_is_left(monkeypatch):
    """Closing flushes at once, long before the batch is due."""
    async with Collector() as collector:
        monkeypatch.setenv(EVERYTHING, collector.endpoint)
        telemetry = from_environment("amino-client")
        telemetry.start_span("last").end()
        assert await telemetry.aclose(5.0)
        assert collector.named("last")
        collector.clear()
        assert not collector.spans


async def test_close_is_bounded_when_the_collector_is_away(monkeypatch):
    """A collector that accepts and never answers does not hold up the end of a process."""

    silent = socket.create_server(("127.0.0.1", 0))
    port = silent.getsockname()[1]
    program = (
        "import asyncio, time; from amino.telemetry.setup import from_environment\n"
        "t = from_environment('x'); t.start_span('lost').end(); began = time.monotonic()\n"
        "assert not asyncio.run(t.aclose(0.3)); assert time.monotonic() - began < 5\n"
        "import os; os._exit(7)"
    )
    environ = {**os.environ, EVERYTHING: f"http://127.0.0.1:{port}"}
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, env=environ)
    try:
        assert await asyncio.wait_for(process.wait(), 60) == 7
    finally:
        silent.close()


async def test_wait_for_says_what_it_has():
    """A collector that waits in vain lists what did arrive."""
    async with Collector() as collector:
        with pytest.raises(TimeoutError, match="nothing"):
            await collector.wait_for(lambda c: c.spans, timeout_s=0.05)
        assert "0 spans" in repr(collector)
    await collector.aclose()


def test_an_applications_own_tracing_is_joined():
    """Where the application has set up OpenTelemetry itself, our spans go there, without any variable."""
    program = """
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
kept = InMemorySpanExporter(); provider = TracerProvider(); trace.set_tracer_provider(provider)
provider.add_span_processor(SimpleSpanProcessor(kept))
from amino.telemetry.setup import from_environment
telemetry = from_environment("amino-client")
with trace.get_tracer("app").start_as_current_span("app"), telemetry.span("ours"):
    pass
ours, app = kept.get_finished_spans()
assert ours.parent.span_id == app.context.span_id
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_published_provider_takes_a_microservices_own_spans():
    """In a kernel process, spans that user code starts through OpenTelemetry are children of the call."""
    program = """
import io, os, contextlib
os.environ["OTEL_TRACES_EXPORTER"] = os.environ["OTEL_METRICS_EXPORTER"] = "console"
from amino.telemetry.setup import from_environment
telemetry = from_environment("amino-server", publish=True)
from opentelemetry import trace
with telemetry.span("call") as call, trace.get_tracer("shop").start_as_current_span("query") as query:
    assert query.is_recording()
    assert call.traceparent().split("-")[2] == f"{query.parent.span_id:016x}"
import asyncio
with contextlib.redirect_stdout(io.StringIO()):
    assert asyncio.run(telemetry.aclose())
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60, stdout=subprocess.DEVNULL)


def test_two_in_one_process_do_not_share(monkeypatch):
    """Two kernel servers in one process have providers of their own, and closing one leaves the other."""
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console")
    first, second = from_environment("a"), from_environment("b")
    assert first is not second
    began = time.monotonic()
    assert asyncio.run(first.aclose())
    span = second.start_span("alive")
    assert span.recording
    span.end()
    assert asyncio.run(second.aclose())
    assert time.monotonic() - began < 5
