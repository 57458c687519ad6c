"""What users ask of a slot's leader: create, delete, move, restore, release.

Owns turning a request into the guarded write that states the intent, then waiting until the leader has carried it out.
Leaves carrying it out to ``leader``, so that a successor finishes what this server began.
Invariants: no command is sent before its intent is written; a creation repeated with its id makes nothing new.
Failure behaviour: refusals raise before anything is written; when time runs out the work goes on, and the error says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from amino.aio.clock import Clock
from amino.contracts.documents import (
    GroupDocument,
    MicroserviceRecord,
    MicroserviceSpec,
    Phase,
    ReplicaDocument,
    decode,
)
from amino.contracts.services import (
    ClearDeathsRequest,
    CreateRequest,
    DeleteRequest,
    MoveRequest,
    TransferRequest,
)
from amino.errors import (
    AlreadyExists,
    AminoError,
    Conflict,
    CoordinationUnavailable,
    Invalid,
    NotExecuted,
    NotFound,
    OutcomeUnknown,
    StateLost,
)
from amino.ids import ROOT, valid_name
from amino.limits import INLINE_ARGUMENTS_BYTES_MAX, SPEC_BYTES_MAX
from amino.oms import group_machine as machine
from amino.oms.directory import Found
from amino.oms.leader import Leader
from amino.oms.placement import check_placement, incarnation_key

TRANSFER_TIMEOUT_S = 60.0
PAUSE_S_MIN = 0.02
PAUSE_S_MAX = 1.0
_deterministic = msgspec.msgpack.Encoder(order="deterministic")


@dataclass(frozen=True, slots=True)
class Taken:
    """The name belongs to another microservice, and the request wants that one."""

    holder: str


def digest_of(spec: MicroserviceSpec, arguments: bytes) -> str:
    """Return what a repeated creation must agree in: class, spec and arguments."""
    return hashlib.blake2b(_deterministic.encode(spec) + arguments, digest_size=16).hexdigest()


class Operations:
    """Operations on the microservices of the slots this server leads."""

    def __init__(self, leader: Leader, clock: Clock) -> None:
        self._leader = leader
        self._clock = clock

    # --- create ---------------------------------------------------------------------------------------------------

    async def create(self, request: CreateRequest) -> Found | Taken:
        """Create a microservice; returns once it serves.

        Raises:
            AlreadyExists: the name is taken (unless ``if_exists`` is ``get``), or the id is, by something else.
            Invalid, NoEligibleServer, CodeUnavailable, ConstructionFailed, StoreFailed: nothing was created.
            OutcomeUnknown: not done within ``request.timeout_s``; it goes on, and repeating the request finds it.
        """
        self.check(request)
        until = self._clock.monotonic() + request.timeout_s
        record = await self._record(request)
        while True:
            present = self._leader.directory.group(request.microservice)
            if present is not None and present.document.phase == Phase.DELETING:
                await self._until_done(request.microservice, until, "the deletion")
            async with self._leader.locks.hold(request.microservice):
                taken = await self._begin(request, record)
            if taken is not None:
                return taken
            found = await self._until_done(request.microservice, until, "the creation")
            if found is not None:
                return found
            verdict = self._leader.verdict(request.microservice)
            if verdict is not None:
                raise verdict
            if present is None or present.document.phase != Phase.DELETING:
                raise NotFound(f"microservice {request.microservice} was deleted while it was being created")

    def check(self, request: CreateRequest) -> None:
        """Raise ``Invalid`` for what can never be created."""
        spec = request.spec
        if not valid_name(request.microservice):
            raise Invalid(f"microservice id {request.microservice!r} is not 1 to 128 letters, digits, '.', '_' or '-'")
        if spec.name and not valid_name(spec.name):
            raise Invalid(
                f"name {spec.name!r} is not 1 to 128 letters, digits, '.', '_' or '-' (starting with a letter or digit)"
            )
        if request.if_exists not in ("fail", "get"):
            raise Invalid(f"if_exists={request.if_exists!r}; use 'fail' or 'get'")
        if request.if_exists == "get" and not spec.name:
            raise Invalid("if_exists='get' finds an existing microservice by its name; give the spec a name")
        size = len(msgspec.msgpack.encode(spec))
        if size > SPEC_BYTES_MAX:
            raise Invalid(
                f"the spec takes {size} bytes; at most {SPEC_BYTES_MAX} are allowed: shorten options or labels"
            )
        check_placement(spec.placement)
        self._leader.chains.validate(spec)

    async def _record(self, request: CreateRequest) -> MicroserviceRecord:
        arguments, url = request.arguments, ""
        if len(arguments) > INLINE_ARGUMENTS_BYTES_MAX:
            url = await self._leader.blobs.put("arguments", request.microservice, arguments)
            arguments = b""
        return MicroserviceRecord(
            spec=request.spec,
            arguments=arguments,
            arguments_url=url,
            digest=digest_of(request.spec, request.arguments),
            created_at=self._clock.wall(),
        )

    async def _begin(self, request: CreateRequest, record: MicroserviceRecord) -> Taken | None:
        """Write the first document, or find that an earlier try did; under the lock."""
        leader, ms_id = self._leader, request.microservice
        leader.forget_verdict(ms_id)
        if leader.directory.group(ms_id) is not None:
            known = await leader.records.get(ms_id)
            if known is not None:
                self._same(ms_id, known, record)
                return None
        uncertain = False
        avoid: dict[str, str] = {}
        while True:
            choice = leader.choose(ms_id, record, leader.demand(ms_id, record, avoid=avoid))
            document = GroupDocument(store_id=choice.server.store_id if leader.chains.needs_store(record.spec) else "")
            replica = leader.replica_at(choice.server, document.epoch, "construct")
            document = machine.placed(document, replica, choice.explanation, first=True)
            try:
                with leader.directory.reserve(choice.server.name):
                    if await leader.writes.begin(ms_id, record, document) is not None:
                        leader.records.learn(ms_id, record)
                        leader.events.add("created", ms_id, choice.server.name, record.spec.name or record.spec.cls)
                        return None
            except CoordinationUnavailable:
                if uncertain:
                    raise
                uncertain = True  # repeat it: if the first try has landed, it is found by its id
                continue
            present, holder = await leader.writes.who_holds(ms_id, record.spec.name)
            if present is not None:
                self._same(ms_id, decode(present.value, MicroserviceRecord, present.key), record)
                await leader.writes.read(ms_id)
                return None
            if holder is not None:
                return self._taken(request, holder)
            await leader.writes.check_leadership(ms_id)
            avoid[incarnation_key(choice.server.name, choice.server.incarnation)] = "its session has ended"

    @staticmethod
    def _same(ms_id: str, present: MicroserviceRecord, asked: MicroserviceRecord) -> None:
        if present.digest != asked.digest:
            raise AlreadyExists(
                f"id {ms_id} belongs to a microservice of class {present.spec.cls} with another spec or other arguments; "
                "use a fresh id",
                microservice=ms_id,
            )

    @staticmethod
    def _taken(request: CreateRequest, holder: str) -> Taken:
        if request.if_exists == "get":
            return Taken(holder)
        raise AlreadyExists(
            f"name {request.spec.name!r} is taken by microservice {holder}; choose another name, delete that one, or use "
            "get_or_create",
            name=request.spec.name,
            microservice=holder,
        )

    # --- delete ---------------------------------------------------------------------------------------------------

    async def delete(self, request: DeleteRequest) -> None:
        """Delete a microservice; returns once nothing of it is left.

        Raises:
            NotFound: there is none.
            OutcomeUnknown: begun but not finished within ``request.timeout_s``; it goes on.
        """
        leader, ms_id = self._leader, request.microservice
        until = self._clock.monotonic() + request.timeout_s
        async with leader.hold_first(ms_id):
            await self._edit_locked(
                ms_id, until, machine.deleting, unless=lambda document: document.phase == Phase.DELETING
            )
        found = await self._until_done(ms_id, until, "the deletion")
        assert found is None, "a deletion is never taken back"
        leader.events.add("deleted", ms_id)

    # --- move -----------------------------------------------------------------------------------------------------

    async def move(self, request: MoveRequest) -> Found:
        """Migrate a microservice's replica; returns once it serves at its new server.

        Raises:
            NotFound: there is none, or no such server. NoEligibleServer: nowhere to go.
            Invalid: a manager keeps it in place, or the replica named is not its.
            NotExecuted: it is not active now, or could not be sealed in time; it stays where it is.
        """
        leader, ms_id = self._leader, request.microservice
        until = self._clock.monotonic() + request.timeout_s
        await self._until_done(ms_id, until, "the work on")
        async with leader.locks.hold(ms_id):
            found = await self._movable(request)
            document = found.document
            source = document.replicas[0]
            if request.server == source.server:
                return found
            target, found = await self._intend(request, found)
            error = await self._transfer(ms_id, found, source, target)
            progress = await leader.advance_locked(ms_id)
        if progress.found is None:
            raise NotFound(f"microservice {ms_id} was deleted while it was being moved")
        if target.id not in {replica.id for replica in progress.found.document.replicas}:
            raise error or OutcomeUnknown(f"the move of {ms_id} was given up: {progress.wait or 'it was overtaken'}")
        leader.events.add("moved", ms_id, target.server, f"from {source.server}: {request.why}")
        return progress.found

    async def _movable(self, request: MoveRequest) -> Found:
        leader, ms_id = self._leader, request.microservice
        found = leader.directory.group(ms_id) or await leader.writes.read(ms_id)
        record = await leader.records.get(ms_id)
        if found is None or record is None:
            raise NotFound(f"there is no microservice {ms_id}")
        state = machine.state_of(found.document)
        if state != "active":
            raise NotExecuted(f"microservice {ms_id} is {state}; move it once it is active", reason="not-ready")
        if request.replica and request.replica != found.document.replicas[0].id:
            raise Invalid(f"microservice {ms_id} has no replica {request.replica!r}; see `amino get replicas`")
        reason = leader.chains.keeps_in_place(record.spec)
        if reason is not None:
            raise Invalid(f"microservice {ms_id} is not moved: {reason}")
        return found

    async def _intend(self, request: MoveRequest, found: Found) -> tuple[ReplicaDocument, Found]:
        leader, ms_id = self._leader, request.microservice
        record = await leader.records.get(ms_id)
        assert record is not None, "checked before, under the same lock"
        source = found.document.replicas[0]
        if request.server and leader.directory.server(request.server) is None:
            live = ", ".join(sorted(leader.directory.live)) or "none"
            raise NotFound(f"there is no live server {request.server!r} to move {ms_id} to; those that live are {live}")
        demand = dataclasses.replace(
            leader.demand(ms_id, record, found.document), only=request.server, excluded={source.server: "it is there"}
        )
        choice = leader.choose(ms_id, record, demand)
        target = leader.replica_at(choice.server, found.document.epoch + 1, "resume")
        document = machine.moving(found.document, target, f"{request.why}; {choice.explanation}")
        with leader.directory.reserve(target.server):
            return target, await self._write(ms_id, found, document, target)

    async def _transfer(
        self, ms_id: str, found: Found, source: ReplicaDocument, target: ReplicaDocument
    ) -> AminoError | None:
        """Tell the source to ship itself; returns what it said, None if all is well. The document says what came of it."""
        leader = self._leader
        server = leader.directory.server(target.server)
        record = await leader.records.get(ms_id)
        if server is None or record is None:
            return NotExecuted(f"server {target.server} is gone; the move is given up", reason="unreachable")
        request = TransferRequest(
            microservice=ms_id,
            path=ROOT,
            record=record,
            document=found.document,
            fence=leader.fence(ms_id, found),
            target_address=server.record.address,
        )
        error: AminoError | None = None
        try:
            async with leader.commands.to(ms_id, source, TRANSFER_TIMEOUT_S) as kernel:
                await kernel.transfer(request)
        except AminoError as problem:
            error = problem
        except TimeoutError:
            error = NotExecuted(f"moving {ms_id} took too long or lost a server; it was given up", reason="moving")
        await leader.writes.read(ms_id)
        return error

    # --- restore, release, deaths ---------------------------------------------------------------------------------

    async def restore(self, ms_id: str, timeout_s: float) -> tuple[Found, str]:
        """Bring a lost microservice back; returns its document and what it came back from.

        Raises:
            NotFound: there is none. Conflict: it is not lost.
        """
        leader = self._leader
        until = self._clock.monotonic() + timeout_s
        record = await leader.records.get(ms_id)
        if record is None:
            raise NotFound(f"there is no microservice {ms_id}")
        sources: list[machine.Source] = ["construct"]
        if leader.chains.recovers_from_checkpoint(record.spec):
            sources.insert(0, "checkpoint")
        why = ""
        for source in sources:
            async with leader.locks.hold(ms_id):
                await self._revive(ms_id, record, source)
            found = await self._until_done(ms_id, until, "the restoration")
            if found is None:
                raise NotFound(f"microservice {ms_id} was deleted while it was being restored")
            if found.document.phase != Phase.LOST:
                leader.events.add("restored", ms_id, text=f"from {source}")
                return found, source
            why = found.document.reason
        raise StateLost(f"microservice {ms_id} could not be brought back: {why}", microservice=ms_id)

    async def _revive(self, ms_id: str, record: MicroserviceRecord, source: machine.Source) -> None:
        leader = self._leader
        found = await leader.writes.read(ms_id)
        if found is None:
            raise NotFound(f"there is no microservice {ms_id}")
        if found.document.phase != Phase.LOST:
            raise Conflict(f"microservice {ms_id} is {machine.state_of(found.document)}, not lost; nothing was done")
        choice = leader.choose(ms_id, record, leader.demand(ms_id, record, found.document))
        replica = leader.replica_at(choice.server, found.document.epoch + 1, source)
        base = msgspec.structs.replace(found.document, phase=Phase.ACTIVE, constructed=True, deaths={}, reason="")
        await self._write(ms_id, found, machine.placed(base, replica, choice.explanation), replica)

    async def release(self, ms_id: str, timeout_s: float) -> Found:
        """Let a quarantined microservice run again.

        Raises:
            NotFound: there is none. Conflict: it is not quarantined.
        """
        until = self._clock.monotonic() + timeout_s
        found = await self._edit(ms_id, until, machine.released, only=Phase.QUARANTINED)
        self._leader.events.add("released", ms_id)
        return await self._until_done(ms_id, until, "the recovery") or found

    async def clear_deaths(self, request: ClearDeathsRequest) -> None:
        """Forget deaths counted against methods that have completed at the present replica. Idempotent."""

        def settled(document: GroupDocument) -> bool:
            here = any(replica.id == request.replica for replica in document.replicas)
            return not here or not any(method in document.deaths for method in request.methods)

        until = self._clock.monotonic() + request.timeout_s
        await self._edit(
            request.microservice, until, lambda document: machine.forgiven(document, request.methods), unless=settled
        )

    # --- writing and waiting --------------------------------------------------------------------------------------

    async def _write(self, ms_id: str, found: Found, document: GroupDocument, placing: ReplicaDocument) -> Found:
        leader = self._leader
        try:
            return await leader.writes.replace(ms_id, ROOT, found, document, placing=placing)
        except Conflict as error:
            await leader.writes.read(ms_id)
            raise NotExecuted(f"microservice {ms_id} changed meanwhile; ask again", reason="not-ready") from error

    async def _edit(
        self,
        ms_id: str,
        until: float,
        change: Callable[[GroupDocument], GroupDocument],
        *,
        unless: Callable[[GroupDocument], bool] | None = None,
        only: str = "",
    ) -> Found:
        """As ``_edit_locked``, under the lock."""
        async with self._leader.locks.hold(ms_id):
            return await self._edit_locked(ms_id, until, change, unless=unless, only=only)

    async def _edit_locked(
        self,
        ms_id: str,
        until: float,
        change: Callable[[GroupDocument], GroupDocument],
        *,
        unless: Callable[[GroupDocument], bool] | None = None,
        only: str = "",
    ) -> Found:
        """Write ``change`` of the document as it is, however often it takes.

        Args:
            unless: leave the document as it is if this holds.
            only: the phase it must be in, else ``Conflict``.
        """
        leader = self._leader
        uncertain = False
        found = leader.directory.group(ms_id) or await leader.writes.read(ms_id)
        while True:
            if found is None:
                raise NotFound(f"there is no microservice {ms_id}", microservice=ms_id)
            if unless is not None and unless(found.document):
                return found
            if only and found.document.phase != only:
                if uncertain:  # our write had landed
                    return found
                state = machine.state_of(found.document)
                raise Conflict(f"microservice {ms_id} is {state}, not {only}; nothing was done")
            try:
                return await leader.writes.replace(ms_id, ROOT, found, change(found.document))
            except Conflict:
                await leader.writes.check_leadership(ms_id)
                found = await leader.writes.read(ms_id)
            except CoordinationUnavailable:
                if self._clock.monotonic() >= until:
                    raise
                uncertain = True
                found = await leader.writes.settle(ms_id)

    async def _until_done(self, ms_id: str, until: float, what: str) -> Found | None:
        """Let the leader go on until nothing is left to do; returns the document, None when it is gone.

        Raises:
            OutcomeUnknown: not by ``until``; the leader goes on by itself.
        """
        leader = self._leader
        pause_s = PAUSE_S_MIN
        while True:
            with leader.directory.pulse(ms_id, "members") as changed:
                remaining_s = max(0.0, until - self._clock.monotonic())
                progress = await leader.advance_within(ms_id, remaining_s)
                if progress.found is None:
                    return None
                if not progress.wait:
                    return progress.found
                if self._clock.monotonic() >= until:
                    raise OutcomeUnknown(
                        f"{what} of {ms_id} goes on, but was not done in time: {progress.wait}; repeat it to wait longer",
                        microservice=ms_id,
                    )
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(min(pause_s, remaining_s)):
                        await changed.wait()
            pause_s = min(PAUSE_S_MAX, pause_s * 2)
