"""The instruments on OpenTelemetry, read back through its in-memory reader."""

from __future__ import annotations

import logging
import threading

import pytest
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import Gauge, Histogram, InMemoryMetricReader, Sum

from amino.telemetry import names
from amino.telemetry.call_series import CallSeries
from amino.telemetry.otel import OtelTelemetry
from amino.telemetry.readers import with_calls


class Read:
    """Telemetry whose metrics are read on demand."""

    def __init__(self):
        self.reader = InMemoryMetricReader()
        self.provider = MeterProvider([self.reader], shutdown_on_exit=False)
        self.telemetry = OtelTelemetry(None, self.provider.get_meter(names.SCOPE))
        self.metrics = self.telemetry.metrics

    def points(self, name):
        data = self.reader.get_metrics_data()
        if data is None:
            return []
        return [
            point
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
            for point in metric.data.data_points
        ]


@pytest.fixture
def read():
    made = Read()
    yield made
    made.provider.shutdown()


def test_calls_are_counted_by_outcome_and_timed_by_method(read):
    """Outcomes have a counter each; durations one histogram per method."""
    assert read.telemetry.metering
    assert not read.telemetry.tracing
    for outcome in (names.OUTCOME_RESULT, names.OUTCOME_RESULT, names.OUTCOME_UNKNOWN):
        read.metrics.calls(names.SIDE_SERVER, "Counter.add", "").add(outcome, 0.002)
    counted = {point.attributes[names.OUTCOME]: point.value for point in read.points(names.CALLS)}
    assert counted == {"result": 2, "unknown": 1}
    (timed,) = read.points(names.CALL_DURATION)
    assert timed.count == 3
    assert timed.sum == pytest.approx(0.006)
    assert timed.attributes == {names.SIDE: "server", names.METHOD_NAME: "Counter.add", names.DMS: ""}


def test_method_names_are_bounded(read, monkeypatch):
    """However many methods there are, the attribute sets stay within their bound, on either way of counting."""
    monkeypatch.setattr("amino.telemetry.otel_metrics.SERIES_MAX", 3)
    monkeypatch.setattr("amino.telemetry.call_series.SERIES_MAX", 3)
    own = CallSeries()
    for number in range(50):
        for series in (read.metrics.calls, own.of):
            series(names.SIDE_SERVER, f"C.m{number}", "DHT").add(names.OUTCOME_RESULT, 0.001)
    counted = {point.attributes[names.METHOD_NAME]: point.value for point in read.points(names.CALLS)}
    assert counted == {"C.m0": 1, "C.m1": 1, "C.m2": 1, "other": 47}
    timed = {point.attributes[names.METHOD_NAME]: point.count for point in read.points(names.CALL_DURATION)}
    assert timed == counted
    calls, durations = own.metrics()
    assert {point.attributes[names.METHOD_NAME]: point.value for point in calls.data.data_points} == counted
    assert {point.attributes[names.METHOD_NAME]: point.count for point in durations.data.data_points} == counted


def test_calls_are_counted_alike_beside_opentelemetrys_instruments(read):
    """Our own counters export exactly what OpenTelemetry's instruments do, but for exemplars and times."""
    own = CallSeries()
    for series in (read.metrics.calls, own.of):
        one = series(names.SIDE_CLIENT, "Counter.add", "AtLeastOnceRPC,DHT")
        for duration_s in (0.00005, 0.0002, 0.003, 0.003, 99.0):
            one.add(names.OUTCOME_RESULT, duration_s)
        one.add(names.OUTCOME_UNKNOWN, 1.0)
    calls, durations = own.metrics()
    assert (calls.name, calls.unit, calls.description) == (names.CALLS, *names.METRICS[names.CALLS][1:3])
    theirs = {p.attributes[names.OUTCOME]: (p.value, dict(p.attributes)) for p in read.points(names.CALLS)}
    ours = {p.attributes[names.OUTCOME]: (p.value, dict(p.attributes)) for p in calls.data.data_points}
    assert ours == theirs
    (their,) = read.points(names.CALL_DURATION)
    (our,) = durations.data.data_points
    for field in ("attributes", "count", "min", "max"):
        assert getattr(our, field) == getattr(their, field), field
    assert list(our.bucket_counts) == list(their.bucket_counts)
    assert list(our.explicit_bounds) == list(their.explicit_bounds)
    assert our.sum == pytest.approx(their.sum)


def test_calls_from_many_threads_are_all_counted():
    """No call is lost between threads that count on one series."""
    one = CallSeries().of(names.SIDE_SERVER, "C.m", "")

    def count():
        for _ in range(500):
            one.add(names.OUTCOME_RESULT, 0.001)

    threads = [threading.Thread(target=count) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    buckets, outcomes, total_s, *_ = one.read()
    assert (sum(buckets), outcomes) == (4000, {names.OUTCOME_RESULT: 4000})
    assert total_s == pytest.approx(4.0)


def test_what_is_pushed_holds_the_calls(read):
    """A reader of ours adds the calls to whatever else it collected, under the same resource."""
    series = CallSeries()
    read.metrics.refused("full")
    before = read.reader.get_metrics_data()
    assert with_calls(before, series) is before
    series.of(names.SIDE_SERVER, "C.m", "").add(names.OUTCOME_RESULT, 0.001)
    (resource,) = with_calls(before, series).resource_metrics
    assert resource.resource is before.resource_metrics[0].resource
    shown = [metric.name for scope in resource.scope_metrics for metric in scope.metrics]
    assert shown == [names.REFUSED, names.CALLS, names.CALL_DURATION]


def test_calls_push_nothing_else_out_of_the_export(read):
    """Over OTLP, where equal scopes would replace each other, everything arrives: the calls and all that is not calls."""
    series = CallSeries()
    read.metrics.refused("full")
    read.metrics.checkpoint(100, 0.1)
    series.of(names.SIDE_SERVER, "C.m", "").add(names.OUTCOME_RESULT, 0.001)
    sent = encode_metrics(with_calls(read.reader.get_metrics_data(), series))
    arrived = [
        metric.name
        for resource in sent.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    ]
    assert sorted(arrived) == sorted(
        [
            names.REFUSED,
            names.CHECKPOINTS,
            names.CHECKPOINT_SIZE,
            names.CHECKPOINT_DURATION,
            names.CALLS,
            names.CALL_DURATION,
        ]
    )


def test_gauges_show_what_is_watched_and_stop(read):
    """A gauge shows its readings at each export until it is told to end; two servers have a series each."""
    ends = [
        read.metrics.watch(names.SESSION_VALIDITY, lambda: [({names.SERVER: "s1"}, 2.5)]),
        read.metrics.watch(names.SESSION_VALIDITY, lambda: [({names.SERVER: "s2"}, -1.0)]),
    ]
    shown = {point.attributes[names.SERVER]: point.value for point in read.points(names.SESSION_VALIDITY)}
    assert shown == {"s1": 2.5, "s2": -1.0}
    for end in ends:
        end()
        end()
    assert read.points(names.SESSION_VALIDITY) == []


def test_a_gauge_shows_a_bounded_number_of_values(read, monkeypatch):
    """However many values a reading has, the first ones are shown."""
    monkeypatch.setattr("amino.telemetry.otel_metrics.SHOWN_MAX", 3)
    read.metrics.watch(names.REPLICATION_LAG, lambda: [({names.MICROSERVICE: f"m{n}"}, 9.0 - n) for n in range(9)])
    shown = [point.attributes[names.MICROSERVICE] for point in read.points(names.REPLICATION_LAG)]
    assert shown == ["m0", "m1", "m2"]


def test_broken_gauge_is_logged_and_others_show(read, caplog):
    """A reading that raises does not hide the others."""
    read.metrics.watch(names.QUEUE_DEPTH, lambda: 1 / 0)
    read.metrics.watch(names.QUEUE_DEPTH, lambda: [({names.QUEUE: "threads"}, 7.0)])
    with caplog.at_level(logging.ERROR, "amino.telemetry"):
        shown = {point.attributes[names.QUEUE]: point.value for point in read.points(names.QUEUE_DEPTH)}
    assert shown == {"threads": 7.0}
    assert "could not be read" in caplog.text


def test_failovers_and_checkpoints(read):
    """Failovers by kind; only good checkpoints count in the histograms."""
    read.metrics.failover("crash", 0.25)
    read.metrics.checkpoint(4096, 0.01)
    read.metrics.checkpoint(10, 5.0, ok=False)
    read.metrics.refused("garbage")
    assert read.points(names.FAILOVERS)[0].attributes == {names.KIND: "crash"}
    assert read.points(names.FAILOVER_DURATION)[0].sum == 0.25
    assert {p.attributes[names.OUTCOME]: p.value for p in read.points(names.CHECKPOINTS)} == {"ok": 1, "failed": 1}
    assert read.points(names.CHECKPOINT_SIZE)[0].count == 1
    assert read.points(names.CHECKPOINT_DURATION)[0].sum == 0.01
    assert read.points(names.REFUSED)[0].value == 1


def test_keepalives_and_operations_on_etcd(read):
    """Both are histograms that tell success from failure."""
    read.metrics.keepalive(0.002)
    read.metrics.keepalive(0.5, ok=False)
    read.metrics.etcd("txn", 0.003)
    read.metrics.etcd("txn", 5.0, ok=False)
    assert {p.attributes[names.OUTCOME]: p.sum for p in read.points(names.KEEPALIVE_DURATION)} == {
        "ok": 0.002, "failed": 0.5,
    }  # fmt: skip
    points = read.points(names.ETCD_DURATION)
    assert {(p.attributes[names.OPERATION], p.attributes[names.OUTCOME]) for p in points} == {
        ("txn", "ok"), ("txn", "failed"),
    }  # fmt: skip


def test_every_metric_is_as_its_description_says(read):
    """Each name in ``names.METRICS`` becomes an instrument of that kind, with that unit and those attributes."""
    read.metrics.calls(names.SIDE_CLIENT, "A.b", "DHT").add(names.OUTCOME_RESULT, 0.1)
    read.metrics.failover("crash", 1.0)
    read.metrics.checkpoint(1, 1.0)
    read.metrics.refused("x")
    read.metrics.keepalive(0.1)
    read.metrics.etcd("get", 0.1)
    for name, about in names.METRICS.items():
        if about.kind == "gauge":
            read.metrics.watch(name, lambda about=about: [(dict.fromkeys(about.attributes, "x"), 1.0)])
    data = read.reader.get_metrics_data()
    shown = {m.name: m for r in data.resource_metrics for s in r.scope_metrics for m in s.metrics}
    assert shown.keys() == names.METRICS.keys()
    kinds = {Sum: "counter", Gauge: "gauge", Histogram: "histogram"}
    for name, metric in shown.items():
        about = names.METRICS[name]
        assert (kinds[type(metric.data)], metric.unit, metric.description) == about[:3], name
        assert {key for point in metric.data.data_points for key in point.attributes} == set(about.attributes), name
