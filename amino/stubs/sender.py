"""The innermost step of a client chain: repeats what certainly did not run, within the deadline.

Owns waiting between attempts. Leaves one attempt, and where to send it, to the runtime.
Invariants: nothing is sent after the deadline; an unknown outcome is never repeated here.
Failure behaviour: at the deadline the last reason is raised: ``NotExecuted``, or ``OutcomeUnknown`` once any attempt was.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from amino.aio.mode import sleep
from amino.errors import AminoError, NotExecuted, OutcomeUnknown, Overloaded
from amino.stubs.target import place_in

if TYPE_CHECKING:
    from amino.contracts.calls import Call
    from amino.contracts.documents import DmSpec
    from amino.contracts.services import Location
    from amino.stubs.runtime import Runtime
    from amino.stubs.target import Target


class ChainChanged(Exception):
    """The microservice has other managers by now: the call leaves this chain and starts over in the new one.

    Not an ``AminoError``: no client component is to take it for an outcome of the call.
    """


_PLACES = frozenset({"wrong-shard", "no-group", "other-shards"})
_BACKOFF_S = 0.005
_BACKOFF_MAX_S = 0.25
_BACKOFF_SHARE = 0.25
"""Of what a call has waited for a place to go: with doubled pauses a failover of 0.4 s was noticed up to 0.3 s late."""


class Sender:
    """The innermost step of a client chain: repeats what certainly did not run, within the deadline.

    Args:
        chain: the managers that this chain is made of.
    """

    __slots__ = ("_chain", "_runtime", "_target")

    def __init__(self, runtime: Runtime, target: Target, chain: tuple[DmSpec, ...]) -> None:
        self._runtime = runtime
        self._target = target
        self._chain = chain

    async def _send_elsewhere(self, call: Call) -> Any:
        location = self._target.location
        if location is not None and location.spec.dms == self._chain:
            place = place_in(location, call.path, call.spread)
            try:
                if place is not None:
                    return await self._runtime.attempt(place, call)
            except (NotExecuted, OutcomeUnknown):
                call.attempt = 0  # a read, which has done nothing: the primary knows better
        return await self.send(call, primary=True)

    async def _located(self, call: Call) -> Location:
        call.first_sent = call.first_sent or self._runtime.clock.monotonic()  # it waits from now on
        return await self._runtime.locate(self._target, call.path, call.deadline)

    async def send(self, call: Call, *, primary: bool = False) -> Any:
        """Send ``call`` until it has an outcome, to another replica first if ``call.spread`` says so.

        Args:
            primary: send it to the primary whatever ``call.spread`` says.

        Raises:
            AminoError: as the module says, or what the server says of the call.
            ChainChanged: nothing was sent, because the managers are others now.
        """
        if call.spread >= 0 and not primary:
            return await self._send_elsewhere(call)
        runtime, target = self._runtime, self._target
        backoff_s, began = _BACKOFF_S, 0.0
        while True:
            try:
                location = target.location
                place = place_in(location, call.path) if location is not None else None
                if location is None or place is None:
                    location = await self._located(call)
                    place = place_in(location, call.path)
                if location.spec.dms is not self._chain:
                    if location.spec.dms != self._chain:
                        raise ChainChanged
                    self._chain = location.spec.dms
                if place is None:
                    raise _no_place(call, location)
                return await runtime.attempt(place, call)
            except NotExecuted as error:
                if error.reason in _PLACES:
                    raise  # asking the same shard again gives the same answer
                if call.attempt and error.reason == "deadline":
                    raise OutcomeUnknown(f"{call.method} was sent before, and {error}") from error
                at_hand = runtime.is_stale(target, call, error)
                now = runtime.clock.monotonic()
                began, remaining = began or now, call.deadline - now
                if remaining <= backoff_s or error.reason in {"deadline", "locked"}:
                    raise _final(call, error) from None
                if not at_hand:
                    await sleep(backoff_s * (0.5 + runtime.random.random()))
                    grown_s = backoff_s * 2 if error.reason == "overloaded" else (now - began) * _BACKOFF_SHARE
                    backoff_s = min(max(backoff_s, grown_s), _BACKOFF_MAX_S)
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


def _no_place(call: Call, location: Location) -> NotExecuted:
    if call.path in location.groups:
        return NotExecuted(f"{call.microservice}{call.path} is being placed; retry", reason="not-ready")
    return NotExecuted(f"{call.microservice} has no group {call.path} any more", reason="no-group")


def _final(call: Call, error: NotExecuted) -> AminoError:
    if call.attempt:
        return OutcomeUnknown(f"{call.method} was sent {call.attempt} times with unknown outcome, and then {error}")
    if isinstance(error, Overloaded) or error.reason == "locked":
        return error
    return NotExecuted(f"{call.method} did not run before its deadline: {error}", reason=error.reason)
