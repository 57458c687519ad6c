"""Telemetry that keeps in memory what it records, for the tests of whatever is recorded."""

from __future__ import annotations

from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased, ParentBasedTraceIdRatio

from amino.telemetry import names
from amino.telemetry.call_series import CallSeries
from amino.telemetry.otel import Abiding, ChosenIds, OtelTelemetry


class Recorded:
    """What ``telemetry`` records.

    Args:
        sampled: share of new traces; None for all, decided by the sampler. tracing, metering: whether it does.
        abiding: as ``setup`` makes it; False as where an application brings its own.
    """

    def __init__(
        self, *, sampled: float | None = None, tracing: bool = True, metering: bool = True, abiding: bool = True
    ) -> None:
        self.exporter = InMemorySpanExporter()
        sampler = ParentBased(ALWAYS_ON) if sampled is None else ParentBasedTraceIdRatio(sampled)
        self.provider = TracerProvider(
            id_generator=ChosenIds(), shutdown_on_exit=False, sampler=Abiding(sampler) if abiding else sampler
        )
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.meters = MeterProvider([InMemoryMetricReader()], shutdown_on_exit=False)
        self.series = CallSeries()
        self.telemetry = OtelTelemetry(
            self.provider.get_tracer(names.SCOPE) if tracing else None,
            self.meters.get_meter(names.SCOPE) if metering else None,
            sampled=sampled,
            series=self.series,
            abiding=abiding,
        )

    def spans(self, name: str = "") -> list[ReadableSpan]:
        """Return the finished spans (of that name), in the order in which they ended."""
        return [span for span in self.exporter.get_finished_spans() if name in ("", span.name)]

    def calls(self) -> dict[tuple[Any, ...], int]:
        """Return how many calls were counted by (side, method, managers, outcome)."""
        keys = (names.SIDE, names.METHOD_NAME, names.DMS, names.OUTCOME)
        return {
            tuple(point.attributes[key] for key in keys): point.value
            for metric in self.series.metrics()
            if metric.name == names.CALLS
            for point in metric.data.data_points
        }


def context_of(span: ReadableSpan) -> str:
    """Return the traceparent of ``span``, without flags."""
    return f"00-{span.context.trace_id:032x}-{span.context.span_id:016x}"
