"""Changing the managers of a running microservice: ``Registry.change``, on its slot's leader.

Owns turning a wanted spec into intent, command and the wait for them. Leaves the rules to ``change_machine``, building the
replica again to its server, and what others are to do about a half-done change to the group's machine.
Invariants: refusals come before anything is written; no command before its intent; the server that has the state switches
record and document in one transaction.
Failure behaviour: a change that does not come off leaves the microservice as it was, at a new epoch, and raises why.
"""

from __future__ import annotations

import contextlib
import dataclasses
from dataclasses import dataclass

import msgspec

from amino.aio.clock import Clock
from amino.contracts.documents import MicroserviceRecord
from amino.contracts.levels import Level
from amino.contracts.services import ChangeRequest, ConvertRequest, DocumentWrite, MoveRequest, ScaleRequest
from amino.errors import AminoError, Conflict, NotExecuted, NotFound, OutcomeUnknown
from amino.ids import ROOT
from amino.oms import change_machine, shard_machine
from amino.oms import group_machine as machine
from amino.oms.directory import Found
from amino.oms.leader import Leader
from amino.oms.operations import Operations
from amino.oms.placement import Candidate, why_not

CONVERT_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class _Intent:
    """A change that was decided.

    Args:
        root: of the microservice as it is. record: as it is to be. levels: of its chain then.
    """

    root: Found
    plan: change_machine.Plan
    record: MicroserviceRecord
    levels: tuple[Level, ...]


class Changes:
    """Changes of the microservices of the slots this server leads."""

    def __init__(self, leader: Leader, operations: Operations, clock: Clock) -> None:
        self._leader = leader
        self._operations = operations
        self._clock = clock

    async def change(self, request: ChangeRequest) -> tuple[Found, tuple[str, ...]]:
        """Give a microservice another spec; returns its document, and the differences in words.

        Raises:
            NotFound: there is none. Invalid: something differs that cannot change, or the chain cannot work.
            NoEligibleServer, CodeUnavailable, StoreFailed: no server can run it so.
            NotExecuted: it is not active now, or too busy. In all these cases it goes on as it was.
        """
        ms_id = request.microservice
        until = self._clock.monotonic() + request.timeout_s
        self._operations.check_spec(request.spec)
        shards = 0
        try:
            while True:
                await self._operations.until_done(ms_id, until, "the work on")
                done = await self._try(request, until)
                if not isinstance(done, _Intent):
                    return done
                remaining_s = max(0.0, until - self._clock.monotonic())
                root = done.root.document
                if not done.plan.rebuild:
                    return await self._scale(ms_id, done, until), done.plan.changes
                if len(root.children) > 1:  # into one shard, which can be built again in one step
                    shards = root.wanted
                    await self._operations.scale(ScaleRequest(ms_id, shards=1, timeout_s=remaining_s))
                else:
                    await self._move(ms_id, done, remaining_s)
        except AminoError:
            if shards:  # it goes on as it was, spread as it was
                with contextlib.suppress(AminoError):
                    await self._operations.scale(ScaleRequest(ms_id, shards=shards, timeout_s=0.0))
            raise

    async def _try(self, request: ChangeRequest, until: float) -> tuple[Found, tuple[str, ...]] | _Intent:
        """Change it if that can be done in one step; else return what is to be done."""
        ms_id = request.microservice
        async with self._leader.locks.hold(ms_id):
            intent = await self._decide(request)
            plan, root = intent.plan, intent.root
            if request.dry_run or not plan.changes:
                return root, plan.changes
            if plan.counts and not plan.rebuild:
                return intent
            if not plan.rebuild:
                return await self._note(ms_id, intent), plan.changes
            if len(root.document.children) > 1 or self._elsewhere(ms_id, intent):
                return intent
            return await self._convert(ms_id, intent, until), plan.changes

    async def _decide(self, request: ChangeRequest) -> _Intent:
        leader, ms_id = self._leader, request.microservice
        root = leader.directory.group(ms_id) or await leader.writes.read(ms_id)
        record = await leader.records.get(ms_id, root.document.generation) if root is not None else None
        if root is None or record is None:
            raise NotFound(f"there is no microservice {ms_id}")
        plan = change_machine.plan(record.spec, request.spec)
        levels = leader.chains.levels(request.spec)
        wanted = msgspec.structs.replace(record, spec=request.spec, generation=root.document.generation + 1)
        states = {machine.state_of(one.document) for one in leader.directory.groups(ms_id).values()} or {"unknown"}
        if plan.changes and states != {"active"}:
            raise NotExecuted(
                f"microservice {ms_id} is {', '.join(sorted(states))}; change it once it is active", reason="not-ready"
            )
        if plan.rebuild and root.document.kind == machine.SHARDS:
            leaving = shard_machine.leaving(root.document, leader.shards.children(ms_id))
            if leaving or not shard_machine.settled(root.document):
                raise NotExecuted(f"shards of {ms_id} come or go; change it once they are there", reason="not-ready")
        if plan.rebuild:
            leader.choose(ms_id, wanted)  # raises if no server can have it
        return _Intent(root, plan, wanted, levels)

    def _holder(self, ms_id: str, intent: _Intent) -> tuple[str, Found]:
        """Return the path and document of the group that has the state."""
        path = change_machine.paths(intent.root.document, intent.levels).before
        found = intent.root if path == ROOT else self._leader.directory.group(ms_id, path)
        if found is None:
            raise NotExecuted(f"microservice {ms_id} changed meanwhile; ask again", reason="not-ready")
        return path, found

    def _elsewhere(self, ms_id: str, intent: _Intent) -> str:
        """Return the server to move to first because the present one cannot have it so, empty if it can."""
        leader = self._leader
        _, holder = self._holder(ms_id, intent)
        demand = leader.demand(ms_id, intent.record)
        here = change_machine.keeper(holder.document).server
        present = next((one for one in leader.directory.candidates() if one.name == here), None)
        if present is not None and not why_not(demand, _open(present)):
            return ""
        there = {one.server: "it has a replica" for one in holder.document.replicas}
        fresh = dataclasses.replace(demand, excluded={**demand.excluded, **there})
        return leader.choose(ms_id, intent.record, fresh).server.name

    async def _move(self, ms_id: str, intent: _Intent, timeout_s: float) -> None:
        """Move the replica to where the new managers can work."""
        path, holder = self._holder(ms_id, intent)
        await self._operations.move(
            MoveRequest(
                microservice=ms_id,
                path=path,
                server=self._elsewhere(ms_id, intent),
                replica=change_machine.keeper(holder.document).id,
                why="change of managers",
                timeout_s=timeout_s,
            )
        )

    async def _scale(self, ms_id: str, intent: _Intent, until: float) -> Found:
        """Have other numbers of shards or replicas, then note that."""
        for level in intent.levels:
            sharded = level.kind == machine.SHARDS
            await self._operations.scale(
                ScaleRequest(
                    ms_id,
                    shards=level.members if sharded else 0,
                    replicas=0 if sharded else level.members,
                    timeout_s=max(0.0, until - self._clock.monotonic()),
                )
            )
        await self._operations.until_done(ms_id, until, "the scaling")
        async with self._leader.locks.hold(ms_id):
            root = self._leader.directory.group(ms_id) or intent.root
            return await self._note(ms_id, dataclasses.replace(intent, root=root))

    async def _note(self, ms_id: str, intent: _Intent) -> Found:
        """Write what concerns the record alone: labels, placement, what to do on loss."""
        leader = self._leader
        document = change_machine.noted(intent.root.document)
        try:
            found = await leader.writes.replace(ms_id, ROOT, intent.root, document, record=intent.record)
        except Conflict as error:
            await leader.writes.read(ms_id)
            raise NotExecuted(f"microservice {ms_id} changed meanwhile; ask again", reason="not-ready") from error
        self._told(ms_id, intent)
        return found

    async def _convert(self, ms_id: str, intent: _Intent, until: float) -> Found:
        leader = self._leader
        path, holder = self._holder(ms_id, intent)
        try:
            holder = await leader.writes.replace(ms_id, path, holder, change_machine.intended(holder.document))
        except Conflict as error:
            await leader.writes.read(ms_id, path)
            raise NotExecuted(f"microservice {ms_id} changed meanwhile; ask again", reason="not-ready") from error
        problem = await self._command(ms_id, path, holder, intent, until)
        progress = await leader.advance_locked(ms_id)  # goes on from either outcome, by what is on record
        if progress.found is None:
            raise NotFound(f"microservice {ms_id} was deleted while it was being changed")
        if progress.found.document.generation < intent.record.generation:
            raise problem or OutcomeUnknown(
                f"the change of {ms_id} was given up: {progress.wait or 'it was overtaken'}"
            )
        self._told(ms_id, intent)
        return progress.found

    async def _command(self, ms_id: str, path: str, holder: Found, intent: _Intent, until: float) -> AminoError | None:
        """Tell the server to change the replica; returns what it said, None if all is well."""
        leader, spec, levels = self._leader, intent.record.spec, intent.levels
        root = intent.root if path != ROOT else holder
        keeper = change_machine.keeper(holder.document)
        server = leader.directory.server(keeper.server)
        store_id = server.record.store_id if server is not None and leader.chains.needs_store(spec) else ""
        where = change_machine.paths(root.document, levels)
        documents = change_machine.documents(root.document, holder.document, where, levels, store_id)
        revisions = {ROOT: root.revision, path: holder.revision}
        request = ConvertRequest(
            microservice=ms_id,
            path=path,
            to_path=where.after,
            replica=keeper.id,
            record=intent.record,
            document=holder.document,
            writes=tuple(DocumentWrite(one, revisions.get(one, 0), goal) for one, goal in documents.items()),
            fence=leader.fence(ms_id, holder),
            forget_checkpoints=not leader.chains.recovers_from_checkpoint(spec),
        )
        error: AminoError | None = None
        timeout_s = min(CONVERT_TIMEOUT_S, max(1.0, until - self._clock.monotonic()))
        try:
            async with leader.commands.to(ms_id, keeper, timeout_s) as kernel:
                await kernel.convert(request)
        except AminoError as problem:
            error = problem
        except TimeoutError:
            error = NotExecuted(f"changing {ms_id} took too long or lost its server; it was given up", reason="moving")
        for one in documents:
            if await leader.writes.read(ms_id, one) is None:
                leader.directory.learn(ms_id, one, None, await leader.writes.check_leadership(ms_id))
        return error

    def _told(self, ms_id: str, intent: _Intent) -> None:
        self._leader.records.learn(ms_id, intent.record)
        self._leader.events.add("changed", ms_id, text="; ".join(intent.plan.changes))


def _open(server: Candidate) -> Candidate:
    """Return ``server`` as one that has room: the replica is there already."""
    return msgspec.structs.replace(server, cordoned="", capacity=0)
