"""Spans and metrics on OpenTelemetry; imported only when telemetry is on.

Owns the translation between our interface and OpenTelemetry's. Leaves providers and exporters to ``setup``.
Invariants: the current span lives in OpenTelemetry's own context, so an application's spans and ours nest in
each other; attribute sets of metrics are bounded by the number of methods.
Failure behaviour: as ``trace``: nothing raises into a call.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from contextvars import ContextVar
from typing import TYPE_CHECKING, Self

from opentelemetry import context as otel_context
from opentelemetry import trace as otel_trace
from opentelemetry.metrics import CallbackOptions, Counter, Histogram, Meter, Observation
from opentelemetry.sdk.trace.id_generator import IdGenerator, RandomIdGenerator
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState
from opentelemetry.trace.propagation import set_span_in_context

from amino.aio import mode
from amino.telemetry import names
from amino.telemetry.metrics import Metrics, Reading
from amino.telemetry.trace import Attributes, Kind, Span, Telemetry, Value, failover_traceparent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from contextvars import Token
    from types import TracebackType

    from opentelemetry.context import Context

_log = logging.getLogger("amino.telemetry")

_KINDS: dict[str, SpanKind] = {
    "internal": SpanKind.INTERNAL,
    "client": SpanKind.CLIENT,
    "server": SpanKind.SERVER,
    "producer": SpanKind.PRODUCER,
    "consumer": SpanKind.CONSUMER,
}
_DURATION_BOUNDS_S = (
    0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
    10.0, 30.0,
)  # fmt: skip
_SIZE_BOUNDS = tuple(float(4**power) for power in range(4, 16))
_METHODS_MAX = 10_000

_chosen_ids: ContextVar[tuple[int, int] | None] = ContextVar("amino_chosen_ids", default=None)


class ChosenIds(IdGenerator):
    """Random ids, except for a span whose ids were agreed on beforehand (the root of a failover)."""

    def __init__(self) -> None:
        self._random = RandomIdGenerator()

    def generate_trace_id(self) -> int:
        """Return the trace id of a new root span."""
        chosen = _chosen_ids.get()
        return chosen[0] if chosen is not None else self._random.generate_trace_id()

    def generate_span_id(self) -> int:
        """Return the id of a new span."""
        chosen = _chosen_ids.get()
        return chosen[1] if chosen is not None else self._random.generate_span_id()

    def is_trace_id_random(self) -> bool:
        """Return whether trace ids are random in W3C's sense; agreed ones are hashes."""
        return _chosen_ids.get() is None


class OtelSpan(Span):
    """A recorded span."""

    __slots__ = ("_failed", "_span", "_token")

    def __init__(self, span: otel_trace.Span) -> None:
        self._span = span
        self._failed = False
        self._token: Token[Context] | None = None

    def __repr__(self) -> str:
        return f"OtelSpan({self.traceparent()})"

    @property
    def recording(self) -> bool:
        """Whether the sampler chose this span and it has not ended."""
        return self._span.is_recording()

    def set(self, key: str, value: Value) -> None:
        """Set one attribute."""
        self._span.set_attribute(key, value)

    def event(self, name: str, attributes: Attributes | None = None, *, at_ns: int | None = None) -> None:
        """Note a moment within the span."""
        self._span.add_event(name, dict(attributes) if attributes else None, timestamp=at_ns)

    def error(self, error: BaseException | str) -> None:
        """Mark the span as failed and record the exception or message."""
        self._failed = True
        if isinstance(error, BaseException):
            self._span.record_exception(error)
            self._span.set_status(Status(StatusCode.ERROR, f"{type(error).__name__}: {error}"))
        else:
            self._span.set_status(Status(StatusCode.ERROR, error))

    def traceparent(self) -> str | None:
        """Return what names this span as a parent in another process."""
        return _format(self._span.get_span_context())

    def end(self, *, at_ns: int | None = None) -> None:
        """End the span. Idempotent."""
        if self._span.is_recording():
            self._span.end(at_ns)

    def __enter__(self) -> Self:
        self._token = otel_context.attach(set_span_in_context(self._span))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and not self._failed:
            if isinstance(error, (asyncio.CancelledError, GeneratorExit)):
                self._span.set_status(Status(StatusCode.ERROR, "cancelled"))
            else:
                self.error(error)
        if self._token is not None:
            otel_context.detach(self._token)
            self._token = None
        self.end()


class OtelTelemetry(Telemetry):
    """Telemetry switched on.

    Args:
        tracer: records spans; None when only metrics are wanted. meter: records metrics; None when only
        traces are wanted. stop: exports what is left and stops the providers, within the seconds given;
        returns whether it all went.
    """

    __slots__ = ("_closed", "_stop", "_tracer")

    def __init__(
        self,
        tracer: otel_trace.Tracer | None,
        meter: Meter | None,
        stop: Callable[[float], bool] | None = None,
    ) -> None:
        super().__init__()
        self._tracer = tracer or otel_trace.NoOpTracer()
        self._stop = stop
        self._closed = False
        self.tracing = tracer is not None
        self.metering = meter is not None
        self.observing = self.tracing or self.metering
        if meter is not None:
            self.metrics = OtelMetrics(meter)

    def span(
        self,
        name: str,
        *,
        kind: Kind = "internal",
        parent: str | None = None,
        attributes: Attributes | None = None,
    ) -> Span:
        """Return a started span to be used with ``with``."""
        return OtelSpan(self._tracer.start_span(name, _parent(parent), _KINDS[kind], attributes))

    def start_span(
        self,
        name: str,
        *,
        kind: Kind = "internal",
        parent: str | None = None,
        attributes: Attributes | None = None,
        start_ns: int | None = None,
    ) -> Span:
        """Return a started long-lived span."""
        span = self._tracer.start_span(name, _parent(parent), _KINDS[kind], attributes, start_time=start_ns)
        return OtelSpan(span)

    def emit(
        self,
        name: str,
        *,
        start_ns: int,
        end_ns: int,
        parent: str | None = None,
        attributes: Attributes | None = None,
        error: str | None = None,
    ) -> str | None:
        """Record a span that is already over; its end is never before its start."""
        span = self.start_span(name, parent=parent, attributes=attributes, start_ns=start_ns)
        if error is not None:
            span.error(error)
        span.end(at_ns=max(start_ns, end_ns))
        return span.traceparent()

    def emit_failover(
        self, cluster: str, server: str, incarnation: int, *, kind: str, start_ns: int, end_ns: int
    ) -> None:
        """Record the root span of a failover under its agreed ids."""
        _, trace_id, span_id, _ = failover_traceparent(cluster, server, incarnation).split("-")
        token = _chosen_ids.set((int(trace_id, 16), int(span_id, 16)))
        attributes: Attributes = {
            names.CLUSTER: cluster,
            names.SERVER: server,
            names.INCARNATION: incarnation,
            names.KIND: kind,
        }
        try:
            span = self._tracer.start_span(
                names.FAILOVER, otel_context.Context(), SpanKind.INTERNAL, attributes, start_time=start_ns
            )
        finally:
            _chosen_ids.reset(token)
        span.end(max(start_ns, end_ns))

    def traceparent(self) -> str | None:
        """Return the current span's W3C traceparent, with tracestate if there is one."""
        return _format(otel_trace.get_current_span().get_span_context())

    async def aclose(self, timeout_s: float = 2.0) -> bool:
        """Export what is left and stop; gives up after ``timeout_s`` seconds."""
        if self._closed or self._stop is None:
            return True
        self._closed = True
        return await mode.offload(self._stop, timeout_s)


def _format(context: SpanContext) -> str | None:
    if not context.is_valid:
        return None
    text = f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"
    return f"{text} {context.trace_state.to_header()}" if context.trace_state else text


def _parent(text: str | None) -> Context | None:
    """Return the context for ``parent=text``; None is the current one, an empty one starts a new trace."""
    if text is None:
        return None
    head, _, state = text.partition(" ")
    parts = head.split("-")
    try:
        if len(parts) < 4 or (len(parts[1]), len(parts[2])) != (32, 16) or parts[0] == "ff":
            return otel_context.Context()
        span_context = SpanContext(
            int(parts[1], 16),
            int(parts[2], 16),
            is_remote=True,
            trace_flags=TraceFlags(int(parts[3], 16) & 3),
            trace_state=TraceState.from_header([state]) if state else None,
        )
    except ValueError:
        return otel_context.Context()
    if not span_context.is_valid:
        return otel_context.Context()
    return set_span_in_context(otel_trace.NonRecordingSpan(span_context))


class OtelMetrics(Metrics):
    """The instruments on one OpenTelemetry meter."""

    __slots__ = (
        "_calls", "_checkpoints", "_counted", "_durations", "_failover_s", "_failovers", "_gauges", "_refused",
        "_sizes", "_timed", "_written_s",
    )  # fmt: skip

    def __init__(self, meter: Meter) -> None:
        def histogram(name: str, bounds: Iterable[float]) -> Histogram:
            unit, text = names.METRICS[name]
            return meter.create_histogram(name, unit, text, explicit_bucket_boundaries_advisory=list(bounds))

        def counter(name: str) -> Counter:
            unit, text = names.METRICS[name]
            return meter.create_counter(name, unit, text)

        self._calls = counter(names.CALLS)
        self._durations = histogram(names.CALL_DURATION, _DURATION_BOUNDS_S)
        self._failovers = counter(names.FAILOVERS)
        self._failover_s = histogram(names.FAILOVER_DURATION, _DURATION_BOUNDS_S)
        self._checkpoints = counter(names.CHECKPOINTS)
        self._sizes = histogram(names.CHECKPOINT_SIZE, _SIZE_BOUNDS)
        self._written_s = histogram(names.CHECKPOINT_DURATION, _DURATION_BOUNDS_S)
        self._refused = counter(names.REFUSED)
        self._gauges = {
            names.QUEUE_DEPTH: _Gauge(meter, names.QUEUE_DEPTH, names.QUEUE),
            names.SESSION_VALIDITY: _Gauge(meter, names.SESSION_VALIDITY, names.SERVER),
            names.REPLICATION_LAG: _Gauge(meter, names.REPLICATION_LAG, names.REPLICA),
        }
        self._counted: dict[tuple[str, str, str], dict[str, str]] = {}
        self._timed: dict[tuple[str, str], dict[str, str]] = {}

    def call(self, side: str, method: str, outcome: str, duration_s: float) -> None:
        """Count one call and its duration."""
        counted = self._counted.get((side, method, outcome))
        if counted is None:
            if len(self._counted) >= _METHODS_MAX:
                method = "other"
            counted = {names.SIDE: side, names.METHOD_NAME: method, names.OUTCOME: outcome}
            self._counted[side, method, outcome] = counted
        timed = self._timed.get((side, method))
        if timed is None:
            timed = self._timed[side, method] = {names.SIDE: side, names.METHOD_NAME: method}
        self._calls.add(1, counted)
        self._durations.record(duration_s, timed)

    def failover(self, kind: str, duration_s: float) -> None:
        """Count one recovered loss of an incarnation."""
        self._failovers.add(1, {names.KIND: kind})
        self._failover_s.record(duration_s, {names.KIND: kind})

    def checkpoint(self, size_bytes: int, duration_s: float, *, ok: bool = True) -> None:
        """Count one checkpoint, its size and its time."""
        self._checkpoints.add(1, {names.OUTCOME: "ok" if ok else "failed"})
        if ok:
            self._sizes.record(size_bytes)
            self._written_s.record(duration_s)

    def refused(self, reason: str) -> None:
        """Count one refused piece of input."""
        self._refused.add(1, {names.REASON: reason})

    def watch_queue(self, queue: str, read: Reading) -> Callable[[], None]:
        """Show the depth of ``queue`` at each export."""
        return self._gauges[names.QUEUE_DEPTH].watch(queue, read)

    def watch_session(self, server: str, read: Reading) -> Callable[[], None]:
        """Show the session validity of ``server`` at each export."""
        return self._gauges[names.SESSION_VALIDITY].watch(server, read)

    def watch_replication_lag(self, replica: str, read: Reading) -> Callable[[], None]:
        """Show a group's lag at each export."""
        return self._gauges[names.REPLICATION_LAG].watch(replica, read)


class _Gauge:
    """One observable gauge over readings that come and go (OpenTelemetry's callbacks cannot be taken away)."""

    def __init__(self, meter: Meter, name: str, label: str) -> None:
        self._label = label
        self._lock = threading.Lock()
        self._readings: dict[object, tuple[str, Reading]] = {}
        unit, text = names.METRICS[name]
        meter.create_observable_gauge(name, [self._observe], unit, text)

    def watch(self, value: str, read: Reading) -> Callable[[], None]:
        key = object()
        with self._lock:
            self._readings[key] = (value, read)

        def end() -> None:
            with self._lock:
                self._readings.pop(key, None)

        return end

    def _observe(self, _options: CallbackOptions) -> Iterable[Observation]:
        with self._lock:
            readings = list(self._readings.values())
        for value, read in readings:
            try:
                yield Observation(read(), {self._label: value})
            except Exception:  # noqa: BLE001 - a reading belongs to a component; its bug must not stop the export
                _log.exception("a gauge could not be read")
