"""The kernel objects of one process, and the Kernel service that makes, moves and drops them.

Owns the table of kernel objects and every command of slot leaders. Leaves calls to the dispatcher, placement to the OMS.
Invariants: commands for one group run one at a time; a command with an older fence than one already seen is refused; a
replica serves only after its placement was confirmed; a sealed source never resumes by itself.
Failure behaviour: a construction or restore that fails leaves nothing behind; a failed transfer leaves the source sealed
until a slot leader decides.
"""

from __future__ import annotations

import asyncio
import logging
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import psutil

from amino import limits
from amino.contracts.documents import Move
from amino.contracts.services import (
    AdoptRequest,
    ConvertReply,
    ConvertRequest,
    Empty,
    HeartbeatReply,
    InstantiateReply,
    InstantiateRequest,
    KernelStatistics,
    NotifyReply,
    ObserveReply,
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
from amino.kernel.arrival import arrived
from amino.kernel.confirm import confirmed
from amino.kernel.context import ReplicaContext
from amino.kernel.converting import convert
from amino.kernel.hosted import Hosted
from amino.kernel.object import KernelObject
from amino.kernel.observed import Observed
from amino.kernel.running import construction_failed
from amino.kernel.whole import whole
from amino.marks import method_table
from amino.telemetry.trace import current_traceparent
from amino.wire import codec
from amino.wire.versioned import check_versions

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from amino.contracts.services import (
        FenceRequest,
        HeartbeatRequest,
        NotifyRequest,
        ObserveRequest,
        RetireRequest,
        TransferRequest,
    )
    from amino.rpc.port import Inbound

_log = logging.getLogger("amino.kernel")
_RESTORING = "__restore__"
_CONSTRUCTING = "__init__"


class Host(Hosted):
    """Implements ``contracts.services.Kernel``; on the server's loop."""

    def __repr__(self) -> str:
        return f"Host({self._around.server}, {len(self._objects)} replicas)"

    def _handle_own(self, inbound: Inbound) -> None:
        """Run a call that this server makes by itself."""
        assert self.dispatcher is not None
        self.dispatcher.handle(inbound)

    # --- commands --------------------------------------------------------------------------------------------------

    @whole
    async def instantiate(self, request: InstantiateRequest) -> InstantiateReply:
        """See ``contracts.services.Kernel.instantiate``."""
        place = (request.microservice, request.path)
        async with self._in_turn(place, "instantiate"):
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

    @whole
    async def take(
        self,
        place: tuple[str, str],
        make: Callable[[], KernelObject],
        leader_revision: int,
        write: Callable[[], Awaitable[int | None]],
    ) -> int | None:
        """Take in what ``make`` returns (see ``shell_of``), and let it serve once ``write`` has put on record that it does.

        For the slot leader in the same process, and a microservice that is on no record yet.

        Args:
            leader_revision: create revision of the leader's slot key, which ``write`` proves.
            write: returns the document's revision, None if it was refused; settles unknown outcomes.

        Returns:
            What ``write`` returned; None also if a replica is here already. Then nothing new is left here.
        """
        async with self._in_turn(place, "take"):
            self._check_session()
            if place in self._objects:
                return None
            target = self._objects[place] = make()
            revision: int | None = None
            try:
                revision = await write()
            finally:
                if revision is None:
                    await self._discard(place)
            if revision is not None:
                self._note_fence(place, (leader_revision, revision))
                await self._begin(target)
                self._serve(place, target, revision, ())
            return revision

    async def _resume(
        self, place: tuple[str, str], target: KernelObject, request: InstantiateRequest
    ) -> InstantiateReply:
        known = self._revisions.get(place, 0) > request.fence.document_revision
        if known and target.state == "serving" and target.epoch == request.document.epoch:
            return InstantiateReply(self._revisions[place], target.methods)
        if target.state == "serving":  # an abort came before the seal
            await target.seal(limits.QUIESCE_TIMEOUT_S)
        revision = await self._confirmer.confirm(
            self._parts.group_key(*place), request.document, request.replica, request.fence, target.methods
        )
        target.epoch = request.document.epoch
        return self._serve(place, target, revision, request.suspects)

    async def _make(self, place: tuple[str, str], request: InstantiateRequest) -> KernelObject:
        target = await self._shell(
            place, request.replica, request.document.epoch, request, joining=request.source == "join"
        )
        self._objects[place] = target
        self._stages[place] = request.source
        try:
            if request.source == "construct":
                await self._construct(target, request)
            elif request.source != "join":
                await self._restore(target, request)
            self._stages[place] = "confirming it"
            self._revisions[place] = await self._confirmer.confirm(
                self._parts.group_key(*place), request.document, request.replica, request.fence, target.methods
            )
        except BaseException:
            await self._discard(place)
            raise
        group = self._contexts[place].of_group
        if group is not None and group.seen[1] < self._revisions[place]:
            group.seen = confirmed(request.document, request.replica, target.methods), self._revisions[place]
        await self._begin(target)
        if request.document.trace and (request.source != "construct" or request.document.constructed):
            arrived(target, request.document.trace, failover=True)
        return target

    async def _shell(
        self,
        place: tuple[str, str],
        replica: str,
        epoch: int,
        request: InstantiateRequest | AdoptRequest | ConvertRequest,
        *,
        joining: bool = False,
    ) -> KernelObject:
        cls = await self._parts.load_class(request.record.spec)
        try:
            check_versions(cls)
        except Invalid as error:
            raise CodeUnavailable(str(error), cls=request.record.spec.cls) from error
        return self.shell_of(cls, place, replica, epoch, request, joining=joining)

    def shell_of(
        self,
        cls: type,
        place: tuple[str, str],
        replica: str,
        epoch: int,
        request: InstantiateRequest | AdoptRequest | ConvertRequest,
        *,
        joining: bool = False,
    ) -> KernelObject:
        """Return a sealed kernel object of ``cls`` with its chain and context, and nothing in it yet."""
        record = request.record
        target = KernelObject(
            microservice=place[0],
            path=place[1],
            replica=replica,
            epoch=epoch,
            methods=method_table(cls),
            surroundings=self._around,
        )
        target.dms = ",".join(dm.name for dm in record.spec.dms)
        target.find_class = self._parts.find_class(record.spec)
        if not isinstance(request, ConvertRequest):  # that one is not in force yet
            target.generation = record.generation
        target.wheel = self.wheel
        target.seal_nowait()
        context = ReplicaContext(
            target,
            server=self._around.server,
            clock=self._around.clock,
            checkpoints=self._parts.checkpoints,
            on_event=self._parts.event,
            seed=zlib.crc32(f"{place[0]}{place[1]}{replica}".encode()),
            run=None if self._parts.inline else self._parts.run,
            group=self.groups.open(target, request.document, request.fence.document_revision)
            if record.spec.dms
            else None,
            managers=tuple(dm.name for dm in record.spec.dms),
            joining=joining,
            incarnation=self._around.incarnation,
        )
        target.chain = self._parts.server_chain(record.spec, context.at)
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
        place = target.microservice, target.path
        self._stages[place] = "reading its checkpoint"
        newest = await self._contexts[place].checkpoints.newest()
        if newest is None:
            if not request.document.constructed or request.record.spec.on_loss == "recreate":
                await self._construct(target, request)
                return
            raise CorruptCheckpoint(
                f"{request.microservice}{request.path} has no checkpoint in the store, though it was created: none "
                "was taken, or this server sees another store; check that, or delete it"
            )
        self._stages[place] = "rebuilding it"
        await self._parts.run(lambda: self._rebuild(target, newest[0]))
        self._stages[place] = "recovering its managers"
        await target.chain.on_recover()
        if target.tables is not None:  # what was emitted after the checkpoint was taken is lost
            target.tables.begin_branch(target.epoch)

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
        self.wheel.adopt(target)
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
        async with self._in_turn(place, "transfer"):
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
        async with self._in_turn(place, "adopt"):
            self._check(place, request.fence)
            present = self._objects.get(place)
            if present is not None and present.replica == move.target.id and present.state == "serving":
                return InstantiateReply(self._revisions[place], present.methods)
            if present is not None:
                await self._drop(place, destroy=False)
            target = await self._shell(place, move.target.id, request.document.epoch + 1, request)
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
            arrived(target, current_traceparent())
            return self._serve(place, target, revision, ())

    @whole
    async def convert(self, request: ConvertRequest) -> ConvertReply:
        """See ``contracts.services.Kernel.convert``."""
        async with self._in_turn((request.microservice, request.path), "convert"):
            self._check((request.microservice, request.path), request.fence)
            if request.to_path == request.path:
                return await convert(self, request)
            async with self._in_turn((request.microservice, request.to_path), "convert"):
                return await convert(self, request)

    @whole
    async def retire(self, request: RetireRequest) -> Empty:
        """See ``contracts.services.Kernel.retire``."""
        place = (request.microservice, request.path)
        async with self._in_turn(place, "retire"):
            self._check(place, request.fence)
            target = self._objects.get(place)
            if target is not None and target.replica == request.replica:
                await self._drop(place, destroy=request.destroy)
        return Empty()

    async def notify(self, request: NotifyRequest, payload: memoryview) -> NotifyReply:
        """See ``contracts.services.Kernel.notify``."""
        return self.notify_now(request, payload)

    def notify_now(self, request: NotifyRequest, payload: memoryview) -> NotifyReply:
        """As ``notify``, which waits for nothing."""
        target = self._objects.get((request.microservice, request.path))
        if target is None or target.replica != request.replica:
            self._parts.absent(request.microservice, request.path)
            raise NotExecuted(
                f"replica {request.replica} of {request.microservice} is not on {self._around.server}",
                reason="not-here",
            )
        if not self._validity.valid():
            raise NotExecuted(f"{self._around.server} cannot prove its session and does not act", reason="fenced")
        return NotifyReply(target.chain.on_notification(request.manager, request.topic, bytes(payload)))

    async def heartbeat(self, request: HeartbeatRequest) -> HeartbeatReply:
        """See ``contracts.services.Kernel.heartbeat``."""
        if not self._validity.valid():
            raise NotExecuted(f"{self._around.server} cannot prove its session and does not act", reason="fenced")
        return self.groups.answer(request)

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

    async def observe(self, request: ObserveRequest) -> ObserveReply:
        """See ``contracts.services.Kernel.observe``."""
        target = self._objects.get((request.microservice, request.path))
        if target is None:
            return ObserveReply()
        observed = target.observed
        if observed is None:
            observed = target.observed = Observed(self._around.clock.monotonic)
        observed.end_later(lambda: setattr(target, "observed", None))
        return observed.reply(target.replica, target.in_flight)

    async def aclose(self) -> None:
        """Stop all components and tasks; nothing is destroyed. Idempotent."""
        self.wheel.close()
        await self.commands.aclose()
        await asyncio.gather(*(self._end(place) for place in list(self._objects)))

    async def _end(self, place: tuple[str, str]) -> None:
        async with self._in_turn(place, "end"):
            await self._drop(place, destroy=False)

    # --- details ---------------------------------------------------------------------------------------------------
