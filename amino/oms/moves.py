"""Moving a replica to another server, live.

Owns the intent and the transfer: a single replica is shipped, one of a replicated group joins elsewhere and then leaves.
Leaves carrying on after a failure to ``leader``.
Invariant: the intent is written before any command.
Failure behaviour: what cannot be moved stays where it is, and the error says why.
"""

from __future__ import annotations

import contextlib
import dataclasses

from amino.contracts.documents import (
    GroupDocument,
    MicroserviceRecord,
    ReplicaDocument,
)
from amino.contracts.levels import leaf
from amino.contracts.services import (
    MoveRequest,
    TransferRequest,
)
from amino.errors import (
    AminoError,
    CodeUnavailable,
    Conflict,
    Invalid,
    NoEligibleServer,
    NotExecuted,
    NotFound,
    OutcomeUnknown,
)
from amino.oms import group_machine as machine
from amino.oms import replica_machine
from amino.oms.devices import may_shrink
from amino.oms.directory import Found
from amino.oms.editing import Editing
from amino.oms.placement import incarnation_key

TRANSFER_TIMEOUT_S = 60.0


class Moves(Editing):
    """Moves replicas of the slots this server leads."""

    async def move(self, request: MoveRequest) -> Found:
        """Migrate a microservice's replica; returns once it serves at its new server.

        Raises:
            NotFound: there is none, or no such server. NoEligibleServer: nowhere to go, or the server asked for cannot have it.
            Invalid: a manager keeps it in place, or the replica named is not its.
            NotExecuted: it is not active now, or could not be sealed in time; it stays where it is.
            CodeUnavailable: time ran out while servers that cannot have it were tried.
        """
        until = self._clock.monotonic() + request.timeout_s
        while True:
            try:
                return await self._move_once(request, until)
            except CodeUnavailable:  # that is on record now, with the reason: choose again
                if self._clock.monotonic() >= until:
                    raise

    async def _move_once(self, request: MoveRequest, until: float) -> Found:
        leader, ms_id = self._leader, request.microservice
        await self.until_done(ms_id, until, "the work on")
        async with leader.locks.hold(ms_id):
            found = await self._movable(request)
            document = found.document
            if document.kind == machine.SHARDS:
                raise Invalid(f"microservice {ms_id} has shards; name the group to move a replica of, as /0")
            if document.kind == machine.REPLICATED:
                await self._intend_replica(request, found, until)
                source = target = None
            else:
                source = document.replicas[0]
                if request.server == source.server:
                    return self._root(ms_id, found)
                target, found = await self._intend(request, found)
                error = await self._transfer(ms_id, found, source, target, request.path)
                await leader.advance_locked(ms_id)
                after = leader.directory.group(ms_id, request.path)
        if source is None or target is None:
            return await self._replica_moved(request, until)
        if after is None:
            raise NotFound(f"microservice {ms_id} was deleted while it was being moved")
        if target.id not in {replica.id for replica in after.document.replicas}:
            raise error or OutcomeUnknown(f"the move of {ms_id} was given up: it was overtaken")
        leader.events.add("moved", ms_id, target.server, f"from {source.server}: {request.why}")
        return self._root(ms_id, after)

    def _root(self, ms_id: str, otherwise: Found) -> Found:
        """Return the root group, which tells where a microservice is."""
        return self._leader.directory.group(ms_id) or otherwise

    async def _movable(self, request: MoveRequest) -> Found:
        leader, ms_id = self._leader, request.microservice
        found = leader.directory.group(ms_id, request.path) or await leader.writes.read(ms_id, request.path)
        record = await leader.records.get(ms_id, leader.generation(ms_id))
        if found is None or record is None:
            raise NotFound(f"there is no microservice {ms_id}")
        state = machine.state_of(found.document)
        if state != "active":
            raise NotExecuted(f"microservice {ms_id} is {state}; move it once it is active", reason="not-ready")
        if request.replica and request.replica not in {one.id for one in found.document.replicas}:
            raise Invalid(f"microservice {ms_id} has no replica {request.replica!r}; see `amino get replicas`")
        reason = leader.chains.keeps_in_place(record.spec)
        if reason is not None:
            raise Invalid(f"microservice {ms_id} is not moved: {reason}")
        return found

    async def _intend_replica(self, request: MoveRequest, found: Found, until: float) -> None:
        """Write the intent to have another replica in place of one: it joins, then the other leaves."""
        leader, ms_id, document = self._leader, request.microservice, found.document
        record = await leader.records.get(ms_id, leader.generation(ms_id))
        assert record is not None, "checked before, under the same lock"
        if any(one.server == request.server for one in document.replicas):
            raise NoEligibleServer(f"{request.server} has a replica of {ms_id} already; move it to another server")
        if request.server and await leader.directory.find_server(request.server) is None:
            raise NotFound(f"there is no live server {request.server!r} to move {ms_id} to")
        source = request.replica or document.primary
        if document.devices and not request.server and await self._shrink(request, found, record, source):
            return
        demand = dataclasses.replace(leader.demand(ms_id, record, document, path=request.path), only=request.server)
        try:
            choice = await leader.choose_surely(ms_id, record, demand)
        except NoEligibleServer as error:
            level = leaf(leader.chains.levels(record.spec))
            if not request.leave or level is None or level.early:  # early: others may not have all that it acknowledged
                raise
            await self._leave(request, source, until, error)
            return
        target = leader.replica_at(choice.server, document.epoch, "join")
        moving = replica_machine.moving(document, source, target, f"{request.why}; {choice.explanation}")
        with leader.directory.reserve(target.server):
            await self._write(ms_id, found, moving, target, request.path)

    async def _leave(self, request: MoveRequest, source: str, until: float, why_not: NoEligibleServer) -> None:
        """Take a replica out whose server ends, in good order: those that stay have everything, and one of them is primary.

        Raises:
            NotExecuted: not yet, ``joining`` others. NoEligibleServer: too few others are in sync, and none is to come.
        """
        ms_id = request.microservice
        view = machine.View(ms_id, self._leader.directory.live)

        def leave(document: GroupDocument) -> GroupDocument:
            leaving = replica_machine.replica_of(document, source)
            if leaving is None:
                return document
            if replica_machine.may_leave(document, view, leaving):
                return replica_machine.without(document, view, leaving)
            if replica_machine.someone_joins(document, view):
                text = f"the replica of {ms_id} at {leaving.server} leaves once another has caught up"
                raise NotExecuted(text, reason="not-ready", joining=True)
            raise why_not

        await self._edit_locked(ms_id, until, leave, path=request.path)

    async def _shrink(self, request: MoveRequest, found: Found, record: MicroserviceRecord, source: str) -> bool:
        """Let a device go without a replacement if none has room and those that stay are enough; returns whether it did."""
        leader, ms_id, document = self._leader, request.microservice, found.document
        devices = leader.devices(ms_id, record, document, request.path, {})
        view = machine.View(ms_id, leader.directory.live, devices=devices)
        leaving = replica_machine.replica_of(document, source)
        if leaving is None or leaving.server not in devices or not may_shrink(document, view, leaving):
            return False
        await self._write(ms_id, found, replica_machine.without(document, view, leaving), None, request.path)
        return True

    async def _replica_moved(self, request: MoveRequest, until: float) -> Found:
        """Wait until the move of a replica has ended, and tell how."""
        ms_id = request.microservice
        found = await self.until_done(ms_id, until, "the move")
        if found is None:
            raise NotFound(f"microservice {ms_id} was deleted while it was being moved")
        moved = self._leader.directory.group(ms_id, request.path) or found
        servers = {one.server for one in moved.document.replicas}
        if request.server and request.server not in servers:
            raise NotExecuted(
                f"the move of {ms_id} to {request.server} was given up; it goes on as before", reason="moving"
            )
        self._leader.events.add("moved", ms_id, request.server, request.why)
        return found

    async def _intend(self, request: MoveRequest, found: Found) -> tuple[ReplicaDocument, Found]:
        leader, ms_id = self._leader, request.microservice
        record = await leader.records.get(ms_id, leader.generation(ms_id))
        assert record is not None, "checked before, under the same lock"
        source = found.document.replicas[0]
        if request.server and await leader.directory.find_server(request.server) is None:
            live = ", ".join(sorted(leader.directory.live)) or "none"
            raise NotFound(f"there is no live server {request.server!r} to move {ms_id} to; those that live are {live}")
        demand = dataclasses.replace(
            leader.demand(ms_id, record, found.document, path=request.path),
            only=request.server,
            excluded={source.server: "it is there"},
        )
        choice = await leader.choose_surely(ms_id, record, demand)
        target = leader.replica_at(choice.server, found.document.epoch + 1, "resume")
        document = machine.moving(found.document, target, f"{request.why}; {choice.explanation}")
        with leader.directory.reserve(target.server):
            return target, await self._write(ms_id, found, document, target, request.path)

    async def _transfer(
        self, ms_id: str, found: Found, source: ReplicaDocument, target: ReplicaDocument, path: str
    ) -> AminoError | None:
        """Tell the source to ship itself; returns what it said, None if all is well. The document says what came of it."""
        leader = self._leader
        server = leader.directory.server(target.server)
        record = await leader.records.get(ms_id, leader.generation(ms_id))
        if server is None or record is None:
            return NotExecuted(f"server {target.server} is gone; the move is given up", reason="unreachable")
        request = TransferRequest(
            microservice=ms_id,
            path=path,
            record=record,
            document=found.document,
            fence=leader.fence(ms_id, found),
            target_address=server.record.address,
        )
        error: AminoError | None = None
        try:
            async with leader.commands.to(ms_id, source, TRANSFER_TIMEOUT_S) as kernel:
                await kernel.transfer(request)
        except CodeUnavailable as problem:  # it cannot load the class, or its class is older than the state
            where = incarnation_key(target.server, target.incarnation)
            with contextlib.suppress(Conflict):
                await leader.writes.replace(
                    ms_id, path, found, machine.turned_down(found.document, where, str(problem))
                )
            return problem
        except AminoError as problem:
            error = problem
        except TimeoutError:
            error = NotExecuted(f"moving {ms_id} took too long or lost a server; it was given up", reason="moving")
        await leader.writes.read(ms_id, path)
        return error
