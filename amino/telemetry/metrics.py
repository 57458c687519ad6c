"""The instruments, as the rest of Amino uses them.

Owns the interface and its form without effect. Leaves the OpenTelemetry side to ``otel_metrics`` and names to ``names``.
Invariants: every instrument is created once per process part; hot paths read ``telemetry.metering`` first, and hold the
``Series`` of what they count.
Failure behaviour: a gauge callback that raises is logged by the exporter side and shows no value.
"""
# ruff: noqa: ARG002 - the form without effect takes what the other one uses

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

Labels = Mapping[str, str]
Reading = Callable[[], Iterable[tuple[Labels, float]]]
"""What a gauge shows now: values with their attributes (keys of ``names``), those that matter most first."""


class Series:
    """The calls of one method, on one side; this base class has no effect. From any thread; never waits."""

    __slots__ = ()

    def add(self, outcome: str, duration_s: float) -> None:
        """Count one call: one of ``names.OUTCOME_*``, and its seconds."""


class Metrics:
    """What is counted and measured; this base class has no effect. From any thread; never waits."""

    __slots__ = ()

    def calls(self, side: str, method: str, dms: str) -> Series:
        """Return the series of a method; ask once and keep it.

        Args:
            side: ``names.SIDE_CLIENT`` or ``names.SIDE_SERVER``.
            method: ``Class.method``.
            dms: names of the managers, with commas.
        """
        return NO_SERIES

    def failover(self, kind: str, duration_s: float) -> None:
        """Count one recovered loss of an incarnation, with the seconds from lost to all placed again."""

    def checkpoint(self, size_bytes: int, duration_s: float, *, ok: bool = True) -> None:
        """Count one checkpoint, its size and the seconds it took to write and publish."""

    def refused(self, reason: str) -> None:
        """Count one call that was refused before it ran: ``malformed``, or the reason of its ``NotExecuted``."""

    def keepalive(self, duration_s: float, *, ok: bool = True) -> None:
        """Count one round trip that keeps the session alive."""

    def etcd(self, operation: str, duration_s: float, *, ok: bool = True) -> None:
        """Count one operation on etcd, with the seconds until it had succeeded or was given up."""

    def watch(self, name: str, read: Reading) -> Callable[[], None]:
        """Show what ``read`` returns as the gauge ``name`` at each export; returns what ends that.

        Args:
            name: from ``names``.
            read: called by the exporter's thread; of many values only the first ones are shown.
        """
        return _nothing


def _nothing() -> None:
    return None


NO_SERIES = Series()
NO_METRICS = Metrics()
