"""System services over the transport port: typed msgpack messages for Registry and Kernel.

Owns naming a service and method in a SYSTEM frame, decoding with typed, bounded decoders, and proxies for callers.
Leaves what the services do to ``oms`` and ``kernel``. A method takes one message, or a message and a raw payload.
Invariants: only methods of the registered Protocol can be called; services for servers refuse clients.
Failure behaviour: bad input is answered with ``Invalid`` naming it; a service that fails unexpectedly answers with an
error and is logged.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar, cast, get_type_hints

import msgspec

from amino.errors import AminoError, Invalid, OutcomeUnknown, PermissionDenied
from amino.telemetry import names
from amino.telemetry.trace import NO_SPAN, Telemetry, current_traceparent, is_unsampled
from amino.wire.frames import FrameKind, Status, decode_error, encode_error

if TYPE_CHECKING:
    from amino.aio.tasks import TaskOwner
    from amino.rpc.port import Inbound, Link, Peer, Transport
    from amino.telemetry.trace import Attributes, Span

_log = logging.getLogger("amino.rpc.system")
_ANSWER_SLACK_S = 1.0
_TIMEOUT_S = 10.0
_SILENT = Telemetry.disabled()
T = TypeVar("T")


class SystemHead(msgspec.Struct, array_like=True):
    """Head of a SYSTEM frame."""

    service: str
    method: str
    forwarded: bool = False
    traceparent: str | None = None


class _Method:
    __slots__ = ("decode_reply", "decode_request", "request")

    def __init__(self, function: Callable[..., Any]) -> None:
        hints = get_type_hints(function)
        self.request: type = hints["request"]
        self.decode_request = msgspec.msgpack.Decoder(self.request).decode
        self.decode_reply = msgspec.msgpack.Decoder(hints["return"]).decode


_tables: dict[type, dict[str, _Method]] = {}


def _table(protocol: type) -> dict[str, _Method]:
    found = _tables.get(protocol)
    if found is None:
        found = _tables[protocol] = {
            name: _Method(member)
            for name, member in vars(protocol).items()
            if inspect.iscoroutinefunction(member) and not name.startswith("_")
        }
    return found


_encode = msgspec.msgpack.Encoder().encode
_decode_head = msgspec.msgpack.Decoder(SystemHead).decode


class SystemDispatcher:
    """Serves SYSTEM frames.

    Args:
        tasks: owner of the tasks that run requests.
        allow: called with (peer, service, method, request); raises to refuse.
        telemetry: shows requests on behalf of something that is traced.
    """

    def __init__(
        self,
        tasks: TaskOwner,
        allow: Callable[[Peer, str, str, msgspec.Struct], None] | None = None,
        telemetry: Telemetry = _SILENT,
    ) -> None:
        self._tasks = tasks
        self._allow = allow
        self._telemetry = telemetry
        self._services: dict[str, tuple[Any, dict[str, _Method], bool, Any, dict[str, Callable[..., Any]]]] = {}
        self._subscriptions: dict[str, Callable[[Link], bytes]] = {}

    def register(self, name: str, service: Any, protocol: type, *, servers_only: bool, forwarded: Any = None) -> None:
        """Offer ``service`` under ``name``.

        Where it has ``<method>_now`` beside ``<method>``, that answers without ever waiting, and without a coroutine.

        Args:
            forwarded: ``(method, request)`` -> answer, for requests that another server passed on; as any other if None.
        """
        table = _table(protocol)
        self._services[name] = (
            service,
            table,
            servers_only,
            forwarded if forwarded is not None else service,
            {each: getattr(service, f"{each}_now") for each in table if hasattr(service, f"{each}_now")},
        )

    def register_subscription(self, name: str, subscribe: Callable[[Link], bytes]) -> None:
        """Offer a subscription: ``subscribe(link)`` returns the first answer and pushes later ones over the link."""
        self._subscriptions[name] = subscribe

    def handle(self, inbound: Inbound) -> None:
        """Answer one SYSTEM frame; runs on the loop, returns at once."""
        try:
            head = _decode_head(inbound.head)
            if head.service == "subscribe":
                subscribe = self._subscriptions.get(head.method)
                if subscribe is None:
                    raise Invalid(f"no subscription is called {head.method!r}; there are {sorted(self._subscriptions)}")
                inbound.reply(Status.OK, b"", [subscribe(inbound.link)])
                return
            entry = self._services.get(head.service)
            if entry is None:
                raise Invalid(f"no system service is called {head.service!r}; there are {sorted(self._services)}")
            service, table, servers_only, forwarded, at_once = entry
            peer = inbound.link.peer
            if (servers_only or head.forwarded) and peer.role != "server":
                raise PermissionDenied(
                    f"{head.service}.{head.method} is for kernel servers; {peer.address} came as {peer.role!r}. "
                    "Use the registry, or a certificate with the server role"
                )
            method = table.get(head.method)
            if method is None:
                raise Invalid(f"service {head.service} has no method {head.method!r}; it has {sorted(table)}")
            segments = inbound.segments
            try:
                request = method.decode_request(segments[0] if segments else b"")
            except msgspec.MsgspecError as error:
                raise Invalid(f"{head.service}.{head.method}: {error}; the peer's release is incompatible") from error
            if self._allow is not None:
                self._allow(peer, head.service, head.method, request)
            now = at_once.get(head.method)
            if now is not None and len(segments) == 2 and not head.forwarded:
                self._answer_now(inbound, head, now, request, segments[1])
                return
            answer = self._begin(service, head, request, segments[1:], forwarded)
        except msgspec.MsgspecError as error:
            inbound.reply(Status.ERROR, encode_error(Invalid(f"a system request is malformed: {error}")))
            return
        except AminoError as error:
            inbound.reply(Status.ERROR, encode_error(error))
            return
        self._tasks.start(self._run(inbound, head, answer), f"{head.service}.{head.method}")

    def _span(self, head: SystemHead) -> Span:
        if head.traceparent is None or not self._telemetry.tracing:
            return NO_SPAN
        if is_unsampled(head.traceparent):
            return self._telemetry.inside(head.traceparent)
        attributes: Attributes = {
            names.SERVICE: head.service,
            names.METHOD_NAME: head.method,
            names.RPC_SYSTEM: names.SCOPE,
            names.RPC_SERVICE: head.service,
            names.RPC_METHOD: head.method,
        }
        return self._telemetry.span(names.SYSTEM_CALL, kind="server", parent=head.traceparent, attributes=attributes)

    @staticmethod
    def _begin(
        service: Any, head: SystemHead, request: Any, payload: list[memoryview], forwarded: Any
    ) -> Awaitable[Any]:
        if head.forwarded and forwarded is not None:
            return forwarded(head.method, request)  # type: ignore[no-any-return]
        try:
            return getattr(service, head.method)(request, *payload)  # type: ignore[no-any-return]
        except TypeError as error:
            raise Invalid(
                f"{head.service}.{head.method}: {len(payload)} payload segments do not fit: {error}"
            ) from error

    async def _run(self, inbound: Inbound, head: SystemHead, work: Awaitable[Any]) -> None:
        try:
            with self._span(head):
                answer = await work
        except Exception as error:  # noqa: BLE001 - a service's bug must not leave its caller waiting
            inbound.reply(Status.ERROR, _failure(head, error))
        else:
            inbound.reply(Status.OK, b"", [_encode(answer)])

    @staticmethod
    def _answer_now(
        inbound: Inbound, head: SystemHead, now: Callable[..., Any], request: Any, payload: memoryview
    ) -> None:
        try:
            answer = now(request, payload)
        except Exception as error:  # noqa: BLE001 - as in _run
            inbound.reply(Status.ERROR, _failure(head, error))
        else:
            inbound.reply(Status.OK, b"", [_encode(answer)])


def _failure(head: SystemHead, error: Exception) -> bytes:
    """Return what the caller is told, encoded."""
    if isinstance(error, AminoError):
        return encode_error(error)
    _log.error("%s.%s failed", head.service, head.method, exc_info=error)
    problem = OutcomeUnknown(
        f"{head.service}.{head.method} failed unexpectedly ({type(error).__name__}: {error}); see the server's log"
    )
    return encode_error(problem)


def system_head(service: str, method: str, *, forwarded: bool = False, traceparent: str | None = None) -> bytes:
    """Return the head of a SYSTEM frame."""
    return _encode(SystemHead(service, method, forwarded, traceparent))


async def call_system(
    transport: Transport,
    address: str,
    service: str,
    protocol: type,
    method: str,
    request: msgspec.Struct,
    *payload: bytes | memoryview,
    timeout_s: float | None = None,
    forwarded: bool = False,
) -> Any:
    """Call ``service.method`` at ``address``; works on loops and, blocking, in threads.

    Args:
        timeout_s: seconds; by default the request's own ``timeout_s`` or ``wait_s`` and a little more.

    Raises:
        AminoError: the service's own errors as themselves; ``NotExecuted`` or ``OutcomeUnknown`` of the transport.
    """
    if timeout_s is None:
        own = getattr(request, "timeout_s", None) or getattr(request, "wait_s", None)
        timeout_s = own + _ANSWER_SLACK_S if own else _TIMEOUT_S
    reply = await transport.request(
        address,
        FrameKind.SYSTEM,
        system_head(service, method, forwarded=forwarded, traceparent=current_traceparent()),
        [_encode(request), *payload],
        timeout_s=timeout_s,
    )
    if reply.status != Status.OK:
        raise decode_error(reply.head)
    try:
        return _table(protocol)[method].decode_reply(reply.segments[0])
    except (msgspec.MsgspecError, IndexError) as error:
        raise Invalid(
            f"the answer of {service}.{method} at {address} is malformed: {error}; upgrade this side"
        ) from error


class Proxy:
    """A system service at an address, with the methods of its Protocol; use ``proxy``."""

    def __init__(
        self, transport: Transport, address: str, service: str, protocol: type, timeout_s: float | None
    ) -> None:
        self._transport = transport
        self._address = address
        self._service = service
        self._protocol = protocol
        self._timeout_s = timeout_s

    def __repr__(self) -> str:
        return f"Proxy({self._service} at {self._address})"

    def __getattr__(self, name: str) -> Any:
        if name not in _table(self._protocol):
            raise AttributeError(f"{self._service} has no method {name!r}")

        def call(request: msgspec.Struct, *payload: bytes | memoryview) -> Awaitable[Any]:
            return call_system(
                self._transport,
                self._address,
                self._service,
                self._protocol,
                name,
                request,
                *payload,
                timeout_s=self._timeout_s,
            )

        return call


def proxy(transport: Transport, address: str, service: str, protocol: type[T], timeout_s: float | None = None) -> T:
    """Return the service at ``address`` as its Protocol."""
    return cast("T", Proxy(transport, address, service, protocol, timeout_s))
