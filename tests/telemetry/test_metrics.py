"""The instruments on OpenTelemetry, read back through its in-memory reader."""

from __future__ import annotations

import logging

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from amino.telemetry import names
from amino.telemetry.otel import OtelTelemetry


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
        read.metrics.call(names.SIDE_SERVER, "Counter.add", outcome, 0.002)
    counted = {point.attributes[names.OUTCOME]: point.value for point in read.points(names.CALLS)}
    assert counted == {"result": 2, "unknown": 1}
    (timed,) = read.points(names.CALL_DURATION)
    assert timed.count == 3
    assert timed.sum == pytest.approx(0.006)
    assert timed.attributes == {names.SIDE: "server", names.METHOD_NAME: "Counter.add"}


def test_method_names_are_bounded(read, monkeypatch):
    """However many methods there are, the attribute sets stay within their bound."""
    monkeypatch.setattr("amino.telemetry.otel._METHODS_MAX", 3)
    for number in range(50):
        read.metrics.call(names.SIDE_SERVER, f"C.m{number}", names.OUTCOME_RESULT, 0.001)
    counted = {point.attributes[names.METHOD_NAME]: point.value for point in read.points(names.CALLS)}
    assert counted == {"C.m0": 1, "C.m1": 1, "C.m2": 1, "other": 47}
    timed = {point.attributes[names.METHOD_NAME]: point.count for point in read.points(names.CALL_DURATION)}
    assert timed == counted


def test_gauges_show_what_is_watched_and_stop(read):
    """A gauge shows its readings at each export until it is told to end; two servers have a series each."""
    ends = [read.metrics.watch_session("s1", lambda: 2.5), read.metrics.watch_session("s2", lambda: -1.0)]
    shown = {point.attributes[names.SERVER]: point.value for point in read.points(names.SESSION_VALIDITY)}
    assert shown == {"s1": 2.5, "s2": -1.0}
    for end in ends:
        end()
        end()
    assert read.points(names.SESSION_VALIDITY) == []


def test_broken_gauge_is_logged_and_others_show(read, caplog):
    """A reading that raises does not hide the others."""
    read.metrics.watch_queue("broken", lambda: 1 / 0)
    read.metrics.watch_queue("server", lambda: 7.0)
    with caplog.at_level(logging.ERROR, "amino.telemetry"):
        shown = {point.attributes[names.QUEUE]: point.value for point in read.points(names.QUEUE_DEPTH)}
    assert shown == {"server": 7.0}
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


def test_every_metric_has_unit_and_meaning(read):
    """Each name in ``names.METRICS`` becomes an instrument with that unit."""
    read.metrics.call(names.SIDE_CLIENT, "A.b", names.OUTCOME_RESULT, 0.1)
    read.metrics.failover("crash", 1.0)
    read.metrics.checkpoint(1, 1.0)
    read.metrics.refused("x")
    read.metrics.watch_queue("q", lambda: 0.0)
    read.metrics.watch_session("s", lambda: 0.0)
    read.metrics.watch_replication_lag("r", lambda: 0.0)
    data = read.reader.get_metrics_data()
    shown = {m.name: (m.unit, m.description) for r in data.resource_metrics for s in r.scope_metrics for m in s.metrics}
    assert shown == names.METRICS
