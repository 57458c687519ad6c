"""``AtLeastOnceRPC``: calls are repeated until their outcome is known.

Owns repeating what is not executed or unknown, with exponential back-off and jitter. Leaves making the effect happen once
to the answered-request table, wherever inner managers keep it across a loss.
Invariant: an application error is never repeated; nothing is sent after the deadline.
Failure behaviour: when the time is up, the last cause is attached.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import tenacity

from amino.dm.base import ClientBase, Manager, Trait
from amino.errors import AminoError, Invalid, NotExecuted, OutcomeUnknown

if TYPE_CHECKING:
    from amino.contracts.calls import Call, Forward
    from amino.contracts.context import ClientContext

Positive = Annotated[float, msgspec.Meta(gt=0, le=3600)]


class AtLeastOnceRPC(Manager, frozen=True, kw_only=True):
    """Repeats a call until its outcome is known, for a bounded time.

    Guarantee: a call that returns has run; with request ids its effect is once wherever the inner managers keep the table
    of answered requests (``PeriodicCheckpoint(every=1)``, replication); without such a manager a call may run again after
    the object was re-created. An application error is never repeated.

    Args:
        timeout_s: seconds after the first send within which attempts begin (0 to 3600); the call's own deadline ends all of
            them.
        backoff_initial_s, backoff_max_s, multiplier: waits between attempts, with full jitter.
    """

    timeout_s: Positive = 20.0
    backoff_initial_s: Positive = 0.02
    backoff_max_s: Positive = 1.0
    multiplier: Annotated[float, msgspec.Meta(ge=1, le=10)] = 2.0

    provides = frozenset({Trait.RETRIES})

    def check(self) -> None:
        """Check that the waits grow."""
        if self.backoff_initial_s > self.backoff_max_s:
            raise Invalid(
                f"AtLeastOnceRPC: backoff_initial_s={self.backoff_initial_s} is more than backoff_max_s="
                f"{self.backoff_max_s}; make it smaller or equal"
            )

    def client(self, context: ClientContext) -> ClientBase:
        """Return the component that repeats."""
        return _Repeater(self, context)


class _Repeater(ClientBase):
    def __init__(self, options: AtLeastOnceRPC, context: ClientContext) -> None:
        self._options = options
        self._context = context

    async def on_call(self, call: Call, forward: Forward) -> Any:
        try:
            return await forward(call)
        except (NotExecuted, OutcomeUnknown) as error:
            problem: AminoError = error
        return await self._repeat(call, forward, problem)

    async def _repeat(self, call: Call, forward: Forward, problem: AminoError) -> Any:
        clock, options = self._context.clock, self._options
        started = call.first_sent or clock.monotonic()
        until = min(call.deadline, started + options.timeout_s)

        def wait(state: tenacity.RetryCallState) -> float:
            grown = options.backoff_initial_s * options.multiplier ** min(state.attempt_number - 1, 64)
            return float(self._context.random.uniform(0.0, min(grown, options.backoff_max_s)))

        retrying = tenacity.AsyncRetrying(
            sleep=self._context.sleep,
            wait=wait,
            retry=tenacity.retry_if_exception_type((NotExecuted, OutcomeUnknown)),
            stop=lambda state: clock.monotonic() + (state.upcoming_sleep or 0.0) >= until,
            reraise=True,
        )
        try:
            await self._context.sleep(min(options.backoff_initial_s, max(until - clock.monotonic(), 0.0)))
            if clock.monotonic() >= until:
                raise problem
            async for attempt in retrying:
                with attempt:
                    return await forward(call)
        except (NotExecuted, OutcomeUnknown) as last:
            seconds = clock.monotonic() - started
            text = f"{call.method} was repeated for {seconds:.1f} s and its outcome is still not known: {last}"
            if call.attempt or isinstance(last, OutcomeUnknown):
                raise OutcomeUnknown(text) from last
            raise NotExecuted(text, reason=getattr(last, "reason", "deadline")) from last
        raise AssertionError("tenacity ended without an outcome")
