"""What users ask of a slot's leader: create, delete, move, restore, release.

Owns turning a request into the guarded write that states the intent, then waiting until the leader has carried it out.
Leaves carrying it out to ``leader``, so that a successor finishes what this server began.
Invariants: no command is sent before its intent is written; a creation repeated with its id makes nothing new.
Failure behaviour: refusals raise before anything is written; when time runs out the work goes on, and the error says so.
"""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass

import msgspec

from amino.contracts.documents import (
    GroupDocument,
    MicroserviceRecord,
    MicroserviceSpec,
    Phase,
    decode,
)
from amino.contracts.levels import leaf, sharding
from amino.contracts.services import (
    AbsentRequest,
    ClearDeathsRequest,
    CreateRequest,
    DeleteRequest,
    Fence,
    ScaleRequest,
)
from amino.errors import (
    AlreadyExists,
    Conflict,
    CoordinationUnavailable,
    Invalid,
    NotFound,
    OutcomeUnknown,
    StateLost,
)
from amino.ids import ROOT, slot_of, valid_name
from amino.limits import INLINE_ARGUMENTS_BYTES_MAX, SPEC_BYTES_MAX
from amino.oms import group_machine as machine
from amino.oms import shard_machine
from amino.oms.absence import give_up_absent
from amino.oms.directory import Found
from amino.oms.editing import PAUSE_S_MIN
from amino.oms.moves import Moves
from amino.oms.placement import check_placement, incarnation_key

SCALE_MAX = 1000
_deterministic = msgspec.msgpack.Encoder(order="deterministic")


@dataclass(frozen=True, slots=True)
class Taken:
    """The name belongs to another microservice, and the request wants that one."""

    holder: str


def digest_of(spec: MicroserviceSpec, arguments: bytes) -> str:
    """Return what a repeated creation must agree in: class, spec and arguments."""
    return hashlib.blake2b(_deterministic.encode(spec) + arguments, digest_size=16).hexdigest()


class Operations(Moves):
    """Operations on the microservices of the slots this server leads."""

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
                await self.until_done(request.microservice, until, "the deletion")
            async with self._leader.locks.hold(request.microservice):
                begun = await self._begin(request, record, until)
            if begun is not None:
                return begun
            found = await self.until_done(request.microservice, until, "the creation")
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
        self.check_spec(spec)

    def check_spec(self, spec: MicroserviceSpec) -> None:
        """Raise ``Invalid`` for a spec that no microservice can have."""
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

    async def _begin(self, request: CreateRequest, record: MicroserviceRecord, until: float) -> Found | Taken | None:
        """Write the first document, or find that an earlier try did; under the lock. Returns what is final."""
        leader, ms_id = self._leader, request.microservice
        leader.forget_verdict(ms_id)
        if leader.directory.group(ms_id) is not None:
            known = await leader.records.get(ms_id)
            if known is not None:
                self._same(ms_id, known, record)
                return None
        uncertain = False
        avoid: dict[str, str] = {}
        methods = leader.maker.methods_of(record) if leader.maker is not None else None
        if sharding(leader.chains.levels(record.spec)) is not None:
            return await self._begin_shards(request, record)
        first = self._first_document(record)
        while True:
            demand = leader.demand(ms_id, record, first, avoid, leader.server)
            choice = await leader.choose_surely(ms_id, record, demand)
            document = first
            if leader.chains.needs_store(record.spec):
                document = leader.with_store(first, choice.server.store_id)
            replica = leader.replica_at(choice.server, document.epoch, "construct")
            document = machine.placed(document, replica, choice.explanation, first=True)
            at_once = methods is not None and choice.server.name == leader.server
            made: Found | None = None
            try:
                with leader.directory.reserve(choice.server.name):
                    if at_once:
                        made = await self._make(ms_id, record, machine.confirmed(document, methods or {}), until)
                    if made is not None or (
                        not at_once and await leader.writes.begin(ms_id, record, document) is not None
                    ):
                        leader.records.learn(ms_id, record)
                        leader.events.add("created", ms_id, choice.server.name, record.spec.name or record.spec.cls)
                        return made
            except CoordinationUnavailable:
                if uncertain:
                    raise
                uncertain = True  # repeat it: if the first try has landed, it is found by its id
                continue
            settled, taken = await self._known(request, record)
            if settled:
                return taken
            if await leader.writes.hear_of_cordons():
                continue
            if at_once:  # whatever refused it: the longer way says what
                methods = None
                continue
            avoid[incarnation_key(choice.server.name, choice.server.incarnation)] = "its session has ended"

    async def _begin_shards(self, request: CreateRequest, record: MicroserviceRecord) -> Found | Taken | None:
        """As ``_begin``, for a microservice whose root is a group of shards: it has no replica of its own."""
        leader, ms_id = self._leader, request.microservice
        level = sharding(leader.chains.levels(record.spec))
        assert level is not None, "asked before"
        await leader.choose_surely(ms_id, record)  # raises if no server may have a shard
        document = GroupDocument(
            kind=machine.SHARDS, wanted=level.members, children=shard_machine.first_children(level.members)
        )
        uncertain = False
        while True:
            try:
                if await leader.writes.begin(ms_id, record, document) is not None:
                    leader.records.learn(ms_id, record)
                    leader.events.add("created", ms_id, text=record.spec.name or record.spec.cls)
                    return None
            except CoordinationUnavailable:
                if uncertain:
                    raise
                uncertain = True  # as in _begin
                continue
            settled, taken = await self._known(request, record)
            if settled:
                return taken

    async def _known(self, request: CreateRequest, record: MicroserviceRecord) -> tuple[bool, Taken | None]:
        """After a first write that was refused: whether the id or the name is known by now, and whose the name is if another's.

        Raises:
            AlreadyExists: for another creation. NotExecuted: this server does not lead the slot any more.
        """
        leader, ms_id = self._leader, request.microservice
        present, holder = await leader.writes.who_holds(ms_id, record.spec.name)
        if present is not None:
            self._same(ms_id, decode(present.value, MicroserviceRecord, present.key), record)
            await leader.writes.read(ms_id)
            return True, None
        if holder is not None:
            return True, self._taken(request, holder)
        await leader.writes.check_leadership(ms_id)
        return False, None

    async def scale(self, request: ScaleRequest) -> Found:
        """Change how many shards or replicas a microservice has; returns once that is so.

        Raises:
            NotFound: there is none. Invalid: it has none of that kind, or the number is out of range.
            OutcomeUnknown: begun but not finished within ``request.timeout_s``; it goes on. Conflict: another number was asked
                for meanwhile.
        """
        leader, ms_id = self._leader, request.microservice
        until = self._clock.monotonic() + request.timeout_s
        groups = leader.directory.groups(ms_id)
        kind = machine.SHARDS if request.shards else machine.REPLICATED
        count = request.shards or request.replicas
        if not groups:
            raise NotFound(f"there is no microservice {ms_id}")
        paths = [path for path, one in groups.items() if one.document.kind == kind]
        if not paths:
            word = "shards" if request.shards else "replicas"
            raise Invalid(f"microservice {ms_id} has no {word}; a manager that gives it {word} is not in its chain")
        if not 1 <= count <= SCALE_MAX:
            raise Invalid(f"{count} is not 1 to {SCALE_MAX}")
        lowest = max(groups[path].document.min_in_sync for path in paths)
        if request.replicas and count < lowest:
            raise Invalid(f"replicas={count} is less than min_in_sync={lowest}; writes would never be accepted")
        async with leader.locks.hold(ms_id):
            for path in paths:
                await self._edit_locked(
                    ms_id,
                    until,
                    lambda document: msgspec.structs.replace(document, wanted=count, version=document.version + 1),
                    unless=lambda document: document.wanted == count,
                    path=path,
                )
        while True:
            found = await self.until_done(ms_id, until, "the scaling")
            if found is None:
                raise NotFound(f"microservice {ms_id} was deleted while it was being scaled")
            if kind == machine.REPLICATED or len(found.document.children) == count:
                return found
            if found.document.wanted != count:
                raise Conflict(f"scaling {ms_id} to {count} was overtaken: {found.document.wanted} are wanted now")
            await asyncio.sleep(PAUSE_S_MIN)

    def _first_document(self, record: MicroserviceRecord) -> GroupDocument:
        """Return the root group's document before it has replicas."""
        level = leaf(self._leader.chains.levels(record.spec))
        return GroupDocument(
            kind=level.kind if level is not None else "",
            wanted=level.members if level is not None else 1,
            min_in_sync=level.min_in_sync if level is not None else 1,
            regions=level.regions if level is not None else (),
            preferred_region=level.preferred_region if level is not None else "",
            devices=level is not None and level.devices,
        )

    async def _make(
        self, ms_id: str, record: MicroserviceRecord, document: GroupDocument, until: float
    ) -> Found | None:
        """Make it here, with one write; None if that was refused."""
        leader = self._leader
        assert leader.maker is not None, "who asks has its answer"
        compares, puts = leader.writes.beginning(ms_id, record, document)
        fence = Fence(slot_of(ms_id), leader.writes.leader_revision(ms_id), 0)
        try:
            async with asyncio.timeout(max(0.0, until - self._clock.monotonic())):
                revision = await leader.maker.make(ms_id, record, document, fence, compares, puts)
        except TimeoutError:
            raise OutcomeUnknown(
                f"the creation of {ms_id} goes on, but etcd has not confirmed it in time; repeat it to wait longer",
                microservice=ms_id,
            ) from None
        if revision is None:
            return None
        leader.directory.learn(ms_id, ROOT, document, revision)
        return Found(document, revision)

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
        found = await self.until_done(ms_id, until, "the deletion")
        assert found is None, "a deletion is never taken back"
        leader.events.add("deleted", ms_id)

    # --- move -----------------------------------------------------------------------------------------------------

    # --- restore, release, deaths ---------------------------------------------------------------------------------

    async def restore(self, ms_id: str, timeout_s: float) -> tuple[Found, str]:
        """Bring a lost microservice back; returns its document and what it came back from.

        Raises:
            NotFound: there is none. Conflict: it is not lost.
        """
        leader = self._leader
        until = self._clock.monotonic() + timeout_s
        record = await leader.records.get(ms_id, leader.generation(ms_id))
        if record is None:
            raise NotFound(f"there is no microservice {ms_id}")
        sources: list[machine.Source] = ["construct"]
        if leader.chains.recovers_from_checkpoint(record.spec):
            sources.insert(0, "checkpoint")
        why = ""
        for source in sources:
            async with leader.locks.hold(ms_id):
                await self._revive(ms_id, record, source)
            found = await self.until_done(ms_id, until, "the restoration")
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
        choice = await leader.choose_surely(ms_id, record, leader.demand(ms_id, record, found.document))
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
        return await self.until_done(ms_id, until, "the recovery") or found

    async def clear_deaths(self, request: ClearDeathsRequest) -> None:
        """Forget deaths counted against methods that have completed at the present replica. Idempotent."""

        def settled(document: GroupDocument) -> bool:
            here = any(replica.id == request.replica for replica in document.replicas)
            return not here or not any(method in document.deaths for method in request.methods)

        until = self._clock.monotonic() + request.timeout_s
        await self._edit(
            request.microservice, until, lambda document: machine.forgiven(document, request.methods), unless=settled
        )

    async def report_absent(self, request: AbsentRequest) -> None:
        """Give up a replica that its server does not have, and recover it."""
        await give_up_absent(self._leader, request)

    # --- writing and waiting --------------------------------------------------------------------------------------
