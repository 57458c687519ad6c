"""An OTLP collector on loopback, over gRPC and HTTP, that keeps in memory what it is sent.

Owns the server, the collected spans and metric points, and waiting for them. Leaves exporting to
``amino.telemetry``: point a process at it with ``environment()``.
Invariant: what ``wait_for`` sees only grows until ``clear``.
Failure behaviour: a time-out lists what has been collected.
"""

from __future__ import annotations

import gzip
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self

import grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as metrics_service
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2_grpc as metrics_rpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as trace_service
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as trace_rpc

from amino.aio.mode import offload
from amino.aio.signal import Signal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue


@dataclass(frozen=True, slots=True)
class CollectedSpan:
    """One span as it arrived; ids are hexadecimal, times are wall-clock nanoseconds; ``links`` are (trace id, span id)."""

    name: str
    service: str
    instance: str
    trace_id: str
    span_id: str
    parent_id: str
    start_ns: int
    end_ns: int
    kind: str
    error: str | None
    attributes: dict[str, Any] = field(default_factory=dict)
    events: tuple[str, ...] = ()
    links: tuple[tuple[str, str], ...] = ()

    @property
    def duration_s(self) -> float:
        """Seconds from start to end."""
        return (self.end_ns - self.start_ns) / 1e9


@dataclass(frozen=True, slots=True)
class CollectedPoint:
    """One data point of a metric: its value (of a histogram: the sum) and count."""

    name: str
    unit: str
    service: str
    value: float
    count: int
    attributes: dict[str, Any] = field(default_factory=dict)


class Collector:
    """Collects what processes export.

    Use it around what is to be seen::

        async with Collector() as collector:
            start_something(env=collector.environment())
            await collector.wait_for(lambda c: c.named("amino.method"))

    Attributes:
        spans: all spans so far, in order of arrival.
        points: all metric points so far, in order of arrival.
    """

    def __init__(self) -> None:
        self.spans: list[CollectedSpan] = []
        self.points: list[CollectedPoint] = []
        self._lock = threading.Lock()
        self._changed: Signal[None] = Signal()
        self._server: grpc.Server | None = None
        self._http: ThreadingHTTPServer | None = None
        self._port = 0

    def __repr__(self) -> str:
        return f"Collector({self.endpoint}, {len(self.spans)} spans, {len(self.points)} points)"

    @property
    def endpoint(self) -> str:
        """URL to export to."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def http_endpoint(self) -> str:
        """URL to export to over HTTP."""
        return f"http://127.0.0.1:{self._http.server_address[1] if self._http is not None else 0}"

    def environment(self, service: str = "", *, protocol: str = "grpc") -> dict[str, str]:
        """Return the variables that make a process export here soon after each span ends.

        Args:
            service: ``OTEL_SERVICE_NAME``; empty leaves the process its own.
            protocol: ``grpc`` or ``http/protobuf``.
        """
        variables = {
            "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.endpoint if protocol == "grpc" else self.http_endpoint,
            "OTEL_EXPORTER_OTLP_INSECURE": "true",
            "OTEL_BSP_SCHEDULE_DELAY": "50",
            "OTEL_METRIC_EXPORT_INTERVAL": "200",
        }
        if service:
            variables["OTEL_SERVICE_NAME"] = service
        return variables

    async def start(self) -> None:
        """Listen on free loopback ports."""
        server = grpc.server(ThreadPoolExecutor(4, "amino-collector"), options=[("grpc.so_reuseport", 0)])
        trace_rpc.add_TraceServiceServicer_to_server(_Traces(self), server)  # type: ignore[no-untyped-call]
        metrics_rpc.add_MetricsServiceServicer_to_server(_Metrics(self), server)  # type: ignore[no-untyped-call]
        self._port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        self._server = server
        self._http = _HttpServer(("127.0.0.1", 0), _handler(self))
        threading.Thread(
            target=self._http.serve_forever, args=(0.05,), name="amino-collector-http", daemon=True
        ).start()

    async def aclose(self) -> None:
        """Stop listening. Idempotent."""
        server, self._server = self._server, None
        if server is not None:
            await offload(server.stop(0.2).wait)
        http, self._http = self._http, None
        if http is not None:
            await offload(http.shutdown)
            http.server_close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def clear(self) -> None:
        """Forget everything collected so far."""
        with self._lock:
            self.spans, self.points = [], []

    def named(self, name: str, **attributes: Any) -> list[CollectedSpan]:
        """Return the spans of that name; keyword ``method="add"`` also compares attribute ``amino.method``."""
        wanted = {f"amino.{key}": value for key, value in attributes.items()}
        return [
            span
            for span in list(self.spans)
            if span.name == name and all(span.attributes.get(key) == value for key, value in wanted.items())
        ]

    def metric(self, name: str) -> list[CollectedPoint]:
        """Return the points of the metric of that name."""
        return [point for point in list(self.points) if point.name == name]

    def trace(self, trace_id: str) -> list[CollectedSpan]:
        """Return the spans of one trace, by start."""
        return sorted((span for span in list(self.spans) if span.trace_id == trace_id), key=lambda span: span.start_ns)

    def ancestry(self, span: CollectedSpan) -> list[str]:
        """Return the names from the root of ``span``'s trace down to ``span``; ``?`` for a parent not collected."""
        by_id = {each.span_id: each for each in list(self.spans) if each.trace_id == span.trace_id}
        path = [span.name]
        while span.parent_id:
            parent = by_id.get(span.parent_id)
            if parent is None:
                path.append("?")
                break
            path.append(parent.name)
            span = parent
        return path[::-1]

    async def wait_for(self, predicate: Callable[[Collector], object], timeout_s: float = 60.0) -> None:
        """Wait until ``predicate(self)`` is true; asked again after each export.

        Raises:
            TimeoutError: not within ``timeout_s`` seconds; the message lists what has arrived.
        """
        until = time.monotonic() + timeout_s
        while True:
            changed = self._changed
            if predicate(self):
                return
            try:
                await changed.wait(max(until - time.monotonic(), 0.0))
            except TimeoutError as error:
                seen = sorted({span.name for span in self.spans} | {point.name for point in self.points})
                raise TimeoutError(
                    f"not collected within {timeout_s} s; so far: {', '.join(seen) or 'nothing'}"
                ) from error

    def collect(self, spans: Iterable[CollectedSpan], points: Iterable[CollectedPoint]) -> None:
        """Take what arrived and wake those who wait; from any thread."""
        with self._lock:
            self.spans = [*self.spans, *spans]
            self.points = [*self.points, *points]
            changed, self._changed = self._changed, Signal()
        changed.set(None)


_KINDS = ("unspecified", "internal", "server", "client", "producer", "consumer")
_STATUS_ERROR = 2


class _Traces(trace_rpc.TraceServiceServicer):
    def __init__(self, collector: Collector) -> None:
        self._collector = collector

    def Export(self, request: Any, context: Any) -> Any:  # noqa: N802, ARG002 - the generated service's name
        found = []
        for group in request.resource_spans:
            resource = _plain(group.resource.attributes)
            for scope in group.scope_spans:
                found += [
                    CollectedSpan(
                        name=span.name,
                        service=str(resource.get("service.name", "")),
                        instance=str(resource.get("service.instance.id", "")),
                        trace_id=span.trace_id.hex(),
                        span_id=span.span_id.hex(),
                        parent_id=span.parent_span_id.hex(),
                        start_ns=span.start_time_unix_nano,
                        end_ns=span.end_time_unix_nano,
                        kind=_KINDS[span.kind],
                        error=span.status.message if span.status.code == _STATUS_ERROR else None,
                        attributes=_plain(span.attributes),
                        events=tuple(event.name for event in span.events),
                        links=tuple((link.trace_id.hex(), link.span_id.hex()) for link in span.links),
                    )
                    for span in scope.spans
                ]
        self._collector.collect(found, ())
        return trace_service.ExportTraceServiceResponse()


class _Metrics(metrics_rpc.MetricsServiceServicer):
    def __init__(self, collector: Collector) -> None:
        self._collector = collector

    def Export(self, request: Any, context: Any) -> Any:  # noqa: N802, ARG002 - the generated service's name
        found = []
        for group in request.resource_metrics:
            service = str(_plain(group.resource.attributes).get("service.name", ""))
            for scope in group.scope_metrics:
                for metric in scope.metrics:
                    found += [
                        CollectedPoint(metric.name, metric.unit, service, value, count, _plain(point.attributes))
                        for point, value, count in _points(metric)
                    ]
        self._collector.collect((), found)
        return metrics_service.ExportMetricsServiceResponse()


class _HttpServer(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False


def _handler(collector: Collector) -> type[BaseHTTPRequestHandler]:
    services: dict[str, tuple[Any, Any]] = {
        "/v1/traces": (trace_service.ExportTraceServiceRequest, _Traces(collector)),
        "/v1/metrics": (metrics_service.ExportMetricsServiceRequest, _Metrics(collector)),
    }

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            request, service = services[self.path]
            answer = service.Export(request.FromString(body), None).SerializeToString()
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - quiet
            pass

    return Handler


def _points(metric: Any) -> Iterable[tuple[Any, float, int]]:
    form = metric.WhichOneof("data")
    for point in getattr(metric, form).data_points:
        if form == "histogram":
            yield point, point.sum, point.count
        else:
            yield point, float(getattr(point, point.WhichOneof("value"))), 1


def _plain(attributes: Iterable[KeyValue]) -> dict[str, Any]:
    return {each.key: _value(each.value) for each in attributes}


def _value(value: AnyValue) -> Any:
    form = value.WhichOneof("value")
    if form == "array_value":
        return [_value(each) for each in value.array_value.values]
    if form is None or form == "kvlist_value":
        return None
    return getattr(value, form)
