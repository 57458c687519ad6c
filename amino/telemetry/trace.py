"""Spans as the rest of Amino uses them, with or without OpenTelemetry behind.

Owns ``Telemetry`` and ``Span``, the thin interface that is injected into every component, and its form without
effect. Leaves the OpenTelemetry side to ``otel`` and switching it on to ``setup``.
Invariants: this module imports nothing of OpenTelemetry; hot paths read ``telemetry.tracing`` before anything
else; what is called while tracing is off does nothing and costs next to nothing.
Failure behaviour: a malformed traceparent starts a new trace; nothing here raises into a call.
"""
# ruff: noqa: ARG002 - the form without effect takes what the other one uses

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, Self

from amino.telemetry.metrics import NO_METRICS, Metrics

if TYPE_CHECKING:
    from types import TracebackType

Kind = Literal["internal", "client", "server", "producer", "consumer"]
Value = str | bool | int | float
Attributes = Mapping[str, Value]


class Span:
    """A piece of work that is being traced; this base class, used while tracing is off, has no effect.

    As a context manager it is the current span of its task or thread: spans started and frames sent inside are
    its children; an exception passing through marks it as failed; leaving ends it. Without ``with`` it is a
    long-lived span that is never current: call ``end``. Usable from any thread; ``with`` must be left where it
    was entered.
    """

    __slots__ = ()

    @property
    def recording(self) -> bool:
        """Whether attributes and events go anywhere; skip computing them if not."""
        return False

    def set(self, key: str, value: Value) -> None:
        """Set one attribute; ``key`` comes from ``names``."""

    def event(self, name: str, attributes: Attributes | None = None, *, at_ns: int | None = None) -> None:
        """Note a moment within the span; ``at_ns`` is wall-clock nanoseconds, default now."""

    def error(self, error: BaseException | str) -> None:
        """Mark the span as failed and record the exception or message."""

    def link(self, traceparent: str) -> None:
        """Note that the span has to do with another trace's span; what is malformed is passed over."""

    def traceparent(self) -> str | None:
        """Return what names this span as a parent in another process (see ``Telemetry.traceparent``)."""
        return None

    def end(self, *, at_ns: int | None = None) -> None:
        """End the span; ``at_ns`` is wall-clock nanoseconds, default now. Idempotent."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()


NO_SPAN = Span()
UNDECIDED = -1
"""Ticket of a call whose sampling is decided when its span is started."""


class Telemetry:
    """What a component needs to show its work; injected, never shared by two kernel servers of a process.

    This base class is telemetry switched off. ``tracing`` and ``metering`` never change after construction:
    hot paths read one of them and skip the rest::

        if telemetry.tracing:
            with telemetry.span(names.SERVER_CALL, kind="server", parent=frame_traceparent) as span:
                ...

    Attributes:
        tracing: whether spans are recorded.
        metering: whether metrics are recorded.
        observing: whether either is: the one attribute for hot paths that do both.
        metrics: the instruments; without effect when ``metering`` is False.
        surrounds: whether a method whose call is left out must run ``inside`` its traceparent; otherwise whoever makes spans here
            asks ``call_traceparent``, which costs the calls that make none nothing.
    """

    __slots__ = ("metering", "metrics", "observing", "surrounds", "tracing")

    def __init__(self) -> None:
        self.tracing = False
        self.metering = False
        self.observing = False
        self.surrounds = False
        self.metrics: Metrics = NO_METRICS

    def __repr__(self) -> str:
        return f"{type(self).__name__}(tracing={self.tracing}, metering={self.metering})"

    @staticmethod
    def disabled() -> Telemetry:
        """Return telemetry that does nothing."""
        return _DISABLED

    def span(
        self,
        name: str,
        *,
        kind: Kind = "internal",
        parent: str | None = None,
        attributes: Attributes | None = None,
        ticket: int = UNDECIDED,
    ) -> Span:
        """Return a started span to be used with ``with``.

        Args:
            name: from ``names``.
            kind: ``client`` and ``server`` are the two ends of a request.
            parent: traceparent of the parent in another process; None takes the current span of this task or
                thread, an empty one starts a new trace.
            attributes: keys from ``names``.
            ticket: of ``choose``, so that the sampler decides as that did.
        """
        return NO_SPAN

    def choose(self, parent: str | None) -> str | int:
        """Decide whether a call is left out of the traces, which is what most are where few are sampled.

        Whoever made the parent has decided for all of its trace: the client for its calls, and what follows from them. Without
        one, the sampler decides.

        Args:
            parent: traceparent that came with the call; None takes the current span, if there is one.

        Returns:
            What to pass on as the call's traceparent in place of a span's, if it is left out; else a ticket, not 0, for ``span``.
        """
        return UNDECIDED

    def inside(self, traceparent: str) -> Span:
        """Return what makes ``traceparent`` the current span, for ``with``; nothing is recorded of it here."""
        return NO_SPAN

    def start_span(
        self,
        name: str,
        *,
        kind: Kind = "internal",
        parent: str | None = None,
        attributes: Attributes | None = None,
        start_ns: int | None = None,
    ) -> Span:
        """Return a started long-lived span; call its ``end``.

        Args:
            name: from ``names``.
            kind: as in ``span``.
            parent: as in ``span``.
            attributes: keys from ``names``.
            start_ns: wall-clock nanoseconds since 1970, default now; in the past for what is told afterwards.
        """
        return NO_SPAN

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
        """Record a span that is already over (wall-clock nanoseconds); returns its traceparent.

        Args:
            links: traceparents of spans that it has to do with.
        """
        return None

    def emit_failover(
        self, cluster: str, server: str, incarnation: int, *, kind: str, start_ns: int, end_ns: int
    ) -> None:
        """Record the root span of a failover under the ids of ``failover_traceparent``.

        Called once per lost incarnation, by whoever finishes the recovery; its children may be recorded before
        or after, in any process.
        """

    def traceparent(self) -> str | None:
        """Return the current span's W3C ``traceparent``, with a space and ``tracestate`` if there is one.

        None while tracing is off or outside any span. Put it into frames and records; ``parent=`` takes it
        as it is.
        """
        return None

    async def aclose(self, timeout_s: float = 2.0) -> bool:
        """Export what is left and stop, within ``timeout_s`` seconds. On a loop or, blocking, in a thread.

        Returns:
            Whether everything was handed over in time. Idempotent.
        """
        return True


_DISABLED = Telemetry()


_SAMPLED_AT = 54
_UNSAMPLED = frozenset("02468aceACE")


def is_unsampled(traceparent: str | None) -> bool:
    """Return whether ``traceparent`` says that its trace is not recorded."""
    return traceparent is not None and traceparent[_SAMPLED_AT : _SAMPLED_AT + 1] in _UNSAMPLED


def _nowhere() -> str | None:
    return None


read_current: Callable[[], str | None] = _nowhere
"""Reads the current span's traceparent; OpenTelemetry keeps one for the whole process, so does this. Set by ``otel``."""


call_traceparent: Callable[[], str | None] = _nowhere
"""Reads the traceparent that the call came with in which this code runs; set by ``contracts.tracing``."""


def current_traceparent() -> str | None:
    """Return what ``Telemetry.traceparent`` does, where there is no telemetry at hand."""
    return read_current()


def _no_span() -> Span:
    return NO_SPAN


make_left_out: Callable[[], Span] = _no_span
"""Makes what ``left_out`` returns; for the whole process, set by ``otel``."""


def left_out() -> Span:
    """Return what code runs in, for ``with``, whose own spans are to be left out: it was traced where it ran first."""
    return make_left_out()


def failover_traceparent(cluster: str, server: str, incarnation: int) -> str:
    """Return the traceparent of the failover trace of one lost incarnation.

    A pure function of its arguments: the supervisor, every slot leader and every server that takes over
    objects compute the same one without talking to each other. ``Telemetry.emit_failover`` records the span it names.
    """
    digest = hashlib.blake2b(f"{cluster}\x1f{server}\x1f{incarnation}".encode(), digest_size=24).digest()
    trace_id = int.from_bytes(digest[:16], "big") or 1
    span_id = int.from_bytes(digest[16:], "big") or 1
    return f"00-{trace_id:032x}-{span_id:016x}-01"
