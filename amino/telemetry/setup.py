"""Switching telemetry on, by OpenTelemetry's standard environment variables and nothing else.

Owns the decision (pure, ``plan``) and the building of providers and exporters. Leaves endpoints, headers,
sampling, batching and resources to the SDK, which reads its own ``OTEL_*`` variables.
Invariants: with telemetry off nothing of OpenTelemetry (and no gRPC) is imported; an application that
configured tracing itself before is joined, not overridden.
Failure behaviour: a setting that cannot work raises ``Invalid`` at start; a collector that is away costs nothing
but a log line per failed export.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from amino.errors import Invalid
from amino.telemetry import names
from amino.telemetry.trace import Telemetry

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import MetricExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter

    from amino.telemetry.call_series import CallSeries

_ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
_EXPORTERS = {"TRACES": ("otlp", "console"), "METRICS": ("otlp", "prometheus", "console")}
_PROTOCOLS = ("grpc", "http/protobuf")


@dataclass(frozen=True, slots=True)
class Plan:
    """Which exporters each signal has, of ``otlp``, ``console`` and (metrics) ``prometheus``, and how OTLP is spoken.

    Args:
        sampled: share of new traces that are recorded, where that is what the sampler decides by; else None.
    """

    traces: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    traces_protocol: str = "grpc"
    metrics_protocol: str = "grpc"
    sampled: float | None = None

    @property
    def on(self) -> bool:
        """Whether anything is exported."""
        return bool(self.traces or self.metrics)


def plan(environ: Mapping[str, str]) -> Plan:
    """Decide by the standard variables what is exported.

    ``OTEL_SDK_DISABLED=true`` ends it. ``OTEL_TRACES_EXPORTER`` and ``OTEL_METRICS_EXPORTER`` name the
    exporters, with commas if several. Where they are not set, a signal is exported if ``OTEL_EXPORTER_OTLP_ENDPOINT`` or the
    signal's own endpoint is set. ``OTEL_EXPORTER_OTLP_PROTOCOL`` (or the signal's own) is ``grpc`` or ``http/protobuf``.

    Raises:
        Invalid: an exporter, protocol or share of traces that does not exist.
    """
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return Plan()
    return Plan(
        _exporters(environ, "TRACES"),
        _exporters(environ, "METRICS"),
        _protocol(environ, "TRACES"),
        _protocol(environ, "METRICS"),
        _sampled(environ),
    )


def _exporters(environ: Mapping[str, str], signal: str) -> tuple[str, ...]:
    variable = f"OTEL_{signal}_EXPORTER"
    text = environ.get(variable, "").strip().lower()
    if not text:
        wanted = environ.get(_ENDPOINT) or environ.get(f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT")
        return ("otlp",) if wanted else ()
    chosen = tuple(dict.fromkeys(one.strip() for one in text.split(",") if one.strip() not in {"", "none"}))
    for one in chosen:
        if one not in _EXPORTERS[signal]:
            raise Invalid(f"{variable}={text!r} is not known; use {', '.join(_EXPORTERS[signal])} or none")
    return chosen


def _protocol(environ: Mapping[str, str], signal: str) -> str:
    chosen = environ.get(f"OTEL_EXPORTER_OTLP_{signal}_PROTOCOL") or environ.get("OTEL_EXPORTER_OTLP_PROTOCOL") or ""
    protocol = chosen.strip().lower() or "grpc"
    if protocol not in _PROTOCOLS:
        raise Invalid(
            f"OTLP protocol {chosen!r} is not supported; set OTEL_EXPORTER_OTLP_PROTOCOL to grpc (a collector's port is "
            "usually 4317) or http/protobuf (4318)"
        )
    return protocol


def _sampled(environ: Mapping[str, str]) -> float | None:
    """Return the share that ``OTEL_TRACES_SAMPLER`` asks for, if its choice depends on nothing but the trace's id."""
    sampler = environ.get("OTEL_TRACES_SAMPLER", "").strip().lower()
    if sampler in {"always_off", "parentbased_always_off"}:
        return 0.0
    if sampler not in {"traceidratio", "parentbased_traceidratio"}:
        return None
    text = environ.get("OTEL_TRACES_SAMPLER_ARG", "").strip()
    try:
        share = float(text or 1.0)
    except ValueError:
        share = -1.0
    if not 0.0 <= share <= 1.0:
        raise Invalid(f"OTEL_TRACES_SAMPLER_ARG={text!r} is no share of the traces; give one from 0 to 1, such as 0.01")
    return share


def from_environment(
    service: str,
    *,
    instance: str = "",
    attributes: Mapping[str, str] | None = None,
    environ: Mapping[str, str] | None = None,
    publish: bool = False,
) -> Telemetry:
    """Return telemetry as the environment asks for, switched off if it does not ask.

    Args:
        service: default for ``OTEL_SERVICE_NAME``, for example ``amino-server`` or ``amino-client``.
        instance: ``service.instance.id``, for example the kernel server's name.
        attributes: more resource attributes; those of ``OTEL_RESOURCE_ATTRIBUTES`` win.
        environ: default ``os.environ``. Exporter details are always read from ``os.environ``, by the SDK.
        publish: also make ours OpenTelemetry's provider of the process, so that spans which microservices start
            through OpenTelemetry themselves are exported as children of their calls. For processes that are ours
            as a whole (the kernel process), never for a client.

    Raises:
        Invalid: see ``plan``.
    """
    if environ is None:
        environ = os.environ
    wanted = plan(environ)
    joined = _application_provider()
    if not wanted.on and joined is None:
        return Telemetry.disabled()
    from amino.telemetry.call_series import CallSeries
    from amino.telemetry.otel import OtelTelemetry

    if joined is not None:  # the application configured tracing itself; its spans and ours belong together
        from opentelemetry import metrics

        return OtelTelemetry(joined.get_tracer(names.SCOPE), metrics.get_meter(names.SCOPE))
    providers: list[TracerProvider | MeterProvider] = []
    resource = _resource(service, instance, attributes or {}, environ)
    series = CallSeries()
    tracer = _tracer(wanted, resource, providers) if wanted.traces else None
    meter = _meter(wanted, resource, providers, series) if wanted.metrics else None
    if publish:
        _publish(providers)
    telemetry = OtelTelemetry(
        tracer,
        meter,
        lambda timeout_s: _stop(providers, timeout_s),
        sampled=wanted.sampled,
        series=series,
        abiding=True,
    )
    if telemetry.metering:
        import psutil

        process = psutil.Process()
        telemetry.metrics.watch(names.PROCESS_MEMORY, lambda: [({}, float(process.memory_info().rss))])
    return telemetry


def _application_provider() -> Any:
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return None
    provider = trace.get_tracer_provider()
    if isinstance(provider, (trace.ProxyTracerProvider, trace.NoOpTracerProvider)):
        return None
    return provider


def _resource(service: str, instance: str, attributes: Mapping[str, str], environ: Mapping[str, str]) -> Resource:
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource

    ours: dict[str, str] = {"service.name": environ.get("OTEL_SERVICE_NAME") or service, **attributes}
    if instance:
        ours["service.instance.id"] = instance
    return Resource.create().merge(Resource(ours)).merge(OTELResourceDetector().detect())


def _tracer(wanted: Plan, resource: Resource, providers: list[TracerProvider | MeterProvider]) -> Any:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter

    from amino.telemetry.otel import Abiding, ChosenIds

    provider = TracerProvider(resource=resource, id_generator=ChosenIds(), shutdown_on_exit=False)
    provider.sampler = Abiding(provider.sampler)  # around the one that the SDK chose by the environment
    for exporter in wanted.traces:
        target = _otlp_spans(wanted.traces_protocol) if exporter == "otlp" else ConsoleSpanExporter()
        provider.add_span_processor(BatchSpanProcessor(target))
    providers.append(provider)
    return provider.get_tracer(names.SCOPE)


def _otlp_spans(protocol: str) -> SpanExporter:
    if protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc import trace_exporter as over_grpc

        return over_grpc.OTLPSpanExporter()
    from opentelemetry.exporter.otlp.proto.http import trace_exporter as over_http

    return over_http.OTLPSpanExporter()


def _meter(
    wanted: Plan, resource: Resource, providers: list[TracerProvider | MeterProvider], series: CallSeries
) -> Any:
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import ConsoleMetricExporter, MetricReader

    from amino.telemetry import readers

    found: list[MetricReader | None] = []
    for exporter in wanted.metrics:
        if exporter == "prometheus":
            found.append(readers.prometheus(series))
        else:
            target = _otlp_metrics(wanted.metrics_protocol) if exporter == "otlp" else ConsoleMetricExporter()
            found.append(readers.Pushing(target, series))
    provider = MeterProvider([each for each in found if each is not None], resource=resource, shutdown_on_exit=False)
    providers.append(provider)
    return provider.get_meter(names.SCOPE)


def _otlp_metrics(protocol: str) -> MetricExporter:
    if protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc import metric_exporter as over_grpc

        return over_grpc.OTLPMetricExporter()
    from opentelemetry.exporter.otlp.proto.http import metric_exporter as over_http

    return over_http.OTLPMetricExporter()


def _publish(providers: list[TracerProvider | MeterProvider]) -> None:
    from opentelemetry import metrics, trace
    from opentelemetry.sdk.trace import TracerProvider

    for provider in providers:
        if isinstance(provider, TracerProvider):
            trace.set_tracer_provider(provider)
        else:
            metrics.set_meter_provider(provider)


def _stop(providers: list[TracerProvider | MeterProvider], timeout_s: float) -> bool:
    """Shut all down at once in own threads: an exporter may wait for its collector for long."""
    threads = [threading.Thread(target=each.shutdown, name="amino-telemetry-stop", daemon=True) for each in providers]
    deadline = time.monotonic() + timeout_s
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return not any(thread.is_alive() for thread in threads)
