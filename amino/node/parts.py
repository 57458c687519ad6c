"""What a kernel server's host of objects gets from the rest of the server: code, chains, checkpoints, threads.

Owns ``Parts``. Leaves composing the server to ``kernel_server``.
Invariant: nothing of the kernel knows where these come from.
Failure behaviour: as each part's own.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, TypeVar

from amino.aio.signal import Signal
from amino.checkpoint.description import Describer, forget
from amino.checkpoint.replica_checkpoints import Domain
from amino.contracts.documents import encode
from amino.contracts.services import ClearDeathsRequest, ConvertRequest, Kernel
from amino.coordination.store import Compare, Delete, Operation, Put, unchanged
from amino.dm.base import Trait
from amino.dm.chain import ComposedServerChain
from amino.dm.registry import managers_of, requires
from amino.errors import AminoError, CodeUnavailable, Overloaded
from amino.ids import slot_of
from amino.node.adapters import Kernels
from amino.node.describing import AboutReplica

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from amino.contracts.component import ServerChain
    from amino.contracts.context import Checkpoints, ServerContext
    from amino.contracts.documents import GroupDocument, MicroserviceRecord, MicroserviceSpec
    from amino.kernel.object import KernelObject
    from amino.node.kernel_server import KernelServer
    from amino.wire.codec import FindClass

_log = logging.getLogger("amino.node")
T = TypeVar("T")


class Parts:
    """Implements ``kernel.host.Parts``."""

    def __init__(self, owner: KernelServer) -> None:
        self._owner = owner
        self._ports = owner._ports  # noqa: SLF001 - a part of its owner
        self._domain: Domain | None = None
        if self._ports.access is not None:
            self._domain = Domain(
                access=self._ports.access,
                store=self._ports.store,
                keys=self._ports.keys,
                loop=asyncio.get_running_loop(),
                session=owner._session,  # noqa: SLF001 - as above
                server=owner.name,
                clock=self._ports.clock,
                event=self._checkpoint_event,
                telemetry=self._ports.telemetry,
                random=owner._random,  # noqa: SLF001 - as above
            )

    async def load_class(self, spec: MicroserviceSpec) -> type:
        return await self._owner._loader.load(spec.cls, spec.code)  # noqa: SLF001 - as above

    def loaded_class(self, spec: MicroserviceSpec) -> type | None:
        return self._owner._loader.loaded(spec.cls, spec.code)  # noqa: SLF001 - as above

    def find_class(self, spec: MicroserviceSpec) -> FindClass | None:
        return self._owner._loader.find_class(spec.code) if spec.code else None  # noqa: SLF001 - as above

    @property
    def inline(self) -> bool:
        return self._owner._workers.inline  # noqa: SLF001 - as above

    def server_chain(self, spec: MicroserviceSpec, context: Callable[[int], ServerContext]) -> ServerChain:
        return ComposedServerChain(managers_of(spec.dms), context, self._ports.telemetry)

    def checkpoints(self, target: KernelObject) -> Checkpoints:
        if self._domain is None:
            raise CodeUnavailable(f"{self._owner.name} has no checkpoint store; start it with --store URL")
        about = AboutReplica(self._owner.oms, target)
        return self._domain.of(target.microservice, target.path, target.replica, target.epoch, about=about)

    async def arguments(self, record: MicroserviceRecord) -> bytes:
        if not record.arguments_url:
            return record.arguments
        return await self._owner._blobs.get(record.arguments_url)  # noqa: SLF001 - as above

    async def run(self, function: Callable[[], T]) -> T:
        done: Signal[tuple[T | None, BaseException | None]] = Signal()

        def job() -> None:
            try:
                outcome: tuple[T | None, BaseException | None] = (function(), None)
            except BaseException as error:  # noqa: BLE001 - handed to whoever waits for it
                outcome = (None, error)
            done.set(outcome)

        if not self._owner._workers.submit(job):  # noqa: SLF001 - as above
            raise Overloaded(f"{self._owner.name}: every worker thread is busy; retry", reason="overloaded")
        result, problem = await done.wait()
        if problem is not None:
            raise problem
        return result  # type: ignore[return-value]

    def kernel_at(self, address: str) -> Kernel:
        return Kernels(self._owner).at(address)

    def group_key(self, microservice: str, path: str) -> str:
        return self._ports.keys.group(slot_of(microservice), microservice, path)

    def change_of(self, request: ConvertRequest, goal: GroupDocument) -> tuple[Sequence[Compare], Sequence[Operation]]:
        keys, ms_id = self._ports.keys, request.microservice
        compares = [unchanged(self.group_key(ms_id, one.path), one.revision) for one in request.writes]
        write: list[Operation] = [Put(keys.microservice(slot_of(ms_id), ms_id), encode(request.record))]
        for one in request.writes:
            document = goal if one.path == request.to_path else one.document
            key = self.group_key(ms_id, one.path)
            write.append(Delete(key) if document is None else Put(key, encode(document)))
        if request.forget_checkpoints:
            write.append(Delete(keys.manifests_of(ms_id), prefix=True))
        return compares, write

    async def changed(self, target: KernelObject, request: ConvertRequest) -> None:
        domain, spec = self._domain, request.record.spec
        if domain is None:
            return
        try:
            if request.forget_checkpoints:
                await domain.access.run(forget, domain.access.store, target.microservice)
            elif requires(spec.dms, Trait.STORE):
                about = AboutReplica(self._owner.oms, target)
                await Describer(domain.access, domain.loop, about, target.microservice, target.path).keep()
        except AminoError as error:
            self.event("description-failed", target.microservice, str(error))

    def absent(self, microservice: str, path: str) -> None:
        self._owner._absences.notice(microservice, path)  # noqa: SLF001 - as above

    async def clear_deaths(self, microservice: str, path: str, replica: str, method: str) -> None:
        try:
            await self._owner.registry.clear_deaths(ClearDeathsRequest(microservice, path, replica, (method,)))
        except AminoError as error:  # counted deaths only come to matter with further ones
            _log.warning("deaths of %s in %s could not be cleared: %s", method, microservice, error)

    def event(self, kind: str, microservice: str, text: str) -> None:
        self._owner._loop.call_soon_threadsafe(  # noqa: SLF001 - as above
            self._owner.oms.events.add, kind, microservice, self._owner.name, text
        )

    def _checkpoint_event(self, kind: str, **fields: Any) -> None:
        self.event(kind, str(fields.get("microservice", "")), str(fields.get("text", "")))

    def stop_now(self, why: str) -> None:
        self._ports.stop_now(why)
