"""How the parts of a kernel server reach each other and other servers: small adapters, each for one port.

Owns these adapters. Leaves who gets which to ``kernel_server``.
Invariant: an adapter keeps no state but what it was given.
Failure behaviour: as what it adapts.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import msgspec

from amino.aio.mode import on
from amino.contracts.calls import component_message
from amino.contracts.services import Kernel, NotifyReply, Registry
from amino.dm.base import Trait
from amino.dm.registry import levels_of, managers_of, provides, requires
from amino.errors import CodeUnavailable
from amino.rpc.system import call_system, proxy, system_head
from amino.stubs.runtime import Runtime
from amino.wire.frames import FrameKind, Status

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from amino.contracts.calls import Call
    from amino.contracts.documents import GroupDocument, MicroserviceSpec
    from amino.contracts.levels import Level
    from amino.contracts.services import NotifyRequest
    from amino.node.kernel_server import KernelServer
    from amino.rpc.port import Reply, Transport
    from amino.wire.codec import Buffer

_log = logging.getLogger("amino.node")
_NOTIFY = system_head("kernel", "notify")
_encode = msgspec.msgpack.Encoder().encode
_decode_notified = msgspec.msgpack.Decoder(NotifyReply).decode


class LocalServer:
    """Implements ``stubs.runtime.Local``."""

    def __init__(self, owner: KernelServer) -> None:
        self._owner = owner
        self.server = owner.name
        self.incarnation = owner.incarnation

    async def serve_local(self, call: Call, epoch: int, number: int, segments: Sequence[Buffer]) -> Any:
        return await self._owner.dispatcher.serve_local(call, epoch, number, segments)

    def valid(self) -> bool:
        return self._owner._session.valid()  # noqa: SLF001 - a part of its owner


class Beside(LocalServer):
    """As ``LocalServer``, for the client whose process embeds the server: its calls come from threads and from other loops.

    Args:
        loop: the server's own.
    """

    def __init__(self, owner: KernelServer, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(owner)
        self._loop = loop

    async def serve_local(self, call: Call, epoch: int, number: int, segments: Sequence[Buffer]) -> Any:
        running = asyncio._get_running_loop()  # noqa: SLF001 - as in aio.mode
        if running is None or running is self._loop:  # a thread runs the method itself
            return await super().serve_local(call, epoch, number, segments)
        return await on(self._loop, super().serve_local(call, epoch, number, segments))


class Kernels:
    """Implements ``contracts.services.KernelCaller``."""

    def __init__(self, owner: KernelServer) -> None:
        self._owner = owner

    def at(self, address: str) -> Kernel:
        if address == self._owner._settings.address:  # noqa: SLF001 - a part of its owner
            return self._owner.host
        transport = self._owner._ports.transport  # noqa: SLF001 - as above
        return proxy(transport, address, "kernel", Kernel, 60.0)  # type: ignore[type-abstract]

    def post(
        self,
        address: str,
        request: NotifyRequest,
        payload: bytes,
        on_answer: Callable[[bytes], None],
        timeout_s: float,
    ) -> bool:
        """Send a notification to the kernel at ``address`` without waiting; returns whether it was sent."""

        def answered(reply: Reply) -> None:
            if reply.status == Status.OK:
                on_answer(_decode_notified(reply.segments[0]).payload)

        transport = self._owner._ports.transport  # noqa: SLF001 - as above
        return transport.post(
            address, FrameKind.SYSTEM, _NOTIFY, [_encode(request), payload], answered, timeout_s=timeout_s
        )


class KnownMembers:
    """Implements ``kernel.groups.Members``."""

    def __init__(self, owner: KernelServer) -> None:
        self._directory = owner.oms.directory
        self._ports = owner._ports  # noqa: SLF001 - a part of its owner

    def group_seen(self, microservice: str, path: str) -> tuple[GroupDocument, int] | None:
        return self._directory.group(microservice, path)

    def address_of(self, server: str, incarnation: int) -> str | None:
        found = self._directory.server(server)
        return found.record.address if found is not None and found.incarnation == incarnation else None

    def lives(self, server: str, incarnation: int) -> bool:
        return self._directory.lives(server, incarnation)

    async def proven_dead(self, server: str, incarnation: int) -> bool:
        return await self._ports.store.get(self._ports.keys.tombstone(server, incarnation)) is not None


class Messenger:
    """Implements ``oms.shards.Messenger``."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    async def message(
        self, microservice: str, path: str, manager: str, topic: str, payload: Any, timeout_s: float
    ) -> Any:
        target = self._runtime.target(microservice)
        return await self._runtime.message(target, path, component_message(manager, topic), payload, timeout_s)


class Peers:
    """Implements ``contracts.services.RegistryCaller``."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def forward(self, address: str, method: str, request: msgspec.Struct, timeout_s: float) -> Any:
        return await call_system(
            self._transport, address, "registry", Registry, method, request, timeout_s=timeout_s, forwarded=True
        )


class Chains:
    """Implements ``oms.ports.Chains``."""

    def validate(self, spec: MicroserviceSpec) -> None:
        try:
            managers_of(spec.dms)
        except CodeUnavailable as error:
            _log.info("a chain names a manager that is not installed here: %s", error)  # another server may have it

    def levels(self, spec: MicroserviceSpec) -> tuple[Level, ...]:
        return levels_of(spec.dms)

    def recovers_from_checkpoint(self, spec: MicroserviceSpec) -> bool:
        return provides(spec.dms, Trait.CHECKPOINTS)

    def needs_store(self, spec: MicroserviceSpec) -> bool:
        return requires(spec.dms, Trait.STORE)

    def keeps_in_place(self, spec: MicroserviceSpec) -> str | None:  # noqa: ARG002 - no manager does so yet
        return None
