"""The runtime of a process that calls microservices: finding, sending, retrying what certainly did not run.

Owns the way of a call to and past the managers' client components: location, request ids, deadlines. Leaves one attempt to
``attempts``, repeating what did not run to ``sender``, repeating unknown outcomes to deployment managers, and registry
operations to ``registry_client``.
Invariants: nothing is sent after the deadline; only what certainly did not run is repeated; a request id is settled once.
Failure behaviour: at the deadline the last reason is raised: ``NotExecuted``, or ``OutcomeUnknown`` once any attempt was.
"""

from __future__ import annotations

import os
import random
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from amino import limits
from amino.contracts.calls import CURRENT, GUARD, Call, PerShard, Raised, RequestId, request_id
from amino.contracts.documents import DmSpec
from amino.contracts.services import GroupLocation, LocateRequest, Location, ReplicaLocation
from amino.contracts.tracing import observed, outcome_of
from amino.errors import AminoError, NotExecuted, OutcomeUnknown
from amino.marks import fold_results
from amino.stubs.attempts import Attempts
from amino.stubs.client_world import ClientWorld
from amino.stubs.sender import ChainChanged, Sender
from amino.stubs.stub import DynamicStub, stub_class
from amino.stubs.target import Target
from amino.telemetry import names
from amino.wire.codec import Reference

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable, Sequence

    from amino.aio.clock import Clock
    from amino.contracts.calls import Forward
    from amino.rpc.port import Transport
    from amino.stubs.addresses import AddressBook
    from amino.stubs.ports import ClassCode, Local
    from amino.stubs.registry_client import RegistryClient
    from amino.telemetry.metrics import Series
    from amino.telemetry.trace import Telemetry

_LOCATE_WAIT_S = 0.5
_CONNECT_S = 2.0
_RESULT = names.OUTCOME_RESULT

DEADLINE: ContextVar[float | None] = ContextVar("amino_deadline_s", default=None)
"""Seconds that a call from this context may take, set by ``amino.deadline``."""


class Runtime:
    """Calls microservices, from event loops and threads alike.

    Args:
        client_id: of this process; new after fork.
        describe_class: tells how servers can have a class.
        compose: builds the client side of a chain: (managers, world, innermost) -> first forward.
        local: the kernel server this runtime is part of, if any.
        transaction: makes a transaction over several microservices, with what takes part from outside.

    Attributes:
        background: returns the loop on which blocking callers wait for several answers at once, None while there is none.
    """

    def __init__(
        self,
        *,
        client_id: str,
        transport: Transport,
        addresses: AddressBook,
        registry: RegistryClient,
        compose: Callable[[Sequence[DmSpec], ClientWorld, Forward], Forward],
        describe_class: Callable[[type], ClassCode],
        clock: Clock,
        telemetry: Telemetry,
        local: Local | None = None,
        seed: int | None = None,
        transaction: Callable[[Runtime, Any], Any] | None = None,
    ) -> None:
        self.client_id = client_id
        self.transport = transport
        self.addresses = addresses
        self.registry = registry
        self.describe_class = describe_class
        self.clock = clock
        self._now = clock.monotonic
        self.telemetry = telemetry
        self.random = random.Random(seed)
        self.entropy: Callable[[int], bytes] = os.urandom if seed is None else self.random.randbytes
        self.cluster: Any = None
        self.background: Callable[[], asyncio.AbstractEventLoop | None] = lambda: None
        self.transaction = transaction
        self._compose = compose
        self._local = local
        self._targets: dict[str, Target] = {}
        self._given_out = 0
        self._attempts = Attempts(self, local)
        self.attempt = self._attempts.attempt

    def __repr__(self) -> str:
        return f"Runtime({self.client_id}, {len(self._targets)} targets)"

    # --- targets and stubs -----------------------------------------------------------------------------------------

    def target(self, microservice: str, name: str = "") -> Target:
        """Return what is remembered of a microservice."""
        target = self._targets.get(microservice)
        if target is None:
            target = self._targets.setdefault(microservice, Target(microservice, name, self._given_out))
        return target

    def forget(self, microservice: str) -> None:
        """Drop what is remembered; a later call looks it up afresh, under sequences that were never used."""
        target = self._targets.pop(microservice, None)
        if target is not None:
            target.location = None
            self._given_out = max(self._given_out, target.last)

    def bind(self, reference: Reference) -> Any:
        """Return a stub for a ref that came in a value."""
        target = self.target(reference.microservice, reference.name)
        return self.stub(target, None, reference.cls)

    def stub(self, target: Target, cls: type | None, path: str = "") -> Any:
        """Return a stub, typed if the class is known here."""
        found = cls if cls is not None else _loaded_class(path)
        if found is None:
            return DynamicStub(self, target, path)
        return stub_class(found)(self, target, path or f"{found.__module__}:{found.__qualname__}")

    def known_methods(self, target: Target) -> dict[str, int] | None:
        """Return a microservice's methods if its location is cached."""
        location = target.location
        return location.methods if location is not None else None

    async def methods(self, target: Target) -> dict[str, int]:
        """Return a microservice's public methods."""
        location = target.location
        if location is None:
            location = await self.locate(target, "/", self.clock.monotonic() + limits.DEADLINE_S_DEFAULT)
        return location.methods

    # --- calls -----------------------------------------------------------------------------------------------------

    async def invoke(
        self, target: Target, method: str, flags: int, args: tuple[Any, ...], kwargs: dict[str, Any], path: str = "/"
    ) -> Any:
        """Call ``method`` (of the group at ``path``) and return its result, or raise what it raised.

        Raises:
            AminoError: about the call itself. Cancellation abandons the wait; the call may still run.
        """
        microservice = target.microservice
        timeout_s = DEADLINE.get()
        deadline = self._now() + (limits.DEADLINE_S_DEFAULT if timeout_s is None else timeout_s)
        current = CURRENT.get()
        if current is not None and current.runtime is self:
            outer = current.request
            request = RequestId(outer.client, outer.microservice, outer.sequence, (*outer.path, current.next_nested()))
            deadline = min(deadline, current.deadline)
            call = Call(microservice, method, args, kwargs, flags, request, deadline, current.floor, path=path)
            call.traceparent = current.traceparent
            effects = current.effects
            if effects is not None:
                return await effects.outcome(f"call{request.path[-1]}", lambda: self._through(target, call), self)
            return await self._through(target, call)
        sequence, floor = target.begin()
        request = request_id((self.client_id, microservice, sequence, ()))
        call = Call(microservice, method, args, kwargs, flags, request, deadline, floor, path=path)
        if current is not None:  # the method of another cluster's microservice
            call.traceparent = current.traceparent
        forward = target.forward
        try:
            if forward is None:
                return await self._through(target, call)
            if self.telemetry.observing:
                return await self._observed(forward, target, call)
            return await forward(call)
        except ChainChanged:
            return await self._through(target, _anew(call, args, kwargs))
        except Raised as raised:
            raise raised.error from None
        finally:
            target.settle(sequence)

    async def invoke_at(self, path: str, target: Target, method: str, flags: int, args: tuple[Any, ...]) -> Any:
        """As ``invoke``, for a call of Amino's own to the group at ``path``."""
        sequence, floor = target.begin()
        deadline = self.clock.monotonic() + (DEADLINE.get() or limits.DEADLINE_S_DEFAULT)
        request = RequestId(self.client_id, target.microservice, sequence)
        try:
            call = Call(target.microservice, method, args, {}, flags, request, deadline, floor, path=path)
            return await self._through(target, call)
        except Raised as raised:
            raise raised.error from None
        finally:
            target.settle(sequence)

    async def invoke_for(
        self,
        target: Target,
        method: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        timeout_s: float,
        caller: tuple[str, int, int, int, float] | None,
        traceparent: str | None,
    ) -> Any:
        """As ``invoke``, on behalf of a caller outside.

        Args:
            caller: its own (client id, sequence, floor, attempt, age in seconds), None if it does not repeat calls.

        Raises:
            Raised: the method raised; any other error is about the call.
        """
        now = self.clock.monotonic()
        microservice = target.microservice
        flags = (await self.methods(target)).get(method, 0)
        sequence, attempt, first_sent = 0, 0, 0.0
        if caller is None:
            sequence, floor = target.begin()
            request = RequestId(self.client_id, microservice, sequence)
        else:
            client, number, floor, attempt, age_s = caller
            request = RequestId(client, microservice, number)
            first_sent = now - age_s
        call = Call(microservice, method, args, kwargs, flags, request, now + timeout_s, floor, attempt, first_sent)
        call.traceparent = traceparent
        try:
            result = await self._through(target, call, unwrap=False)
            return fold_results(list(result)) if type(result) is PerShard else result
        finally:
            if sequence:
                target.settle(sequence)

    async def look_up(self, target: Target, deadline: float) -> Location:
        """Look up where a microservice is, by ``deadline`` (monotonic seconds). Raises as a call does."""
        return await self.locate(target, "/", deadline)

    async def message(self, target: Target, path: str, name: str, payload: Any, timeout_s: float) -> Any:
        """Send a message to a component of the group at ``path``, past all client components; returns its answer.

        Raises:
            AminoError: it was refused, or what became of it is not known.
        """
        sequence, floor = target.begin()
        deadline = self.clock.monotonic() + timeout_s
        request = RequestId(self.client_id, target.microservice, sequence)
        call = Call(target.microservice, name, (payload,), {}, 0, request, deadline, floor, path=path)
        try:
            return await self._sent(target, call)
        except Raised as raised:
            raise raised.error from None
        finally:
            target.settle(sequence)

    async def _sent(self, target: Target, call: Call) -> Any:
        """Send ``call`` past all client components, whichever they are."""
        while True:
            location = target.location or await self.locate(target, call.path, call.deadline)
            try:
                return await Sender(self, target, location.spec.dms).send(call)
            except ChainChanged:  # nothing was sent
                continue

    async def _through(self, target: Target, call: Call, *, unwrap: bool = True) -> Any:
        """Pass ``call`` through the client side of its chain, from the start again if that changes meanwhile."""
        args, kwargs = call.args, call.kwargs
        while True:
            forward = target.forward
            try:
                if forward is None:
                    forward = await self._compose_for(target, call.deadline)
                guard = GUARD.get()
                if guard is not None:
                    guard(target.chain, call)
                if self.telemetry.observing:
                    return await self._observed(forward, target, call)
                return await forward(call)
            except ChainChanged:  # nothing was sent
                _anew(call, args, kwargs)
                if target.forward is forward:
                    target.forward = None
            except Raised as raised:
                if not unwrap:
                    raise
                raise raised.error from None

    def renew(self, client_id: str) -> None:
        """Become another client, after a fork: sequences of the parent are not ours."""
        self.client_id = client_id
        self._targets = {}

    def _observed(self, forward: Forward, target: Target, call: Call) -> Awaitable[Any]:
        """As ``forward``, counted, and traced if it is chosen to be."""
        telemetry = self.telemetry
        ticket = 0
        if telemetry.tracing:
            chosen = telemetry.choose(call.traceparent)
            if isinstance(chosen, int):
                ticket = chosen
            else:
                call.traceparent = chosen
        if telemetry.metering:
            return self._counted(forward, target, call, ticket)
        return self._traced(forward, target, call, ticket) if ticket else forward(call)

    async def _counted(self, forward: Forward, target: Target, call: Call, ticket: int) -> Any:
        began = self._now()
        try:
            result = await (self._traced(forward, target, call, ticket) if ticket else forward(call))
        except ChainChanged:
            raise  # nothing was sent, and it starts over
        except BaseException as error:
            self._series(target, call.method).add(outcome_of(error), self._now() - began)
            raise
        self._series(target, call.method).add(_RESULT, self._now() - began)
        return result

    def _series(self, target: Target, method: str) -> Series:
        found = target.series.get(method)
        if found is None:
            dms = ",".join(dm.name for dm in target.chain)
            found = self.telemetry.metrics.calls(names.SIDE_CLIENT, f"{target.class_name}.{method}", dms)
            target.series[method] = found
        return found

    def _traced(self, forward: Forward, target: Target, call: Call, ticket: int) -> Awaitable[Any]:
        return observed(
            self.telemetry,
            names.CLIENT_CALL,
            forward,
            call,
            side=names.SIDE_CLIENT,
            attributes={
                names.MICROSERVICE: call.microservice,
                names.METHOD_NAME: f"{target.class_name}.{call.method}",
                names.DMS: ",".join(dm.name for dm in target.chain),
                names.RPC_SYSTEM: names.SCOPE,
                names.RPC_SERVICE: target.class_name,
                names.RPC_METHOD: call.method,
            },
            ticket=ticket,
        )

    async def _compose_for(self, target: Target, deadline: float) -> Forward:
        location = target.location
        if location is None:
            location = await self.locate(target, "/", deadline)
        dms = location.spec.dms
        forward = self._compose(dms, ClientWorld(self, target, dms), Sender(self, target, dms).send)
        target.chain, target.forward = dms, forward
        target.class_name, target.series = location.spec.cls.rpartition(":")[2], {}
        return forward

    def live_beside(self, local: Local | None) -> None:
        """Call ``local``, the kernel server that this client's process embeds, directly from now on; None: there is none."""
        self._attempts.beside = local

    def close(self) -> None:
        """End all calls: those in flight are not repeated, later ones raise ``ClusterUnavailable``. Idempotent."""
        self.registry.close()

    async def trusted(self) -> bool:
        """Whether the cluster's servers may unpickle what this process sends (same host, or mutual TLS)."""
        if self._local is not None:
            return True
        problem: AminoError | None = None
        for address in self.addresses.candidates():
            try:
                return (await self.transport.peer(address, timeout_s=_CONNECT_S)).trusted
            except NotExecuted as error:
                problem = error
        raise problem or NotExecuted("no server of the cluster is known", reason="unreachable")

    # --- locations -------------------------------------------------------------------------------------------------

    def learn(self, location: Location) -> Target:
        """Take over a location that an answer carried."""
        target = self.target(location.microservice, location.spec.name)
        if target.forward is not None and target.chain != location.spec.dms:
            target.forward = None
        target.location = location
        target.stale = None
        return target

    async def locate(self, target: Target, path: str, deadline: float) -> Location:
        """Look a microservice up, waiting a moment for something newer than what was of no use."""
        stale: dict[str, int] = {}
        incarnation: tuple[str, int] | None = None
        avoid = ""
        if target.stale is not None:
            server, number, avoid, epoch = target.stale
            stale[path] = epoch
            incarnation = (server, number)
        waits = bool(stale)
        if path != "/":
            stale.setdefault(path, 0)  # so that the answer says if that very group cannot be called
        remaining = deadline - self.clock.monotonic()
        if remaining <= 0:
            raise NotExecuted(f"{target.microservice} was not found before the deadline", reason="deadline")
        request = LocateRequest(
            microservice=target.microservice,
            stale=stale,
            stale_incarnation=incarnation,
            wait_s=min(_LOCATE_WAIT_S, remaining) if waits else 0.0,
        )
        location: Location
        try:
            location = await self.registry.call("locate", request, timeout_s=remaining, avoid=avoid)
        except OutcomeUnknown as error:  # of the look-up: the call itself was not sent
            raise NotExecuted(f"{target.microservice} could not be looked up: {error}", reason="unreachable") from error
        self.learn(location)
        return location

    def is_stale(self, target: Target, call: Call, error: NotExecuted) -> bool:
        """Update what is remembered after ``error``; returns whether a newer location is at hand, from it or another call."""
        path = call.path
        found = target.where(path)
        if found is not None and found[0].epoch > call.sent_epoch:
            return True  # another call has found it already; doubting that one would wait for a next that never comes
        details = error.details
        location = target.location
        if found is not None and "replica" in details and location is not None:
            group, replica = found
            moved = ReplicaLocation(
                str(details["replica"]), str(details["server"]), int(details["incarnation"]), str(details["address"])
            )
            if int(details["epoch"]) > group.epoch:
                groups = {**location.groups, path: GroupLocation(int(details["epoch"]), (moved,), group.primary)}
                target.location = Location(location.microservice, location.spec, groups, location.methods)
                return True
        if found is not None and error.reason not in {"overloaded", "deadline", "locked", "moving", "not-ready"}:
            group, replica = found
            target.stale = (replica.server, replica.incarnation, replica.address, group.epoch)
            target.location = None
            self._attempts.forget(replica.address)
        return False


def _anew(call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
    """Return ``call`` as it was before any client component: what those of another chain made of it is theirs."""
    call.args, call.kwargs, call.encoded, call.headers, call.path = args, kwargs, None, None, "/"
    return call


def _loaded_class(path: str) -> type | None:
    import sys

    module, _, qualname = path.partition(":")
    found: Any = sys.modules.get(module)
    for part in qualname.split("."):
        found = getattr(found, part, None)
    return found if isinstance(found, type) else None
