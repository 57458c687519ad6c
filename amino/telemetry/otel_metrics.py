"""Metrics on OpenTelemetry; imported only when telemetry is on.

Owns the translation between our instruments and OpenTelemetry's. Leaves calls to ``call_series`` where the exporters are ours,
and providers and exporters to ``setup``.
Invariant: attribute sets are bounded by the number of methods, and gauges by ``SHOWN_MAX`` values each.
Failure behaviour: a gauge that cannot be read is logged and not shown; the others are.
"""

from __future__ import annotations

import logging
import threading
from itertools import islice
from typing import TYPE_CHECKING

from opentelemetry.metrics import CallbackOptions, Counter, Histogram, Meter, Observation

from amino.telemetry import names
from amino.telemetry.call_series import DURATION_BOUNDS_S, OTHER, SERIES_MAX, CallSeries
from amino.telemetry.metrics import Metrics, Reading, Series

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_log = logging.getLogger("amino.telemetry")
_SIZE_BOUNDS = tuple(float(4**power) for power in range(4, 16))
SHOWN_MAX = 200
"""Values that one reading of a gauge shows at most."""


class OtelMetrics(Metrics):
    """The instruments on one OpenTelemetry meter.

    Args:
        series: counts calls, for exporters of ours; None counts them on ``meter``, whoever exports that.
    """

    __slots__ = (
        "_calls", "_checkpoints", "_durations", "_etcd_s", "_failover_s", "_failovers", "_gauges", "_keepalive_s",
        "_known", "_refused", "_series", "_sizes", "_written_s",
    )  # fmt: skip

    def __init__(self, meter: Meter, series: CallSeries | None = None) -> None:
        def histogram(name: str, bounds: Iterable[float] = DURATION_BOUNDS_S) -> Histogram:
            about = names.METRICS[name]
            return meter.create_histogram(
                name, about.unit, about.meaning, explicit_bucket_boundaries_advisory=list(bounds)
            )

        def counter(name: str) -> Counter:
            about = names.METRICS[name]
            return meter.create_counter(name, about.unit, about.meaning)

        self._series = series
        self._known = 0
        self._calls = counter(names.CALLS) if series is None else None
        self._durations = histogram(names.CALL_DURATION) if series is None else None
        self._failovers = counter(names.FAILOVERS)
        self._failover_s = histogram(names.FAILOVER_DURATION)
        self._checkpoints = counter(names.CHECKPOINTS)
        self._sizes = histogram(names.CHECKPOINT_SIZE, _SIZE_BOUNDS)
        self._written_s = histogram(names.CHECKPOINT_DURATION)
        self._refused = counter(names.REFUSED)
        self._keepalive_s = histogram(names.KEEPALIVE_DURATION)
        self._etcd_s = histogram(names.ETCD_DURATION)
        self._gauges = {name: _Gauge(meter, name) for name, about in names.METRICS.items() if about.kind == "gauge"}

    def calls(self, side: str, method: str, dms: str) -> Series:
        """Return the series of a method."""
        if self._series is not None:
            return self._series.of(side, method, dms)
        assert self._calls is not None
        assert self._durations is not None
        self._known += 1
        if self._known > SERIES_MAX:
            method, dms = OTHER, ""
        return _OnMeter(self._calls, self._durations, {names.SIDE: side, names.METHOD_NAME: method, names.DMS: dms})

    def failover(self, kind: str, duration_s: float) -> None:
        """Count one recovered loss of an incarnation."""
        self._failovers.add(1, {names.KIND: kind})
        self._failover_s.record(duration_s, {names.KIND: kind})

    def checkpoint(self, size_bytes: int, duration_s: float, *, ok: bool = True) -> None:
        """Count one checkpoint, its size and its time."""
        self._checkpoints.add(1, _ended(ok=ok))
        if ok:
            self._sizes.record(size_bytes)
            self._written_s.record(duration_s)

    def refused(self, reason: str) -> None:
        """Count one refused piece of input."""
        self._refused.add(1, {names.REASON: reason})

    def keepalive(self, duration_s: float, *, ok: bool = True) -> None:
        """Count one round trip that keeps the session alive."""
        self._keepalive_s.record(duration_s, _ended(ok=ok))

    def etcd(self, operation: str, duration_s: float, *, ok: bool = True) -> None:
        """Count one operation on etcd."""
        self._etcd_s.record(duration_s, {names.OPERATION: operation, **_ended(ok=ok)})

    def watch(self, name: str, read: Reading) -> Callable[[], None]:
        """Show what ``read`` returns at each export."""
        return self._gauges[name].watch(read)


def _ended(*, ok: bool) -> dict[str, str]:
    return {names.OUTCOME: names.OK if ok else names.FAILED}


class _OnMeter(Series):
    """Calls counted by OpenTelemetry's own instruments."""

    __slots__ = ("_calls", "_durations", "_labels", "_with_outcome")

    def __init__(self, calls: Counter, durations: Histogram, labels: dict[str, str]) -> None:
        self._calls = calls
        self._durations = durations
        self._labels = labels
        self._with_outcome: dict[str, dict[str, str]] = {}

    def add(self, outcome: str, duration_s: float) -> None:
        labels = self._with_outcome.get(outcome)
        if labels is None:
            labels = self._with_outcome[outcome] = {**self._labels, names.OUTCOME: outcome}
        self._calls.add(1, labels)
        self._durations.record(duration_s, self._labels)


class _Gauge:
    """One observable gauge over readings that come and go (OpenTelemetry's callbacks cannot be taken away)."""

    def __init__(self, meter: Meter, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._readings: dict[object, Reading] = {}
        about = names.METRICS[name]
        meter.create_observable_gauge(name, [self._observe], about.unit, about.meaning)

    def watch(self, read: Reading) -> Callable[[], None]:
        key = object()
        with self._lock:
            self._readings[key] = read

        def end() -> None:
            with self._lock:
                self._readings.pop(key, None)

        return end

    def _observe(self, _options: CallbackOptions) -> Iterable[Observation]:
        with self._lock:
            readings = list(self._readings.values())
        shown: list[Observation] = []
        for read in readings:
            try:
                shown += [Observation(value, labels) for labels, value in islice(read(), SHOWN_MAX)]
            except Exception:  # noqa: BLE001 - a reading belongs to a component; its bug must not stop the export
                _log.exception("the gauge %s could not be read", self._name)
        return shown
