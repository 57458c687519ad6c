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
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider

_ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"


@dataclass(frozen=True, slots=True)
class Plan:
    """Which exporter is used for each signal: ``otlp``, ``console`` or ``none``."""

    traces: str = "none"
    metrics: str = "none"

    @property
    def on(self) -> bool:
        """Whether anything is exported."""
        return (self.traces, self.metrics) != ("none", "none")


def plan(environ: Mapping[str, str]) -> Plan:
    """Decide by the standard variables what is exported.

    ``OTEL_SDK_DISABLED=true`` ends it. ``OTEL_TRACES_EXPORTER`` and ``OTEL_METRICS_EXPORTER`` name the
    exporters. Where they are not set, a signal is exported if ``OTEL_EXPORTER_OTLP_ENDPOINT`` or the signal's
    own endpoint is set.

    Raises:
        Invalid: an exporter or protocol that Amino does not have.
    """
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return Plan()
    return Plan(_signal(environ, "TRACES"), _signal(environ, "METRICS"))


def _signal(environ: Mapping[str, str], signal: str) -> str:
    own_endpoint = f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT"
    variable = f"OTEL_{signal}_EXPORTER"
    chosen = environ.get(variable, "").strip().lower()
    if not chosen:
        chosen = "otlp" if environ.get(_ENDPOINT) or environ.get(own_endpoint) else "none"
    if chosen not in {"otlp", "console", "none"}:
        raise Invalid(f"{variable}={chosen!r} is not known; use otlp, console or none")
    if chosen == "otlp":
        protocol = environ.get(f"OTEL_EXPORTER_OTLP_{signal}_PROTOCOL") or environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
        if protocol and protocol.strip().lower() != "grpc":
            raise Invalid(
                f"OTLP protocol {protocol!r} is not supported; set OTEL_EXPORTER_OTLP_PROTOCOL=grpc and "
                "use the collector's gRPC port (usually 4317)"
            )
    return chosen


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
    from amino.telemetry.otel import OtelTelemetry

    if joined is not None:  # the application configured tracing itself; its spans and ours belong together
        from opentelemetry import metrics

        return OtelTelemetry(joined.get_tracer(names.SCOPE), metrics.get_meter(names.SCOPE))
    providers: list[TracerProvider | MeterProvider] = []
    resource = _resource(service, instance, attributes or {}, environ)
    tracer = _tracer(wanted.traces, resource, providers) if wanted.traces != "none" else None
    meter = _meter(wanted.metrics, resource, providers) if wanted.metrics != "none" else None
    if publish:
        _publish(providers)
    return OtelTelemetry(tracer, meter, lambda timeout_s: _stop(providers, timeout_s))


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


def _tracer(exporter: str, resource: Resource, providers: list[TracerProvider | MeterProvider]) -> Any:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter

    from amino.telemetry.otel import ChosenIds

    target: SpanExporter
    if exporter == "otlp":
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

        target = OTLPSpanExporter()
    else:
        target = ConsoleSpanExporter()
    provider = TracerProvider(resource=resource, id_generator=ChosenIds(), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(target))
    providers.append(provider)
    return provider.get_tracer(names.SCOPE)


def _meter(exporter: str, resource: Resource, providers: list[TracerProvider | MeterProvider]) -> Any:
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import (
        ConsoleMetricExporter,
        MetricExporter,
        PeriodicExportingMetricReader,
    )

    target: MetricExporter
    if exporter == "otlp":
        from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter

        target = OTLPMetricExporter()
    else:
        target = ConsoleMetricExporter()
    provider = MeterProvider([PeriodicExportingMetricReader(target)], resource=resource, shutdown_on_exit=False)
    providers.append(provider)
    return provider.get_meter(names.SCOPE)


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
