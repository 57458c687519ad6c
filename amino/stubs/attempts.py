"""One attempt to have a call run by one replica: over a link, or right here when it is in this process.

Owns encoding a call, sending it once and reading its answer. Leaves where to, and repeating, to ``sender``.
Invariants: nothing is sent after the deadline, nor to a server that is known to be lost, nor without a valid session of ours.
Failure behaviour: ``NotExecuted`` while it certainly did not run, ``OutcomeUnknown`` (counted in ``call.attempt``) where it may
have, ``Raised`` with what the method raised, else what the server says of the call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from amino.contracts.calls import Call, CallHead, Raised, encode_call_head
from amino.contracts.tracing import traced
from amino.errors import NotExecuted, OutcomeUnknown
from amino.telemetry import names
from amino.telemetry.trace import is_unsampled
from amino.wire import codec
from amino.wire.frames import FrameKind, Status, decode_error

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

    from amino.contracts.services import GroupLocation, ReplicaLocation
    from amino.stubs.ports import Local
    from amino.stubs.runtime import Runtime

_CALL = int(FrameKind.CALL)
_OK = int(Status.OK)
_NOTHING = bytes([codec.NOTHING])
_NO_ARGUMENTS: tuple[int, Sequence[Any]] = (codec.NOTHING, ())


class Attempts:
    """Sends the calls of one runtime, each once.

    Args:
        runtime: whose calls; refs in results belong to it.
        local: the kernel server this process is, if any.

    Attributes:
        beside: the kernel server that this client's process embeds, while there is one.
    """

    def __init__(self, runtime: Runtime, local: Local | None) -> None:
        self._runtime = runtime
        self._transport = runtime.transport
        self._registry = runtime.registry
        self._addresses = runtime.addresses
        self._telemetry = runtime.telemetry
        self._now = runtime.clock.monotonic
        self._local = local
        self.beside: Local | None = None
        self._trusted: dict[str, bool] = {}

    def forget(self, address: str) -> None:
        """Ask anew who is at ``address`` before the next call there."""
        self._trusted.pop(address, None)

    def attempt(self, place: tuple[GroupLocation, ReplicaLocation], call: Call) -> Awaitable[Any]:
        """Return what sends ``call`` once to ``place``, and then has its result.

        Raises:
            NotExecuted, OutcomeUnknown, Raised, or what the server says of the call. ClusterUnavailable: it was closed.
        """
        if self._registry.closed:
            self._registry.check_open()
        group, replica = place
        call.sent_epoch = epoch = group.epoch
        now = self._now()
        if not call.first_sent:
            call.first_sent = now
        if call.deadline <= now:
            raise NotExecuted(f"the deadline of {call.method} passed before it was sent", reason="deadline")
        local = self._local
        if local is not None:
            if not local.valid():
                raise NotExecuted(f"{local.server} cannot prove its session and sends no calls", reason="not-ready")
            if replica.server == local.server and replica.incarnation == local.incarnation:
                return self._attempt_local(local, call, epoch, now)
        beside = self.beside
        if (
            beside is not None
            and replica.server == beside.server
            and replica.incarnation == beside.incarnation
            and beside.valid()
        ):
            return self._attempt_local(beside, call, epoch, now)
        addresses = self._addresses
        if addresses.lost and addresses.is_lost(replica.server, replica.incarnation):
            raise NotExecuted(f"{replica.server} is lost; a successor is being placed", reason="unreachable")
        if self._telemetry.tracing and not is_unsampled(call.traceparent):
            host, _, port = replica.address.rpartition(":")
            return traced(
                self._telemetry,
                names.TRANSPORT,
                lambda call: self._attempt_remote(call, epoch, replica.address, now),
                call,
                kind="client",
                attributes={
                    names.PEER: replica.address,
                    names.SERVER: replica.server,
                    names.REPLICA: replica.id,
                    names.EPOCH: epoch,
                    names.ATTEMPT: call.attempt,
                    names.SERVER_ADDRESS: host,
                    names.SERVER_PORT: int(port) if port.isdigit() else 0,
                },
            )
        return self._attempt_remote(call, epoch, replica.address, now)

    async def _attempt_remote(self, call: Call, epoch: int, address: str, now: float) -> Any:
        trusted = self._trusted.get(address)
        if trusted is None:
            peer = await self._transport.peer(address, timeout_s=call.deadline - now)
            trusted = self._trusted[address] = peer.trusted
            now = self._now()
        encoded = call.encoded
        if encoded is None:
            if call.args or call.kwargs:
                encoded = codec.encode_arguments(call.args, call.kwargs, trusted=trusted)
            else:
                encoded = _NO_ARGUMENTS
            call.encoded = encoded
        number, segments = encoded
        client, root, sequence, nested = call.request
        timeout_s = call.deadline - now
        head = encode_call_head(
            CallHead(
                call.microservice,
                call.path,
                epoch,
                call.method,
                client,
                root,
                sequence,
                nested,
                call.floor,
                call.attempt,
                now - call.first_sent,
                timeout_s,
                number,
                call.traceparent,
                call.headers,
            )
        )
        try:
            reply = await self._transport.request(address, _CALL, head, segments, timeout_s=timeout_s)
            status = reply.status
            if status == _OK and reply.head == _NOTHING:
                return None
            return self._result(status, reply.head, reply.segments, trusted=trusted)
        except OutcomeUnknown:  # of the transport, or the server's own word
            call.attempt += 1
            raise

    async def _attempt_local(self, local: Local, call: Call, epoch: int, now: float) -> Any:
        if call.encoded is None:
            call.encoded = codec.encode_arguments(call.args, call.kwargs, trusted=True)
        number, segments = call.encoded
        if len(segments) > 1:  # buffers out of band are the caller's own memory
            segments = [segments[0], *map(bytearray, segments[1:])]
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
        if status == _OK:
            return codec.decode(head[0], segments, trusted=trusted, binding=self._runtime)
        if status == Status.APPLICATION_ERROR:
            raise Raised(codec.decode_exception(head, segments, trusted=trusted, binding=self._runtime))
        raise decode_error(bytes(head))
