"""What a kernel server shows of the calls that it runs: counters, spans, and what kept them waiting.

Owns the server's end of a call's telemetry. Leaves running calls to the dispatcher, which asks here only while something is shown.
Invariants: each call that was begun is counted once, when its answer has left; the first good call after a failover is added to
that failover's trace, whether the call is traced itself or not.
Failure behaviour: none; nothing here fails a call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from amino.contracts.tracing import observed, outcome_of
from amino.errors import AminoError, NotExecuted
from amino.telemetry import names
from amino.telemetry.trace import NO_SPAN, is_unsampled
from amino.wire.frames import Status

if TYPE_CHECKING:
    from amino.contracts.calls import Call
    from amino.kernel.answered import Answer
    from amino.kernel.arrival import Arrival
    from amino.kernel.object import KernelObject
    from amino.kernel.surroundings import Surroundings
    from amino.telemetry.metrics import Series
    from amino.telemetry.trace import Attributes, Span, Telemetry


_OK = int(Status.OK)


class Shown:
    """The telemetry of one kernel server's calls."""

    __slots__ = ("_around", "_now", "_telemetry")

    def __init__(self, telemetry: Telemetry, surroundings: Surroundings) -> None:
        self._telemetry = telemetry
        self._around = surroundings
        self._now = surroundings.clock.monotonic

    def __repr__(self) -> str:
        return f"Shown({self._telemetry!r})"

    def begin(self, target: KernelObject, call: Call) -> None:
        """Take the time of a call that came in, if its end is of interest, and decide whether it is traced."""
        if self._telemetry.metering or not target.answered:
            call.began = self._now()
        if self._telemetry.tracing:
            chosen = self._telemetry.choose(call.traceparent)
            if isinstance(chosen, str):
                call.traceparent = chosen
            else:
                call.traced = chosen

    def around(self, call: Call) -> Span:
        """Return what a call without spans runs in, for ``with``: what its method traces itself is left out too."""
        if call.traced or call.traceparent is None or not self._telemetry.tracing:
            return NO_SPAN
        return self._telemetry.inside(call.traceparent)

    def refused(self, error: AminoError) -> None:
        """Count a call that was refused before it was begun."""
        self._telemetry.metrics.refused(error.reason if isinstance(error, NotExecuted) else "malformed")

    def ended(self, target: KernelObject, call: Call, ended: Answer | AminoError) -> None:
        """Count a call whose answer has left; from the loop or a worker thread."""
        if not call.began:
            return
        if isinstance(ended, AminoError):
            outcome = outcome_of(ended)
        elif ended[0] == _OK:
            outcome = names.OUTCOME_RESULT
            if not target.answered:
                target.answered = True
                if target.arrival is not None and target.arrival.failover:
                    self._first_good(target, call, target.arrival)
        else:
            outcome = names.OUTCOME_APPLICATION_ERROR
        if self._telemetry.metering:
            series = target.series.get(call.method) or self._series(target, call)
            series.add(outcome, self._now() - call.began)

    def _series(self, target: KernelObject, call: Call) -> Series:
        made = self._telemetry.metrics.calls(names.SIDE_SERVER, _label(target, call), target.dms)
        target.series[call.method] = made
        return made

    async def serve(self, target: KernelObject, call: Call) -> Answer:
        """Run a call that is traced, as ``target.serve`` does."""
        since = self._now() - call.age_s

        def explain(span: Span) -> None:
            arrival = target.arrival
            if arrival is not None and call.age_s > 0 and since < arrival.at:
                span.link(arrival.traceparent)

        attributes: Attributes = {
            names.MICROSERVICE: call.microservice,
            names.METHOD_NAME: _label(target, call),
            names.DMS: target.dms,
            names.SERVER: self._around.server,
            names.REPLICA: target.replica,
            names.EPOCH: target.epoch,
            names.REQUEST: str(call.request),
            names.RPC_SYSTEM: names.SCOPE,
            names.RPC_SERVICE: type(target.instance).__qualname__,
            names.RPC_METHOD: call.method,
        }
        answer: Answer = await observed(
            self._telemetry,
            names.SERVER_CALL,
            target.serve,
            call,
            side=names.SIDE_SERVER,
            attributes=attributes,
            ticket=call.traced,
            judge=_outcome_of,
            explain=explain,
        )
        return answer

    def _first_good(self, target: KernelObject, call: Call, arrival: Arrival) -> None:
        """Add what came after the placement to a failover's trace: the promotion, and the first good call."""
        about: dict[str, str | bool | int | float] = {
            names.MICROSERVICE: target.microservice,
            names.SERVER: self._around.server,
            names.EPOCH: target.epoch,
        }
        if arrival.heard_ns:
            self._telemetry.emit(
                names.FAILOVER_PROMOTED,
                start_ns=arrival.heard_ns,
                end_ns=arrival.at_ns,
                parent=arrival.traceparent,
                attributes=about,
            )
        traced = call.traceparent if call.traceparent and not is_unsampled(call.traceparent) else None
        self._telemetry.emit(
            names.FAILOVER_FIRST_CALL,
            start_ns=arrival.at_ns,
            end_ns=int(self._around.clock.wall() * 1e9),
            parent=arrival.traceparent,
            attributes={**about, names.METHOD_NAME: _label(target, call)},
            links=(traced,) if traced else (),
        )


def _label(target: KernelObject, call: Call) -> str:
    return f"{type(target.instance).__qualname__}.{call.method}"


def _outcome_of(answer: Answer) -> str:
    return names.OUTCOME_RESULT if answer[0] == _OK else names.OUTCOME_APPLICATION_ERROR
