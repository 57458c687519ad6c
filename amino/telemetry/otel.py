"""Spans on OpenTelemetry; imported only when telemetry is on.

Owns the translation between our interface and OpenTelemetry's. Leaves metrics to ``otel_metrics``, providers and exporters to
``setup``.
Invariants: the current span lives in OpenTelemetry's own context, so an application's spans and ours nest in
each other; a call that is not sampled costs no span anywhere, and what its method traces itself is not sampled either.
Failure behaviour: as ``trace``: nothing raises into a call.
"""

from __future__ import annotations

import asyncio
import random
from contextvars import ContextVar
from functools import lru_cache
from typing import TYPE_CHECKING, Self

from opentelemetry import context as otel_context
from opentelemetry import trace as otel_trace
from opentelemetry.metrics import Meter
from opentelemetry.sdk.trace.id_generator import IdGenerator, RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState
from opentelemetry.trace.propagation import set_span_in_context

from amino.aio import mode
from amino.telemetry import names, trace
from amino.telemetry.otel_metrics import OtelMetrics
from amino.telemetry.trace import (
    UNDECIDED,
    Attributes,
    Kind,
    Span,
    Telemetry,
    Value,
    failover_traceparent,
    is_unsampled,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextvars import Token
    from types import TracebackType

    from opentelemetry.context import Context
    from opentelemetry.util.types import Attributes as OtelAttributes

    from amino.telemetry.call_series import CallSeries

_KINDS: dict[str, SpanKind] = {
    "internal": SpanKind.INTERNAL,
    "client": SpanKind.CLIENT,
    "server": SpanKind.SERVER,
    "producer": SpanKind.PRODUCER,
    "consumer": SpanKind.CONSUMER,
}
_chosen_ids: ContextVar[tuple[int, int] | None] = ContextVar("amino_chosen_ids", default=None)
_chosen_low: ContextVar[int] = ContextVar("amino_chosen_low", default=0)
_LOW_BITS = 64


class ChosenIds(IdGenerator):
    """Random ids, except for a span whose ids were agreed on beforehand: the root of a failover, a call chosen to be sampled."""

    def __init__(self) -> None:
        self._random = RandomIdGenerator()

    def generate_trace_id(self) -> int:
        """Return the trace id of a new root span."""
        chosen = _chosen_ids.get()
        if chosen is not None:
            return chosen[0]
        low = _chosen_low.get()
        if low:
            return random.getrandbits(_LOW_BITS) << _LOW_BITS | low
        return self._random.generate_trace_id()

    def generate_span_id(self) -> int:
        """Return the id of a new span."""
        chosen = _chosen_ids.get()
        return chosen[1] if chosen is not None else self._random.generate_span_id()

    def is_trace_id_random(self) -> bool:
        """Return whether trace ids are random in W3C's sense; agreed ones are hashes."""
        return _chosen_ids.get() is None


class Abiding(Sampler):
    """Leaves out new traces that are begun within a call which is left out; all else is ``sampler``'s to decide."""

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: OtelAttributes = None,
        links: Sequence[otel_trace.Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        """Decide on a span; one whose context was given has a parent, or none by intent."""
        if (
            parent_context is None
            and is_unsampled(trace.call_traceparent())
            and not otel_trace.get_current_span().get_span_context().is_valid
        ):
            return SamplingResult(Decision.DROP)
        return self._sampler.should_sample(parent_context, trace_id, name, kind, attributes, links, trace_state)

    def get_description(self) -> str:
        """Name it, and what it asks."""
        return f"Abiding({self._sampler.get_description()})"


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
            self._span.set_attribute(names.ERROR_TYPE, type(error).__qualname__)
        else:
            self._span.set_status(Status(StatusCode.ERROR, error))

    def link(self, traceparent: str) -> None:
        """Note that the span has to do with another trace's span."""
        for context in _linked((traceparent,)):
            self._span.add_link(context)

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


class _Inside(Span):
    """Makes a span of another process the current one."""

    __slots__ = ("_context", "_token")

    def __init__(self, context: Context) -> None:
        self._context = context
        self._token: Token[Context] | None = None

    def __enter__(self) -> Self:
        self._token = otel_context.attach(self._context)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._token is not None:
            otel_context.detach(self._token)
            self._token = None


class OtelTelemetry(Telemetry):
    """Telemetry switched on.

    Args:
        tracer: records spans; None when only metrics are wanted. meter: records metrics; None when only
        traces are wanted. stop: exports what is left and stops the providers, within the seconds given;
        returns whether it all went.
        sampled: the share (0 to 1) of new traces that the tracer's sampler chooses by their ids, if that is what it does and its
            ids are ``ChosenIds``; None leaves each choice to the sampler.
        series: counts calls where the exporter of the metrics is ours.
        abiding: whether the tracer's sampler is an ``Abiding`` one.
    """

    __slots__ = ("_bound", "_closed", "_left_out", "_stop", "_tracer")

    def __init__(
        self,
        tracer: otel_trace.Tracer | None,
        meter: Meter | None,
        stop: Callable[[float], bool] | None = None,
        *,
        sampled: float | None = None,
        series: CallSeries | None = None,
        abiding: bool = False,
    ) -> None:
        super().__init__()
        self._bound = None if sampled is None else round(sampled * (1 << _LOW_BITS))
        self._left_out = f"00-{random.getrandbits(128) or 1:032x}-{random.getrandbits(64) or 1:016x}-00"
        self._tracer = tracer or otel_trace.NoOpTracer()
        self._stop = stop
        self._closed = False
        self.tracing = tracer is not None
        self.metering = meter is not None
        self.observing = self.tracing or self.metering
        self.surrounds = self.tracing and not abiding
        if meter is not None:
            self.metrics = OtelMetrics(meter, series)
        if tracer is not None:
            trace.read_current = self.traceparent
            nowhere = _remote(self._left_out)
            trace.make_left_out = lambda: _Inside(nowhere)

    def span(
        self,
        name: str,
        *,
        kind: Kind = "internal",
        parent: str | None = None,
        attributes: Attributes | None = None,
        ticket: int = UNDECIDED,
    ) -> Span:
        """Return a started span to be used with ``with``."""
        if ticket == UNDECIDED:
            return OtelSpan(self._tracer.start_span(name, _parent(parent), _KINDS[kind], attributes))
        token = _chosen_low.set(ticket)
        try:
            return OtelSpan(self._tracer.start_span(name, _parent(parent), _KINDS[kind], attributes))
        finally:
            _chosen_low.reset(token)

    def choose(self, parent: str | None) -> str | int:
        """Decide whether a call is left out of the traces."""
        if parent is not None:
            return parent if is_unsampled(parent) else UNDECIDED
        if otel_context.get_current():  # empty almost always, and far cheaper to ask than for the span in it
            current = otel_trace.get_current_span().get_span_context()
            if current.is_valid:
                return UNDECIDED if current.trace_flags.sampled else _format(current) or UNDECIDED
        if self._bound is None:
            return UNDECIDED
        low = random.getrandbits(_LOW_BITS) or 1
        return low if low < self._bound else self._left_out

    def inside(self, traceparent: str) -> Span:
        """Return what makes ``traceparent`` the current span."""
        return _Inside(_remote(traceparent))

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
        links: Sequence[str] = (),
    ) -> str | None:
        """Record a span that is already over; its end is never before its start."""
        span = self.start_span(name, parent=parent, attributes=attributes, start_ns=start_ns)
        for link in links:
            span.link(link)
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
        """Return the current span's W3C traceparent, with tracestate if there is one; else that of a call that is left out."""
        current = _format(otel_trace.get_current_span().get_span_context())
        if current is None:
            of_call = trace.call_traceparent()
            return of_call if is_unsampled(of_call) else None
        return current

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
    span_context = _parsed(text)
    if span_context is None:
        return otel_context.Context()
    return set_span_in_context(otel_trace.NonRecordingSpan(span_context))


def _linked(texts: Sequence[str]) -> list[SpanContext]:
    return [context for context in map(_parsed, texts) if context is not None]


@lru_cache(maxsize=64)  # what is left out of the traces has one traceparent for each client
def _remote(text: str) -> Context:
    span = otel_trace.NonRecordingSpan(_parsed(text) or otel_trace.INVALID_SPAN_CONTEXT)
    return set_span_in_context(span, otel_context.Context())


def _parsed(text: str) -> SpanContext | None:
    """Return what a traceparent, with tracestate or without, names; None if it is malformed."""
    head, _, state = text.partition(" ")
    parts = head.split("-")
    try:
        if len(parts) < 4 or (len(parts[1]), len(parts[2])) != (32, 16) or parts[0] == "ff":
            return None
        span_context = SpanContext(
            int(parts[1], 16),
            int(parts[2], 16),
            is_remote=True,
            trace_flags=TraceFlags(int(parts[3], 16) & 3),
            trace_state=TraceState.from_header([state]) if state else None,
        )
    except ValueError:
        return None
    return span_context if span_context.is_valid else None
