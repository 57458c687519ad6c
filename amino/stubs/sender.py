"""The innermost step of a client chain: repeats what certainly did not run, within the deadline.

Owns waiting between attempts. Leaves one attempt, and where to send it, to the runtime.
Invariants: nothing is sent after the deadline; an unknown outcome is never repeated here.
Failure behaviour: at the deadline the last reason is raised: ``NotExecuted``, or ``OutcomeUnknown`` once any attempt was.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from amino.aio.mode import sleep
from amino.errors import AminoError, NotExecuted, OutcomeUnknown, Overloaded

if TYPE_CHECKING:
    from amino.contracts.calls import Call
    from amino.stubs.runtime import Runtime
    from amino.stubs.target import Target

_BACKOFF_S = 0.005
_BACKOFF_MAX_S = 0.25


class Sender:
    """The innermost step of a client chain: repeats what certainly did not run, within the deadline."""

    __slots__ = ("_runtime", "_target")

    def __init__(self, runtime: Runtime, target: Target) -> None:
        self._runtime = runtime
        self._target = target

    async def send(self, call: Call) -> Any:
        """Send ``call`` until it has an outcome; raises as the module says, or what the server says of the call."""
        runtime, target = self._runtime, self._target
        backoff_s = _BACKOFF_S
        while True:
            try:
                return await runtime.attempt(target, call)
            except NotExecuted as error:
                if call.attempt and error.reason == "deadline":
                    raise OutcomeUnknown(f"{call.method} was sent before, and {error}") from error
                at_hand = runtime.is_stale(target, call, error)
                remaining = call.deadline - runtime.clock.monotonic()
                if remaining <= backoff_s or error.reason == "deadline":
                    raise _final(call, error) from None
                if not at_hand:
                    await sleep(backoff_s * (0.5 + runtime.random.random()))
                    backoff_s = min(backoff_s * 2, _BACKOFF_MAX_S)
            except OutcomeUnknown:
                found = target.where(call.path)
                if (
                    found is not None
                    and found[0].epoch == call.sent_epoch
                    and runtime.addresses.is_lost(found[1].server, found[1].incarnation)
                ):
                    target.stale = (found[1].server, found[1].incarnation, found[1].address, found[0].epoch)
                    target.location = None
                raise


def _final(call: Call, error: NotExecuted) -> AminoError:
    if call.attempt:
        return OutcomeUnknown(f"{call.method} was sent {call.attempt} times with unknown outcome, and then {error}")
    if isinstance(error, Overloaded):
        return error
    return NotExecuted(f"{call.method} did not run before its deadline: {error}", reason=error.reason)
