"""The kernel objects of one process, and the Kernel service that makes, moves and drops them.

Owns the table of kernel objects and every command of slot leaders. Leaves calls to the dispatcher, placement to the OMS.
Invariants: commands for one group run one at a time; a command with an older fence than one already seen is refused; a
replica serves only after its placement was confirmed; a sealed source never resumes by itself.
Failure behaviour: a construction or restore that fails leaves nothing behind; a failed transfer leaves the source sealed
until a slot leader decides.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import psutil

from amino import limits
from amino.aio.tasks import TaskOwner
from amino.contracts.documents import Move
from amino.contracts.services import (
    AdoptRequest,
    Empty,
    InstantiateReply,
    InstantiateRequest,
    KernelStatistics,
    ReplicaInfo,
    ReplicaList,
    TransferReply,
)
from amino.errors import (
    AminoError,
    CodeUnavailable,
    ConstructionFailed,
    CorruptCheckpoint,
    Invalid,
    NotExecuted,
    NotFound,
)
from amino.kernel.context import ReplicaContext
from amino.kernel.object import KernelObject, Recovery
from amino.kernel.running import Running, construction_failed
from amino.kernel.whole import whole
from amino.marks import method_table
from amino.wire import codec

if TYPE_CHECKING:
    from amino.contracts.component import Checkpoints, ServerChain, ServerContext
    from amino.contracts.documents import MicroserviceRecord, MicroserviceSpec
    from amino.contracts.services import Fence, FenceRequest, Kernel, RetireRequest, TransferRequest
    from amino.kernel.confirm import Confirmer
    from amino.kernel.dispatcher import Dispatcher, Validity
    from amino.kernel.surroundings import Surroundings

_log = logging.getLogger("amino.kernel")
_RESTORING = "__restore__"
_CONSTRUCTING = "__init__"
FENCES_MAX = 16_384
T = TypeVar("T")


class Parts(Protocol):
    """What the composition root hands to the host."""

    async def load_class(self, spec: MicroserviceSpec) -> type:
        """Return the class of ``spec``. Raises ``CodeUnavailable``."""
        ...

    def find_class(self, spec: MicroserviceSpec) -> codec.FindClass | None:
        """Return how pickles name classes for the code of ``spec``, once its class is loaded; None as everywhere."""
        ...

    def server_chain(self, spec: MicroserviceSpec, context: ServerContext) -> ServerChain:
        """Return the server side of ``spec``'s chain. Raises ``CodeUnavailable`` for a manager not installed here."""
        ...

    def checkpoints(self, target: KernelObject) -> Checkpoints:
        """Return the checkpoints of a replica's group. Raises ``CodeUnavailable`` where there is no store."""
        ...

    async def arguments(self, record: MicroserviceRecord) -> bytes:
        """Return the encoded constructor arguments, wherever they are."""
        ...

    async def run(self, function: Callable[[], T]) -> T:
        """Run user code in a worker thread: it may block, and make calls that end in this server again."""
        ...

    def kernel_at(self, address: str) -> Kernel:
        """Return the Kernel service of another server."""
        ...

    def group_key(self, microservice: str, path: str) -> str:
        """Return the key of a group's document."""
        ...

    async def clear_deaths(self, microservice: str, path: str, replica: str, method: str) -> None:
        """Tell the slot leader that a suspected method has completed."""
        ...

    def event(self, kind: str, microservice: str, text: str) -> None:
        """Record an event for operators; from any thread."""
        ...

    def stop_now(self, why: str) -> None:
        """Stop this incarnation at once."""
        ...


class Host:
    """Implements ``contracts.services.Kernel``; on the server's loop."""

    def __init__(self, *, parts: Parts, surroundings: Surroundings, confirmer: Confirmer, validity: Validity) -> None:
        self._parts = parts
        self._around = surroundings
        self._confirmer = confirmer
        self._validity = validity
        self._objects: dict[tuple[str, str], KernelObject] = {}
        self._contexts: dict[tuple[str, str], ReplicaContext] = {}
        self._revisions: dict[tuple[str, str], int] = {}
        self._fences: dict[tuple[str, str], tuple[int, int]] = {}
        self._locks: dict[tuple[str, str], tuple[asyncio.Lock, list[None]]] = {}
        self.dispatcher: Dispatcher | None = None
        self.commands = TaskOwner(f"commands to {surroundings.server}")

    def __repr__(self) -> str:
        return f"Host({self._around.server}, {len(self._objects)} replicas)"

    def __len__(self) -> int:
        return len(self._objects)

    def find(self, microservice: str, path: str) -> KernelObject | None:
        """Return the kernel object of a group's replica here, if any."""
        return self._objects.get((microservice, path))

    # --- commands --------------------------------------------------------------------------------------------------

    @whole
    async def instantiate(self, request: InstantiateRequest) -> InstantiateReply:
        """See ``contracts.services.Kernel.instantiate``."""
        place = (request.microservice, request.path)
        async with self._lock(place):
            self._check(place, request.fence)
            target = self._objects.get(place)
            if target is not None and target.replica == request.replica:
                return await self._resume(place, target, request)
            if request.source == "resume":
                raise NotFound(f"replica {request.replica} of {request.microservice} is not on {self._around.server}")
            if target is not None:
                await self._drop(place, destroy=False)
            target = await self._make(place, request)
            return self._serve(place, target, self._revisions[place], request.suspects)

    async def _resume(
        self, place: tuple[str, str], target: KernelObject, request: InstantiateRequest
    ) -> InstantiateReply:
        if target.state == "serving" and target.epoch == request.document.epoch:
            return InstantiateReply(self._revisions[place], target.methods)
        if target.state == "serving":  # an abort came before the seal
            await target.seal(limits.QUIESCE_TIMEOUT_S)
        revision = await self._confirmer.confirm(
            self._parts.group_key(*place), request.document, request.replica, request.fence, target.methods
        )
        target.epoch = request.document.epoch
        return self._serve(place, target, revision, request.suspects)

    async def _make(self, place: tuple[str, str], request: InstantiateRequest) -> KernelObject:
        target = await self._shell(place, request.replica, request.document.epoch, request.record)
        self._objects[place] = target
        try:
            if request.source == "construct":
                await self._construct(target, request)
            else:
                await self._restore(target, request)
            self._revisions[place] = await self._confirmer.confirm(
                self._parts.group_key(*place), request.document, request.replica, request.fence, target.methods
            )
        except BaseException:
            await self._discard(place)
            raise
        await self._begin(target)
        if request.document.trace and (request.source != "construct" or request.document.constructed):
            target.recovery = Recovery(request.document.trace, int(self._around.clock.wall() * 1e9))
        return target

    async def _shell(
        self, place: tuple[str, str], replica: str, epoch: int, record: MicroserviceRecord
    ) -> KernelObject:
        cls = await self._parts.load_class(record.spec)
        target = KernelObject(
            microservice=place[0],
            path=place[1],
            replica=replica,
            epoch=epoch,
            methods=method_table(cls),
            surroundings=self._around,
        )
        target.find_class = self._parts.find_class(record.spec)
        target.seal_nowait()
        context = ReplicaContext(
            target,
            server=self._around.server,
            clock=self._around.clock,
            checkpoints=self._parts.checkpoints,
            on_event=self._parts.event,
            seed=zlib.crc32(f"{place[0]}{place[1]}{replica}".encode()),
        )
        target.chain = self._parts.server_chain(record.spec, context)
        self._contexts[place] = context
        return target

    async def _construct(self, target: KernelObject, request: InstantiateRequest) -> None:
        cls = await self._parts.load_class(request.record.spec)
        packed = await self._parts.arguments(request.record)

        def construct() -> Any:
            with self._invocation(target, _CONSTRUCTING):
                args, kwargs = codec.unpack(packed, binding=self._around.runtime) or ((), {})
                return cls(*args, **kwargs)

        try:
            target.adopt_instance(await self._parts.run(construct))
        except AminoError as error:
            raise ConstructionFailed(f"the arguments of {request.record.spec.cls} cannot be used: {error}") from error
        except (Exception, SystemExit) as error:
            raise construction_failed(request.record.spec.cls, error) from error
        await target.chain.on_create()

    async def _restore(self, target: KernelObject, request: InstantiateRequest) -> None:
        newest = await self._contexts[target.microservice, target.path].checkpoints.newest()
        if newest is None:
            if not request.document.constructed:
                await self._construct(target, request)
                return
            raise CorruptCheckpoint(
                f"{request.microservice}{request.path} has no checkpoint in the store, though it was created; "
                "check that this server sees the same store, or delete it"
            )

        try:
            await self._parts.run(lambda: self._rebuild(target, newest[0]))
        except Invalid as error:
            raise CodeUnavailable(f"the state of {request.microservice} cannot be rebuilt here: {error}") from error

    def _rebuild(self, target: KernelObject, snapshot: bytes | memoryview) -> None:
        with self._invocation(target, _RESTORING):
            target.restore_sealed(snapshot)

    def _serve(
        self, place: tuple[str, str], target: KernelObject, revision: int, suspects: tuple[str, ...]
    ) -> InstantiateReply:
        self._revisions[place] = revision
        if suspects:
            self._watch_suspects(place, target, set(suspects))
        target.unseal()
        return InstantiateReply(revision, target.methods)

    def _watch_suspects(self, place: tuple[str, str], target: KernelObject, suspects: set[str]) -> None:
        loop = asyncio.get_running_loop()

        def completed(method: str) -> None:
            if method in suspects:
                suspects.discard(method)
                coroutine = self._parts.clear_deaths(*place, target.replica, method)
                asyncio.run_coroutine_threadsafe(coroutine, loop)
                if not suspects:
                    target.on_completed = None

        target.on_completed = completed
        for boundary in (_CONSTRUCTING, _RESTORING):
            completed(boundary)

    @whole
    async def transfer(self, request: TransferRequest) -> TransferReply:
        """See ``contracts.services.Kernel.transfer``."""
        place = (request.microservice, request.path)
        move = request.document.move
        if move is None:
            raise Invalid(f"the transfer of {request.microservice} names no move; the sender's release is incompatible")
        async with self._lock(place):
            self._check(place, request.fence)
            target = self._objects.get(place)
            if target is None or target.replica != move.source:
                raise NotFound(f"replica {move.source} of {request.microservice} is not on {self._around.server}")
            return await self._transfer(place, target, move, request)

    async def _transfer(
        self, place: tuple[str, str], target: KernelObject, move: Move, request: TransferRequest
    ) -> TransferReply:
        clock = self._around.clock
        if target.state == "serving":
            try:
                await target.seal(request.quiesce_timeout_s)
            except TimeoutError:
                raise NotExecuted(
                    f"{target.in_flight} calls of {request.microservice} still ran after {request.quiesce_timeout_s} s; "
                    "move it when it is less busy",
                    reason="moving",
                ) from None
        started = clock.monotonic()
        adopt = AdoptRequest(
            microservice=request.microservice,
            path=request.path,
            record=request.record,
            document=request.document,
            fence=request.fence,
        )
        snapshot = await self._parts.run(target.snapshot_sealed)
        reply = await self._parts.kernel_at(request.target_address).adopt(adopt, memoryview(snapshot))
        stalled_s = clock.monotonic() - started
        await self._forget(
            place,
            {
                "server": move.target.server,
                "incarnation": move.target.incarnation,
                "address": request.target_address,
                "replica": move.target.id,
                "epoch": request.document.epoch + 1,
            },
        )
        return TransferReply(reply.document_revision, stalled_s)

    @whole
    async def adopt(self, request: AdoptRequest, snapshot: memoryview) -> InstantiateReply:
        """See ``contracts.services.Kernel.adopt``."""
        place = (request.microservice, request.path)
        move = request.document.move
        if move is None or move.target.incarnation != self._around.incarnation:
            raise NotExecuted(f"{self._around.server} is not the target of this move", reason="fenced")
        async with self._lock(place):
            self._check(place, request.fence)
            present = self._objects.get(place)
            if present is not None and present.replica == move.target.id and present.state == "serving":
                return InstantiateReply(self._revisions[place], present.methods)
            if present is not None:
                await self._drop(place, destroy=False)
            target = await self._shell(place, move.target.id, request.document.epoch + 1, request.record)
            self._objects[place] = target
            try:
                await self._parts.run(lambda: self._rebuild(target, snapshot))
                revision = await self._confirmer.switch(
                    self._parts.group_key(*place), request.document, request.fence, target.methods
                )
            except BaseException:
                await self._discard(place)
                raise
            await self._begin(target)
            return self._serve(place, target, revision, ())

    @whole
    async def retire(self, request: RetireRequest) -> Empty:
        """See ``contracts.services.Kernel.retire``."""
        place = (request.microservice, request.path)
        async with self._lock(place):
            self._check(place, request.fence)
            target = self._objects.get(place)
            if target is not None and target.replica == request.replica:
                await self._drop(place, destroy=request.destroy)
        return Empty()

    async def fence(self, request: FenceRequest) -> Empty:
        """See ``contracts.services.Kernel.fence``."""
        if request.incarnation == self._around.incarnation:
            self._parts.stop_now("a slot leader says that this incarnation's lease is gone")
        return Empty()

    async def statistics(self, request: Empty) -> KernelStatistics:  # noqa: ARG002 - the service's form
        """See ``contracts.services.Kernel.statistics``."""
        dispatcher = self.dispatcher
        return KernelStatistics(
            server=self._around.server,
            incarnation=self._around.incarnation,
            replicas=len(self._objects),
            in_flight=dispatcher.in_flight if dispatcher else 0,
            threads=dispatcher.threads if dispatcher else 0,
            calls=dispatcher.calls if dispatcher else 0,
            rss_bytes=psutil.Process().memory_info().rss,
        )

    async def replicas(self, request: Empty) -> ReplicaList:  # noqa: ARG002 - the service's form
        """See ``contracts.services.Kernel.replicas``."""
        return ReplicaList(
            tuple(
                ReplicaInfo(
                    microservice=target.microservice,
                    path=target.path,
                    replica=target.replica,
                    epoch=target.epoch,
                    state=target.state,
                    in_flight=target.in_flight,
                    mutations=target.mutations,
                )
                for target in self._objects.values()
            )
        )

    async def aclose(self) -> None:
        """Stop all components and tasks; nothing is destroyed. Idempotent."""
        await self.commands.aclose()
        await asyncio.gather(*(self._end(place) for place in list(self._objects)))

    async def _end(self, place: tuple[str, str]) -> None:
        async with self._lock(place):
            await self._drop(place, destroy=False)

    # --- details ---------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _lock(self, place: tuple[str, str]) -> AsyncIterator[None]:
        """Run commands for one group one at a time, in order of arrival."""
        lock, users = self._locks.setdefault(place, (asyncio.Lock(), []))
        users.append(None)
        try:
            async with lock:
                yield
        finally:
            users.pop()
            if not users:
                del self._locks[place]

    def _check(self, place: tuple[str, str], fence: Fence) -> None:
        if not self._validity.valid():
            raise NotExecuted(f"{self._around.server} cannot prove its session and takes no commands", reason="fenced")
        seen = self._fences.get(place, (0, 0))
        given = (fence.leader_revision, fence.document_revision)
        if given < seen:
            raise NotExecuted(
                f"a command with fence {given} for {place[0]}{place[1]} is older than {seen}; a newer leader decides",
                reason="fenced",
            )
        self._fences[place] = given
        if len(self._fences) > FENCES_MAX + len(self._objects):
            for old in itertools.islice((each for each in self._fences if each not in self._objects), 1):
                del self._fences[old]

    def _invocation(self, target: KernelObject, method: str) -> Running:
        return Running(self._around, target, method)

    async def _drop(self, place: tuple[str, str], *, destroy: bool) -> None:
        """End a replica: briefly wait for running calls, then let none of the rest answer."""
        target = self._objects.get(place)
        if target is None:
            return
        if target.state == "serving":
            try:
                await target.seal(limits.QUIESCE_TIMEOUT_S)
            except TimeoutError:
                target.revoked = True
                target.leave({})
        if destroy:
            await target.chain.on_destroy()
        await self._forget(place, {})

    async def _forget(self, place: tuple[str, str], moved_to: dict[str, Any]) -> None:
        target = self._objects.pop(place, None)
        self._revisions.pop(place, None)
        if target is None:
            return
        idle = not target.in_flight
        if target.state != "gone":
            target.leave(moved_to)
        await target.chain.on_stop()
        context = self._contexts.pop(place, None)
        if context is not None:
            await context.aclose()
        if idle:  # else calls that can answer no more still run in it
            target.release_instance()

    async def _begin(self, target: KernelObject) -> None:
        """Start the components of a replica that is confirmed, and so serves whatever they say."""
        try:
            await target.chain.on_start()
        except Exception as error:  # noqa: BLE001 - a manager's fault, which its owner must hear of
            _log.exception("a component of %s failed to start", target.microservice)
            self._parts.event("component-failed", target.microservice, f"on_start: {type(error).__name__}: {error}")

    async def _discard(self, place: tuple[str, str]) -> None:
        try:
            await self._forget(place, {})
        except Exception:  # noqa: BLE001 - the error that led here is the one to report
            _log.exception("dropping a replica of %s that did not come to be failed", place[0])
