"""The gRPC service Kernel: commands to this server, for other servers only.

Owns who may command and the agreement of a command's parts. Leaves carrying it out to the ``Kernel`` of the contracts.
Invariants: with TLS the caller's certificate says that it is a server; without TLS only callers on this machine that
state the role are heard, as on the peer link.
Failure behaviour: as ``service``; ``PermissionDenied`` says what the caller lacks.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import unquote

import msgspec
from google.protobuf.message import Message

from amino.contracts import services as contracts
from amino.contracts.services import Kernel
from amino.errors import Invalid, PermissionDenied
from amino.rpc.address import parse_address
from amino.rpc.grpc.messages import from_message, to_message
from amino.rpc.grpc.service import Method, metadata_value
from amino.rpc.handshake import Identity
from amino.rpc.tls import identity_of
from amino.wire.gen.amino_v1 import kernel_pb2 as pb
from amino.wire.gen.amino_v1.registry_pb2 import Empty

ROLE_KEY = "amino-role"

_Command = contracts.InstantiateRequest | contracts.TransferRequest | contracts.AdoptRequest | contracts.RetireRequest
_encode = msgspec.msgpack.Encoder().encode


class KernelService:
    """The methods of ``amino.v1.Kernel``.

    Args:
        kernel: what they end in.
        secure: whether the port asks for certificates.
    """

    def __init__(self, kernel: Kernel, *, secure: bool) -> None:
        self._kernel = kernel
        self._secure = secure

    def methods(self) -> dict[str, Method]:
        """Return the methods by name, each behind the check of the caller's role."""
        kernel = self._kernel
        methods: dict[str, Method] = {
            "Instantiate": _command(contracts.InstantiateRequest, lambda request, _: kernel.instantiate(request)),
            "Transfer": _command(contracts.TransferRequest, lambda request, _: kernel.transfer(request)),
            "Adopt": _command(contracts.AdoptRequest, kernel.adopt),
            "Retire": _command(contracts.RetireRequest, lambda request, _: kernel.retire(request)),
            "Fence": self._fence,
            "Statistics": self._statistics,
            "Replicas": self._replicas,
        }
        return {name: self._guarded(method) for name, method in methods.items()}

    def _guarded(self, method: Method) -> Method:
        async def guarded(message: Any, context: Any) -> Message:
            require_server(context, secure=self._secure)
            return await method(message, context)

        return guarded

    async def _fence(self, message: pb.FenceRequest, _context: Any) -> Message:
        await self._kernel.fence(from_message(message, contracts.FenceRequest))
        return Empty()

    async def _statistics(self, _message: Empty, _context: Any) -> Message:
        return to_message(await self._kernel.statistics(contracts.Empty()), pb.KernelStatistics())

    async def _replicas(self, _message: Empty, _context: Any) -> Message:
        return to_message(await self._kernel.replicas(contracts.Empty()), pb.ReplicaList())


def require_server(context: Any, *, secure: bool) -> None:
    """Make sure that the caller may command this server.

    Raises:
        PermissionDenied: it is no server, or cannot prove that it is.
    """
    if secure:
        identity = _identity(context)
        if identity is None or identity.role != "server":
            raise PermissionDenied(
                "amino.v1.Kernel is for servers, and the caller's certificate is for a client; use Registry and "
                "Invoke, or a certificate with the URI amino://role/server"
            )
        return
    peer = unquote(context.peer())
    kind, _, rest = peer.partition(":")
    if kind != "unix" and not (kind in ("ipv4", "ipv6") and parse_address(rest).is_loopback):
        raise PermissionDenied(
            f"amino.v1.Kernel without TLS is heard on this machine only, and the caller is {peer}; configure TLS"
        )
    if metadata_value(context, ROLE_KEY) != "server":
        raise PermissionDenied(
            f"amino.v1.Kernel is for servers; use Registry and Invoke (a server sends the metadata {ROLE_KEY}: server)"
        )


def _identity(context: Any) -> Identity | None:
    found = context.auth_context()
    uris = [name.decode(errors="replace") for name in found.get("x509_subject_alternative_name", ())]
    names = [name.decode(errors="replace") for name in found.get("x509_common_name", ())]
    return identity_of(_Certificate(uris, names))


class _Certificate:
    """What gRPC tells of the caller's certificate, in the form that the ``ssl`` module has for it."""

    def __init__(self, uris: list[str], names: list[str]) -> None:
        self._uris = uris
        self._names = names

    def getpeercert(self) -> dict[str, Any]:
        return {"subject": ", ".join(self._names), "subjectAltName": tuple(("URI", uri) for uri in self._uris)}


def _command(kind: type[Any], run: Callable[[Any, memoryview], Awaitable[Any]]) -> Method:
    decoder = msgspec.msgpack.Decoder(kind)

    async def method(message: pb.KernelCommand, _context: Any) -> Message:
        try:
            request: _Command = decoder.decode(message.body)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise Invalid(
                f"body is no {kind.__name__}: {error}; both servers must be of compatible releases"
            ) from error
        _agree(message, request)
        answer = await run(request, memoryview(message.snapshot))
        return pb.KernelAnswer(document_revision=getattr(answer, "document_revision", 0), body=_encode(answer))

    return method


def _agree(message: pb.KernelCommand, request: _Command) -> None:
    fence = request.fence
    pairs = {
        "microservice": (message.microservice, request.microservice),
        "path": (message.path, request.path),
        "replica": (message.replica, getattr(request, "replica", "")),
        "fence.slot": (message.fence.slot, fence.slot),
        "fence.leader_revision": (message.fence.leader_revision, fence.leader_revision),
        "fence.document_revision": (message.fence.document_revision, fence.document_revision),
    }
    for name, (outside, inside) in pairs.items():
        if outside != inside:
            raise Invalid(f"{name} is {outside!r} in the message and {inside!r} in its body; send the same in both")
