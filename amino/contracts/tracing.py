"""Spans around the steps of a call, the same at every step.

Owns how a step is traced and how its outcome is named. Leaves when to trace to the callers, who first read
``telemetry.tracing`` or ``telemetry.observing``.
Invariant: the call carries the innermost span's context, so the next frame names its true parent.
Failure behaviour: what a step raises marks its span and passes through.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from amino.contracts.calls import Raised
from amino.errors import AminoError, OutcomeUnknown
from amino.telemetry import names

if TYPE_CHECKING:
    from collections.abc import Callable

    from amino.contracts.calls import Call, Forward
    from amino.telemetry.trace import Attributes, Kind, Telemetry


async def traced(
    telemetry: Telemetry,
    name: str,
    forward: Forward,
    call: Call,
    *,
    attributes: Attributes | None = None,
    kind: Kind = "internal",
    parent: str | None = None,
) -> Any:
    """Run ``forward(call)`` in a span of its own and return what it returns."""
    with telemetry.span(name, kind=kind, parent=parent, attributes=attributes) as span:
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
    label: str,
    monotonic: Callable[[], float],
    attributes: Attributes,
    parent: str | None = None,
    judge: Callable[[Any], str] = lambda _: names.OUTCOME_RESULT,
) -> Any:
    """As ``traced``, for one end of a call: names the outcome, counts and times it.

    Args:
        side: ``names.SIDE_CLIENT`` or ``names.SIDE_SERVER``.
        label: ``Class.method``.
        monotonic: the clock for the duration.
        judge: names the outcome of what ``forward`` returned.
    """
    began = monotonic()
    outcome = names.OUTCOME_UNKNOWN

    async def judged(call: Call) -> Any:
        nonlocal outcome
        try:
            result = await forward(call)
            outcome = judge(result)
            return result
        except BaseException as error:
            outcome = outcome_of(error)
            raise

    kind: Kind = "client" if side == names.SIDE_CLIENT else "server"
    try:
        return await traced(telemetry, name, judged, call, attributes=attributes, kind=kind, parent=parent)
    finally:
        telemetry.metrics.call(side, label, outcome, monotonic() - began)


def outcome_of(error: BaseException) -> str:
    """Return how a call that ended with ``error`` is counted; a cancelled one may still run, so it is unknown."""
    if isinstance(error, Raised):
        return names.OUTCOME_APPLICATION_ERROR
    if isinstance(error, AminoError) and not isinstance(error, OutcomeUnknown):
        return names.OUTCOME_NOT_EXECUTED
    return names.OUTCOME_UNKNOWN
