"""The instruments, as the rest of Amino uses them.

Owns the interface and its form without effect; the OpenTelemetry side is in ``otel``. Leaves names to
``names``.
Invariant: every instrument is created once per process part; hot paths read ``telemetry.metering`` first.
Failure behaviour: a gauge callback that raises is logged once by the exporter side and shows no value.
"""
# ruff: noqa: ARG002 - the form without effect takes what the other one uses

from __future__ import annotations

from collections.abc import Callable

Reading = Callable[[], float]


class Metrics:
    """What is counted and measured; this base class has no effect. From any thread; never waits."""

    __slots__ = ()

    def call(self, side: str, method: str, outcome: str, duration_s: float) -> None:
        """Count one call and its duration.

        Args:
            side: ``names.SIDE_CLIENT`` or ``names.SIDE_SERVER``.
            method: ``Class.method``.
            outcome: one of ``names.OUTCOME_*``.
            duration_s: seconds.
        """

    def failover(self, kind: str, duration_s: float) -> None:
        """Count one recovered loss of an incarnation, with the seconds from lost to all placed again."""

    def checkpoint(self, size_bytes: int, duration_s: float, *, ok: bool = True) -> None:
        """Count one checkpoint, its size and the seconds it took to write and publish."""

    def refused(self, reason: str) -> None:
        """Count one call that was refused before it ran: ``malformed``, or the reason of its ``NotExecuted``."""

    def watch_queue(self, queue: str, read: Reading) -> Callable[[], None]:
        """Show ``read()`` as the depth of ``queue`` at each export; returns what ends that."""
        return _nothing

    def watch_session(self, server: str, read: Reading) -> Callable[[], None]:
        """Show ``read()`` (seconds) as the session validity of ``server``; returns what ends that."""
        return _nothing

    def watch_replication_lag(self, replica: str, read: Reading) -> Callable[[], None]:
        """Show ``read()`` (entries) as the lag of ``replica``'s group; returns what ends that."""
        return _nothing


def _nothing() -> None:
    return None


NO_METRICS = Metrics()
