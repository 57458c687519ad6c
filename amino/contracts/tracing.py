"""Spans around the steps of a call, the same at every step.

Owns how a step is traced and how its outcome is named. Leaves when to trace to the callers, who first read
``telemetry.tracing`` and have asked ``telemetry.choose``.
Invariants: the call carries the innermost span's context, so the next frame names its true parent; a call that its client did
not choose to be sampled has no spans, and costs next to nothing.
Failure behaviour: what a step raises marks its span and passes through.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from amino.contracts.calls import CURRENT, Raised
from amino.errors import AminoError, OutcomeUnknown
from amino.telemetry import names, trace
from amino.telemetry.trace import UNDECIDED, is_unsampled

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from amino.contracts.calls import Call, Forward
    from amino.telemetry.trace import Attributes, Kind, Span, Telemetry


def _of_current_call() -> str | None:
    current = CURRENT.get()
    return None if current is None else current.traceparent


trace.call_traceparent = _of_current_call


def traced(
    telemetry: Telemetry,
    name: str,
    forward: Forward,
    call: Call,
    *,
    attributes: Attributes | None = None,
    kind: Kind = "internal",
) -> Awaitable[Any]:
    """Run ``forward(call)`` in a span of its own, if the call is sampled, and return what it returns."""
    if is_unsampled(call.traceparent):
        return forward(call)
    return _traced(telemetry, name, forward, call, attributes, kind)


async def _traced(
    telemetry: Telemetry, name: str, forward: Forward, call: Call, attributes: Attributes | None, kind: Kind
) -> Any:
    with telemetry.span(name, kind=kind, attributes=attributes) as span:
        outer = call.traceparent
        call.traceparent = telemetry.traceparent() or outer
        try:
            return await forward(call)
        except Raised as raised:
            span.error(raised.error)
            raise
        finally:
            call.traceparent = outer


async def observed(
    telemetry: Telemetry,
    name: str,
    forward: Forward,
    call: Call,
    *,
    side: str,
    attributes: Attributes,
    ticket: int = UNDECIDED,
    judge: Callable[[Any], str] = lambda _: names.OUTCOME_RESULT,
    explain: Callable[[Span], None] | None = None,
) -> Any:
    """Run ``forward(call)`` in the span of one end of the call, which names its outcome.

    Args:
        side: ``names.SIDE_CLIENT`` or ``names.SIDE_SERVER``.
        ticket: what ``telemetry.choose`` said.
        judge: names the outcome of what ``forward`` returned.
        explain: may add to the span once the outcome is known.
    """
    outcome = names.OUTCOME_UNKNOWN
    outer = call.traceparent
    kind: Kind = "client" if side == names.SIDE_CLIENT else "server"
    parent = outer if kind == "server" or telemetry.traceparent() is None else None
    with telemetry.span(name, kind=kind, parent=parent, attributes=attributes, ticket=ticket) as span:
        call.traceparent = span.traceparent() or outer
        try:
            result = await forward(call)
            outcome = judge(result)
        except BaseException as error:
            outcome = outcome_of(error)
            if isinstance(error, Raised):
                span.error(error.error)
            raise
        else:
            return result
        finally:
            call.traceparent = outer
            if span.recording:
                span.set(names.OUTCOME, outcome)
                span.set(names.ATTEMPT, call.attempt)
                if explain is not None:
                    explain(span)


def outcome_of(error: BaseException) -> str:
    """Return how a call that ended with ``error`` is counted; a cancelled one may still run, so it is unknown."""
    if isinstance(error, Raised):
        return names.OUTCOME_APPLICATION_ERROR
    if isinstance(error, AminoError) and not isinstance(error, OutcomeUnknown):
        return names.OUTCOME_NOT_EXECUTED
    return names.OUTCOME_UNKNOWN
