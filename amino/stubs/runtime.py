"""The runtime of a process that calls microservices: finding, sending, retrying what certainly did not run.

Owns the way of a call below the managers' client components: location, encoding, one attempt after the other for
``NotExecuted``, request ids, deadlines. Leaves repeating unknown outcomes to deployment managers, and registry operations to
``registry_client``.
Invariants: nothing is sent after the deadline; only calls that certainly did not run are repeated here; a request id is
settled exactly once.
Failure behaviour: at the deadline the last reason is raised: ``NotExecuted``, or ``OutcomeUnknown`` once any attempt was.
"""

from __future__ import annotations

import os
import random
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from amino import limits
from amino.aio.mode import sleep
from amino.contracts.calls import CURRENT, Call, CallHead, Raised, RequestId, encode_call_head
from amino.contracts.documents import DmSpec
from amino.contracts.services import GroupLocation, LocateRequest, Location, ReplicaLocation
from amino.contracts.tracing import observed, traced
from amino.errors import AminoError, NotExecuted, OutcomeUnknown
from amino.stubs.sender import Sender
from amino.stubs.stub import DynamicStub, stub_class
from amino.stubs.target import Target
from amino.telemetry import names
from amino.wire import codec
from amino.wire.codec import Reference
from amino.wire.frames import FrameKind, Status, decode_error

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from amino.aio.clock import Clock
    from amino.contracts.calls import Forward
    from amino.rpc.port import Transport
    from amino.stubs.addresses import AddressBook
    from amino.stubs.ports import ClassCode, Local
    from amino.stubs.registry_client import RegistryClient
    from amino.telemetry.trace import Telemetry

_LOCATE_WAIT_S = 0.5
_CONNECT_S = 2.0

DEADLINE: ContextVar[float | None] = ContextVar("amino_deadline_s", default=None)
"""Seconds that a call from this context may take, set by ``amino.deadline``."""


class ClientWorld:
    """What a client component sees of the world (``contracts.component.ClientContext``)."""

    def __init__(self, runtime: Runtime, target: Target) -> None:
        self._runtime = runtime
        self._target = target
        self.microservice = target.microservice
        self.clock = runtime.clock
        self.random = runtime.random
        self.telemetry = runtime.telemetry

    async def sleep(self, seconds: float) -> None:
        """Wait in the way that fits the caller."""
        await sleep(seconds)


class Runtime:
    """Calls microservices, from event loops and threads alike.

    Args:
        client_id: of this process; new after fork.
        describe_class: tells how servers can have a class.
        compose: builds the client side of a chain: (managers, world, innermost) -> first forward.
        local: the kernel server this runtime is part of, if any.
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
    ) -> None:
        self.client_id = client_id
        self.transport = transport
        self.addresses = addresses
        self.registry = registry
        self.describe_class = describe_class
        self.clock = clock
        self.telemetry = telemetry
        self.random = random.Random(seed)
        self.entropy: Callable[[int], bytes] = os.urandom if seed is None else self.random.randbytes
        self.cluster: Any = None
        self._compose = compose
        self._local = local
        self._targets: dict[str, Target] = {}
        self._given_out = 0
        self._trusted: dict[str, bool] = {}

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
            location = await self._locate(target, "/", self.clock.monotonic() + limits.DEADLINE_S_DEFAULT)
        return location.methods

    # --- calls -----------------------------------------------------------------------------------------------------

    async def invoke(
        self, target: Target, method: str, flags: int, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Call ``method`` and return its result, or raise what it raised.

        Raises:
            AminoError: about the call itself. Cancellation abandons the wait; the call may still run.
        """
        microservice = target.microservice
        timeout_s = DEADLINE.get()
        deadline = self.clock.monotonic() + (limits.DEADLINE_S_DEFAULT if timeout_s is None else timeout_s)
        current = CURRENT.get()
        if current is not None and current.runtime is self:
            outer = current.request
            request = RequestId(outer.client, outer.microservice, outer.sequence, (*outer.path, current.next_nested()))
            deadline = min(deadline, current.deadline)
            call = Call(microservice, method, args, kwargs, flags, request, deadline, current.floor)
            call.traceparent = current.traceparent
            return await self._through(target, call)
        sequence, floor = target.begin()
        request = RequestId(self.client_id, microservice, sequence)
        try:
            return await self._through(
                target, Call(microservice, method, args, kwargs, flags, request, deadline, floor)
            )
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
            return await self._through(target, call, unwrap=False)
        finally:
            if sequence:
                target.settle(sequence)

    async def _through(self, target: Target, call: Call, *, unwrap: bool = True) -> Any:
        """Pass ``call`` through the client side of its chain."""
        forward = target.forward
        try:
            if forward is None:
                forward = await self._compose_for(target, call.deadline)
            if self.telemetry.observing:
                return await self._observed(forward, target, call)
            return await forward(call)
        except Raised as raised:
            if not unwrap:
                raise
            raise raised.error from None

    def renew(self, client_id: str) -> None:
        """Become another client, after a fork: sequences of the parent are not ours."""
        self.client_id = client_id
        self._targets = {}

    async def _observed(self, forward: Forward, target: Target, call: Call) -> Any:
        location = target.location
        cls = location.spec.cls.rpartition(":")[2] if location is not None else "?"
        label = f"{cls}.{call.method}"
        return await observed(
            self.telemetry,
            names.CLIENT_CALL,
            forward,
            call,
            side=names.SIDE_CLIENT,
            label=label,
            monotonic=self.clock.monotonic,
            attributes={names.MICROSERVICE: call.microservice, names.METHOD_NAME: label},
        )

    async def _compose_for(self, target: Target, deadline: float) -> Forward:
        location = target.location
        if location is None:
            location = await self._locate(target, "/", deadline)
        forward = self._compose(location.spec.dms, ClientWorld(self, target), Sender(self, target).send)
        target.chain, target.forward = location.spec.dms, forward
        return forward

    def close(self) -> None:
        """End all calls: those in flight are not repeated, later ones raise ``ClusterUnavailable``. Idempotent."""
        self.registry.close()

    async def attempt(self, target: Target, call: Call) -> Any:
        """Send ``call`` once to wherever its microservice is believed to be.

        Raises:
            NotExecuted, OutcomeUnknown, Raised, or what the server says of the call. ClusterUnavailable: it was closed.
        """
        self.registry.check_open()
        found = target.where(call.path)
        if found is None:
            await self._locate(target, call.path, call.deadline)
            found = target.where(call.path)
            if found is None:
                raise NotExecuted(f"{target.microservice} has no group {call.path}; look it up again", reason="moved")
        group, replica = found
        call.sent_epoch = group.epoch
        remaining = call.deadline - self.clock.monotonic()
        if remaining <= 0:
            raise NotExecuted(f"the deadline of {call.method} passed before it was sent", reason="deadline")
        local = self._local
        if local is not None:
            if not local.valid():
                raise NotExecuted(f"{local.server} cannot prove its session and sends no calls", reason="not-ready")
            if replica.server == local.server and replica.incarnation == local.incarnation:
                return await self._attempt_local(local, call, group.epoch)
        if self.addresses.is_lost(replica.server, replica.incarnation):
            raise NotExecuted(f"{replica.server} is lost; a successor is being placed", reason="unreachable")
        if self.telemetry.tracing:
            return await traced(
                self.telemetry,
                names.TRANSPORT,
                lambda call: self._attempt_remote(call, group.epoch, replica, remaining),
                call,
                kind="client",
                attributes={names.PEER: replica.address, names.SERVER: replica.server, names.ATTEMPT: call.attempt},
            )
        return await self._attempt_remote(call, group.epoch, replica, remaining)

    async def _attempt_remote(self, call: Call, epoch: int, replica: ReplicaLocation, remaining: float) -> Any:
        address = replica.address
        trusted = self._trusted.get(address)
        if trusted is None:
            trusted = self._trusted[address] = (await self.transport.peer(address, timeout_s=remaining)).trusted
        if call.encoded is None:
            call.encoded = codec.encode_arguments(call.args, call.kwargs, trusted=trusted)
        number, segments = call.encoded
        now = self.clock.monotonic()
        if not call.first_sent:
            call.first_sent = now
        request = call.request
        head = encode_call_head(
            CallHead(
                call.microservice,
                call.path,
                epoch,
                call.method,
                request.client,
                request.microservice,
                request.sequence,
                request.path,
                call.floor,
                call.attempt,
                now - call.first_sent,
                call.deadline - now,
                number,
                call.traceparent,
                call.headers,
            )
        )
        try:
            reply = await self.transport.request(address, FrameKind.CALL, head, segments, timeout_s=call.deadline - now)
            return self._result(reply.status, reply.head, reply.segments, trusted=trusted)
        except OutcomeUnknown:  # of the transport, or the server's own word
            call.attempt += 1
            raise

    async def _attempt_local(self, local: Local, call: Call, epoch: int) -> Any:
        if call.encoded is None:
            call.encoded = codec.encode_arguments(call.args, call.kwargs, trusted=True)
        number, segments = call.encoded
        if len(segments) > 1:  # buffers out of band are the caller's own memory
            segments = [segments[0], *map(bytearray, segments[1:])]
        now = self.clock.monotonic()
        if not call.first_sent:
            call.first_sent = now
        copy = Call(
            call.microservice,
            call.method,
            (),
            {},
            call.flags,
            call.request,
            call.deadline,
            call.floor,
            call.attempt,
            path=call.path,
            headers=call.headers,
            traceparent=call.traceparent,
            age_s=now - call.first_sent,
        )
        try:
            status, head, answer = await local.serve_local(copy, epoch, number, segments)
            return self._result(status, head, answer, trusted=True)
        except OutcomeUnknown:
            call.attempt += 1
            raise

    def _result(self, status: int, head: Any, segments: Sequence[Any], *, trusted: bool) -> Any:
        if status == Status.OK:
            return codec.decode(head[0], segments, trusted=trusted, binding=self)
        if status == Status.APPLICATION_ERROR:
            raise Raised(codec.decode_exception(head, segments, trusted=trusted, binding=self))
        raise decode_error(bytes(head))

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

    async def _locate(self, target: Target, path: str, deadline: float) -> Location:
        stale: dict[str, int] = {}
        incarnation: tuple[str, int] | None = None
        avoid = ""
        if target.stale is not None:
            server, number, avoid, epoch = target.stale
            stale[path] = epoch
            incarnation = (server, number)
        remaining = deadline - self.clock.monotonic()
        if remaining <= 0:
            raise NotExecuted(f"{target.microservice} was not found before the deadline", reason="deadline")
        request = LocateRequest(
            microservice=target.microservice,
            stale=stale,
            stale_incarnation=incarnation,
            wait_s=min(_LOCATE_WAIT_S, remaining) if stale else 0.0,
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
        if found is not None and error.reason not in {"overloaded", "deadline", "moving", "not-ready"}:
            group, replica = found
            target.stale = (replica.server, replica.incarnation, replica.address, group.epoch)
            target.location = None
            self._trusted.pop(replica.address, None)
        return False


def _loaded_class(path: str) -> type | None:
    import sys

    module, _, qualname = path.partition(":")
    found: Any = sys.modules.get(module)
    for part in qualname.split("."):
        found = getattr(found, part, None)
    return found if isinstance(found, type) else None
