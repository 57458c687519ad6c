"""Exporters of metrics that also show the calls, which are counted beside OpenTelemetry's instruments.

Owns adding ``CallSeries`` to what a reader collects, and the endpoint for Prometheus. Leaves wire formats to the exporters.
Invariant: calls are exported with the same resource and in the same scope as everything else: of two scopes that are equal the
exporters for OTLP send the last one only.
Failure behaviour: an endpoint that cannot be opened is logged, and the process works without it.
"""

from __future__ import annotations

import logging
import os
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.metrics.export import (
    MetricsData,
    PeriodicExportingMetricReader,
    ScopeMetrics,
)
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from amino.errors import Invalid
from amino.telemetry import names

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import MetricExporter, MetricReader

    from amino.telemetry.call_series import CallSeries

_log = logging.getLogger("amino.telemetry")
_HOST, _PORT = "OTEL_EXPORTER_PROMETHEUS_HOST", "OTEL_EXPORTER_PROMETHEUS_PORT"
PORT_DEFAULT = 9464


def with_calls(data: MetricsData, series: CallSeries) -> MetricsData:
    """Return ``data`` with the calls counted so far."""
    calls = series.metrics()
    if not calls or not data.resource_metrics:
        return data
    first, *others = data.resource_metrics
    scopes = list(first.scope_metrics)
    place = next((place for place, each in enumerate(scopes) if each.scope.name == names.SCOPE), len(scopes))
    ours = scopes[place] if place < len(scopes) else ScopeMetrics(InstrumentationScope(names.SCOPE), [], "")
    scopes[place : place + 1] = [replace(ours, metrics=[*ours.metrics, *calls])]
    return MetricsData([replace(first, scope_metrics=scopes), *others])


class Pushing(PeriodicExportingMetricReader):
    """Exports now and then, as ``OTEL_METRIC_EXPORT_INTERVAL`` says."""

    def __init__(self, exporter: MetricExporter, series: CallSeries, interval_ms: float | None = None) -> None:
        self._series = series
        super().__init__(exporter, interval_ms)

    def _receive_metrics(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any) -> None:
        super()._receive_metrics(with_calls(metrics_data, self._series), timeout_millis, **kwargs)


def prometheus(series: CallSeries) -> MetricReader | None:
    """Open the endpoint for Prometheus, at ``OTEL_EXPORTER_PROMETHEUS_HOST`` and ``..._PORT``; None if that cannot be done.

    Raises:
        Invalid: the port is none.
    """
    from opentelemetry.exporter.prometheus import PrometheusMetricReader
    from prometheus_client import CollectorRegistry, start_http_server
    from prometheus_client.platform_collector import PlatformCollector
    from prometheus_client.process_collector import ProcessCollector

    class Scraped(PrometheusMetricReader):
        def _receive_metrics(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any) -> None:
            super()._receive_metrics(with_calls(metrics_data, series), timeout_millis, **kwargs)

        def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
            super().shutdown(timeout_millis, **kwargs)
            threading.Thread(target=server.shutdown, name="amino-prometheus-stop", daemon=True).start()
            server.server_close()

    host, port = os.environ.get(_HOST) or "localhost", os.environ.get(_PORT) or str(PORT_DEFAULT)
    if not port.isdigit() or int(port) > 65_535:
        raise Invalid(f"{_PORT}={port!r} is no port; give one from 0 to 65535")
    registry = CollectorRegistry(auto_describe=False)
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    try:
        server, _ = start_http_server(int(port), host, registry)
    except OSError as error:
        _log.error("no endpoint for Prometheus at %s:%s (%s); set %s to a free port", host, port, error, _PORT)
        return None
    _log.info("metrics for Prometheus at http://%s:%d/metrics", host, server.server_address[1])
    return Scraped(registry=registry, scope_info_enabled=False)
