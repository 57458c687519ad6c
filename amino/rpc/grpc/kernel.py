"""The gRPC service Kernel: commands to this server, for other servers only.

Owns the agreement of a command's parts. Leaves carrying it out to the ``Kernel`` of the contracts.
Invariant: only servers are heard (``callers``).
Failure behaviour: as ``service``; ``PermissionDenied`` says what the caller lacks.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from google.protobuf.message import Message

from amino.contracts import services as contracts
from amino.contracts.services import Kernel
from amino.errors import Invalid
from amino.rpc.grpc.callers import require_server
from amino.rpc.grpc.messages import from_message, to_message
from amino.rpc.grpc.service import Method
from amino.wire.gen.amino_v1 import kernel_pb2 as pb
from amino.wire.gen.amino_v1.registry_pb2 import Empty

_Command = (
    contracts.InstantiateRequest
    | contracts.TransferRequest
    | contracts.AdoptRequest
    | contracts.ConvertRequest
    | contracts.RetireRequest
)
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
            "Convert": _command(contracts.ConvertRequest, lambda request, _: kernel.convert(request)),
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
