"""A kernel that keeps a number per object, with the promises of the real one, and classes that misbehave."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from amino.contracts.documents import GroupDocument, MicroserviceRecord, decode, encode
from amino.contracts.services import (
    AdoptRequest,
    ConvertReply,
    ConvertRequest,
    Empty,
    FenceRequest,
    InstantiateReply,
    InstantiateRequest,
    KernelStatistics,
    ReplicaInfo,
    ReplicaList,
    RetireRequest,
    TransferReply,
    TransferRequest,
)
from amino.coordination.store import Put, created_at, unchanged
from amino.errors import (
    CodeUnavailable,
    ConstructionFailed,
    CoordinationUnavailable,
    CorruptCheckpoint,
    NotExecuted,
    NotFound,
    StoreFailed,
)
from amino.ids import slot_of
from amino.kernel.confirm import Confirmer
from amino.oms import group_machine as machine

if TYPE_CHECKING:
    from tests.oms.world import Server


@dataclass
class FakeObject:
    """A kernel object: a number, and whether it answers."""

    replica: str
    epoch: int
    value: int = 0
    serving: bool = False


class FakeKernel:
    """The Kernel service with the promises of the real one: fences, confirmation, sealing."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.objects: dict[str, FakeObject] = {}
        self.fences: dict[str, tuple[int, int]] = {}
        self.locks: dict[str, asyncio.Lock] = {}
        self.commands: list[str] = []
        self.destroyed: list[str] = []

    def _check(self, ms_id: str, fence: Any) -> None:
        given = (fence.leader_revision, fence.document_revision)
        if given < self.fences.get(ms_id, (0, 0)):
            raise NotExecuted("older fence", reason="fenced")
        self.fences[ms_id] = given

    def lock(self, ms_id: str) -> asyncio.Lock:
        return self.locks.setdefault(ms_id, asyncio.Lock())

    async def instantiate(self, request: InstantiateRequest) -> InstantiateReply:
        ms_id, world = request.microservice, self.server.world
        async with self.lock(ms_id):
            self._check(ms_id, request.fence)
            self.commands.append(f"instantiate {request.source}")
            present = self.objects.get(ms_id)
            if present is not None and present.replica == request.replica:
                return await self._confirm(request, present)
            if request.source == "resume":
                raise NotFound("not here")
            self.objects.pop(ms_id, None)
            await world.behave(self.server, request)
            made = FakeObject(request.replica, request.document.epoch)
            if request.source == "checkpoint":
                if ms_id in world.corrupt:
                    raise CorruptCheckpoint("no checkpoint passes its checksum")
                made.value = world.checkpoints[ms_id]
            elif any(dm.name == "PeriodicCheckpoint" for dm in request.record.spec.dms):
                world.checkpoints[ms_id] = 0
            self.objects[ms_id] = made
            try:
                return await self._confirm(request, made)
            except BaseException:
                self.objects.pop(ms_id, None)
                raise

    async def _confirm(self, request: InstantiateRequest, one: FakeObject) -> InstantiateReply:
        document = machine.confirmed(request.document, {"add": 0})
        revision = await self.write(request.microservice, request.fence.document_revision, document)
        one.epoch, one.serving = request.document.epoch, True
        return InstantiateReply(revision, {"add": 0})

    async def write(
        self, ms_id: str, revision: int, document: GroupDocument, *more: Any, beside: tuple[Put, ...] = ()
    ) -> int:
        key = self.server.keys.group(slot_of(ms_id), ms_id, "/")
        mine = created_at(self.server.keys.server(self.server.name), self.server.incarnation)
        while True:
            try:
                result = await self.server.store.txn(
                    [mine, unchanged(key, revision), *more], [Put(key, encode(document)), *beside]
                )
            except CoordinationUnavailable:
                continue
            if result.succeeded:
                return result.revision
            record = await self.server.store.get(key)
            if record is not None and decode(record.value, GroupDocument) == document:
                return record.mod_revision
            raise NotExecuted("overtaken", reason="fenced")

    async def transfer(self, request: TransferRequest) -> TransferReply:
        ms_id, move = request.microservice, request.document.move
        assert move is not None
        async with self.lock(ms_id):
            self._check(ms_id, request.fence)
            self.commands.append("transfer")
            one = self.objects.get(ms_id)
            if one is None or one.replica != move.source:
                raise NotFound("not here")
            if ms_id in self.server.world.busy:
                raise NotExecuted("calls still run", reason="moving")
            one.serving = False
            adopt = AdoptRequest(ms_id, "/", request.record, request.document, request.fence)
            kernel = self.server.network(request.target_address)
            try:
                reply = await kernel.adopt(adopt, memoryview(str(one.value).encode()))
            except CodeUnavailable:
                one.serving = True
                raise
            self.objects.pop(ms_id, None)
            return TransferReply(reply.document_revision)

    async def adopt(self, request: AdoptRequest, snapshot: memoryview) -> InstantiateReply:
        ms_id = request.microservice
        async with self.lock(ms_id):
            self._check(ms_id, request.fence)
            self.commands.append("adopt")
            await self.server.world.behave(self.server, request)
            move = request.document.move
            assert move is not None
            one = FakeObject(move.target.id, request.document.epoch + 1, int(bytes(snapshot)))
            self.objects[ms_id] = one
            guard = created_at(self.server.keys.slot(request.fence.slot), request.fence.leader_revision)
            try:
                document = machine.switched(request.document)
                revision = await self.write(ms_id, request.fence.document_revision, document, guard)
            except BaseException:
                self.objects.pop(ms_id, None)
                raise
            one.serving = True
            return InstantiateReply(revision, {"add": 0})

    async def convert(self, request: ConvertRequest) -> ConvertReply:
        ms_id, world = request.microservice, self.server.world
        async with self.lock(ms_id):
            self._check(ms_id, request.fence)
            self.commands.append("convert")
            one = self.objects.get(ms_id)
            if one is None or one.replica != request.replica:
                raise NotFound("not here")
            if ms_id in world.busy:
                raise NotExecuted("calls still run", reason="moving")
            one.serving = False
            guard = created_at(self.server.keys.slot(request.fence.slot), request.fence.leader_revision)
            record = Put(self.server.keys.microservice(slot_of(ms_id), ms_id), encode(request.record))
            goal = request.goal
            revision = await self.write(ms_id, request.fence.document_revision, goal, guard, beside=(record,))
            one.epoch, one.serving = goal.epoch, True
            if any(dm.name == "PeriodicCheckpoint" for dm in request.record.spec.dms):
                world.checkpoints[ms_id] = one.value
            return ConvertReply(revision)

    async def retire(self, request: RetireRequest) -> Empty:
        ms_id = request.microservice
        async with self.lock(ms_id):
            self._check(ms_id, request.fence)
            self.commands.append("retire")
            one = self.objects.get(ms_id)
            if one is not None and one.replica == request.replica:
                self.objects.pop(ms_id)
                if request.destroy:
                    self.destroyed.append(ms_id)
            return Empty()

    async def fence(self, request: FenceRequest) -> Empty:
        if request.incarnation == self.server.incarnation:
            self.commands.append("fence")
            self.server.die()
        return Empty()

    async def statistics(self, request: Empty) -> KernelStatistics:
        return KernelStatistics(self.server.name, self.server.incarnation)

    async def replicas(self, request: Empty) -> ReplicaList:
        return ReplicaList(
            tuple(ReplicaInfo(ms_id, "/", one.replica, one.epoch, "serving") for ms_id, one in self.objects.items())
        )


class FakeMaker:
    """Implements ``oms.ports.Maker`` for the class ``shop:Plain``, with the real confirmer."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.confirmer = Confirmer(
            server.store,
            server.writer,
            server_key=server.keys.server(server.name),
            incarnation=server.incarnation,
            slot_key=server.keys.slot,
            nothing=server.keys.nothing,
            valid=lambda: server.alive,
        )

    def methods_of(self, record: MicroserviceRecord) -> dict[str, int] | None:
        return {"add": 0} if record.spec.cls == "shop:Plain" else None

    async def make(
        self, ms_id: str, record: MicroserviceRecord, document: GroupDocument, fence: Any, compares: Any, puts: Any
    ) -> int | None:
        kernel, replica = self.server.kernel, document.replicas[0].id
        async with kernel.lock(ms_id):
            kernel.commands.append("make")
            made = kernel.objects[ms_id] = FakeObject(replica, document.epoch)
            key = self.server.keys.group(slot_of(ms_id), ms_id, "/")
            revision = await self.confirmer.create(key, document, replica, compares, puts)
            if revision is None:
                kernel.objects.pop(ms_id)
                return None
            kernel.fences[ms_id] = (fence.leader_revision, revision)
            made.serving = True
            return revision


def raises(server: Server, request: InstantiateRequest) -> None:
    """A class whose constructor raises."""
    raise ConstructionFailed("ValueError: no")


def unloadable_at(*names: str) -> Callable[[Server, InstantiateRequest], None]:
    """A class that some servers cannot load."""

    def behave(server: Server, request: InstantiateRequest) -> None:
        if server.name in names:
            raise CodeUnavailable(f"No module named 'shop' at {server.name}")

    return behave


def disk_full_at(*names: str) -> Callable[[Server, InstantiateRequest], None]:
    """A class whose checkpoint store fails at some servers."""

    def behave(server: Server, request: InstantiateRequest) -> None:
        if server.name in names:
            raise StoreFailed(f"disk full at {server.name}")

    return behave


def kills(server: Server, request: InstantiateRequest) -> Any:
    """A class whose construction or restore kills its process."""
    method = "__init__" if request.source == "construct" else "__restore__"
    server.die(suspects=((request.microservice, method),))
    return asyncio.Event().wait()
