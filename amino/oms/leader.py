"""The slot leader's hand: takes one microservice from its stored document to where nothing is left to do.

Owns executing the steps of ``group_machine``, one microservice at a time. Leaves deciding to the machine, what users ask
for to ``operations`` and when to look to ``reconciler``.
Invariants: steps of one microservice never overlap on this server, and every one of them is guarded, so a former leader
changes nothing; after a write of unknown outcome the next step is a write that settles it.
Failure behaviour: ``Progress.wait`` tells why it cannot go on now; errors that end a creation are kept as its verdict.
"""

from __future__ import annotations

import asyncio
import random as random_module
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import msgspec

from amino.aio.tasks import TaskOwner
from amino.contracts.documents import GroupDocument, MicroserviceRecord, ReplicaDocument
from amino.contracts.services import Fence, InstantiateRequest, RetireRequest
from amino.errors import (
    AminoError,
    CodeUnavailable,
    Conflict,
    CoordinationUnavailable,
    CorruptCheckpoint,
    NoEligibleServer,
    NotExecuted,
    NotFound,
    OutcomeUnknown,
    Overloaded,
    StoreFailed,
)
from amino.ids import ROOT, slot_of
from amino.oms import group_machine as machine
from amino.oms.commands import Commands
from amino.oms.directory import Directory, Found
from amino.oms.events import EventLog
from amino.oms.failovers import Failovers
from amino.oms.locks import Locks
from amino.oms.placement import Candidate, Choice, Demand, choose, incarnation_key
from amino.oms.ports import Blobs, Chains
from amino.oms.records import Records
from amino.oms.writes import Writes

STEPS_MAX = 64
VERDICTS_MAX = 1024
INSTANTIATE_TIMEOUT_S = 120.0
RETIRE_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a microservice got.

    Args:
        found: its document, None when it is gone (or never was).
        wait: why it cannot go on now; empty when nothing is left to do.
    """

    found: Found | None
    wait: str = ""


@dataclass(slots=True)
class Work:
    """One pass over one microservice, under its lock."""

    ms_id: str
    found: Found | None
    record: MicroserviceRecord | None = None
    steps: int = 0
    path: str = ROOT
    avoid: dict[str, str] = field(default_factory=dict)
    problem: AminoError | None = None


class Leader:
    """Executes steps for the microservices of the slots this server leads.

    Args:
        on_wait: called with (id, reason) whenever a pass ended before everything was done, so that somebody comes back.
        random: for replica ids.
    """

    def __init__(
        self,
        *,
        directory: Directory,
        records: Records,
        writes: Writes,
        commands: Commands,
        chains: Chains,
        blobs: Blobs,
        events: EventLog,
        failovers: Failovers,
        random: random_module.Random,
    ) -> None:
        self.directory = directory
        self.records = records
        self.writes = writes
        self.commands = commands
        self.chains = chains
        self.blobs = blobs
        self.events = events
        self._failovers = failovers
        self.locks = Locks()
        self.on_wait: Callable[[str, str], None] | None = None
        self._random = random
        self._tasks = TaskOwner("leader")
        self._preempted: Counter[str] = Counter()
        self._verdicts: OrderedDict[str, AminoError] = OrderedDict()

    def __repr__(self) -> str:
        return f"Leader({self.locks!r})"

    async def aclose(self) -> None:
        """End the passes under way. Idempotent."""
        await self._tasks.aclose()

    # --- what others ask --------------------------------------------------------------------------------------------

    async def advance(self, ms_id: str) -> Progress:
        """Take a microservice as far as it gets now.

        Raises:
            NotExecuted: this server does not lead its slot (reason ``not-ready``).
        """
        async with self.locks.hold(ms_id):
            return await self.advance_locked(ms_id)

    async def advance_within(self, ms_id: str, timeout_s: float) -> Progress:
        """As ``advance``, waiting at most ``timeout_s`` seconds (or until cancelled); the pass goes on regardless."""
        task = self._tasks.spawn(self._advance_caught(ms_id), ms_id)
        await asyncio.wait({task}, timeout=timeout_s)
        if not task.done():
            return Progress(self.directory.group(ms_id), "the present step takes long")
        result = task.result()
        if isinstance(result, AminoError):
            raise result
        return result

    async def _advance_caught(self, ms_id: str) -> Progress | AminoError:
        try:
            return await self.advance(ms_id)
        except AminoError as error:
            return error

    @asynccontextmanager
    async def hold_first(self, ms_id: str) -> AsyncIterator[None]:
        """Hold the lock of ``ms_id``, ahead of passes under way: they end at their present step."""
        self._preempted[ms_id] += 1
        waits = True
        try:
            self.commands.interrupt(lambda one: one == ms_id)
            async with self.locks.hold(ms_id):
                waits = self._let_pass(ms_id)
                yield
        finally:
            if waits:
                self._let_pass(ms_id)

    def _let_pass(self, ms_id: str) -> bool:
        self._preempted[ms_id] -= 1
        if not self._preempted[ms_id]:
            del self._preempted[ms_id]
        return False

    async def advance_locked(self, ms_id: str) -> Progress:
        """As ``advance``; the caller holds the lock."""
        work = Work(ms_id, self.directory.group(ms_id))
        if work.found is None:
            work.found = await self.writes.read(ms_id)
        progress = await self._pass(work)
        if progress.wait and self.on_wait is not None:
            self.on_wait(ms_id, progress.wait)
        return progress

    def idle(self, ms_id: str) -> bool:
        """Return whether nothing is left to do for a microservice, as far as this server has heard; never waits."""
        found = self.directory.group(ms_id)
        if found is None:
            return True
        view = machine.View(ms_id, self.directory.live, paused=self.directory.cluster.paused)
        return isinstance(machine.next_step(found.document, view), machine.Done)

    def forget_verdict(self, ms_id: str) -> None:
        """Forget why an earlier creation of ``ms_id`` failed: it is being tried again."""
        self._verdicts.pop(ms_id, None)

    def verdict(self, ms_id: str) -> AminoError | None:
        """Return why the creation of ``ms_id`` failed, if it did here lately."""
        return self._verdicts.get(ms_id)

    def choose(self, ms_id: str, record: MicroserviceRecord, demand: Demand | None = None) -> Choice:
        """Choose a server for a replica of ``ms_id``; raises ``NoEligibleServer``."""
        return choose(demand or self.demand(ms_id, record), self.directory.candidates())

    def demand(
        self,
        ms_id: str,
        record: MicroserviceRecord,
        document: GroupDocument | None = None,
        avoid: dict[str, str] | None = None,
    ) -> Demand:
        """Return what a replica of ``ms_id`` needs of a server."""
        return Demand(
            key=ms_id,
            placement=record.spec.placement,
            needs_store=self.chains.needs_store(record.spec),
            store_id=document.store_id if document is not None else "",
            refused={**(document.ineligible if document is not None else {}), **(avoid or {})},
        )

    def replica_at(self, server: Candidate, epoch: int, source: machine.Source) -> ReplicaDocument:
        """Return a new replica at ``server``, with an id of its own."""
        return ReplicaDocument(
            id=f"{epoch}-{self._random.getrandbits(32):08x}",
            server=server.name,
            incarnation=server.incarnation,
            source=source,
        )

    def fence(self, ms_id: str, found: Found) -> Fence:
        """Return the proof that goes with a command decided on ``found``."""
        return Fence(slot_of(ms_id), self.writes.leader_revision(ms_id), found.revision)

    # --- one pass ---------------------------------------------------------------------------------------------------

    async def _pass(self, work: Work) -> Progress:
        while work.found is not None:
            work.steps += 1
            if work.steps > STEPS_MAX:
                return Progress(work.found, f"no end after {STEPS_MAX} steps")
            if work.ms_id in self._preempted:
                return Progress(work.found, "it is about to be deleted")
            try:
                wait = await self._step(work, work.found)
            except Conflict:
                await self.writes.check_leadership(work.ms_id)
                before, work.found = work.found, await self.writes.read(work.ms_id)
                if work.found is None or work.found.revision != before.revision:
                    continue
                self.directory.servers_cache.relist_soon()
                wait = "etcd knows better than this server which servers live"
            except Overloaded as error:
                wait = str(error)
            except CoordinationUnavailable as error:
                wait = await self._settle(work, error)
            if wait is not None:
                return Progress(work.found, wait)
        return Progress(None)

    async def _settle(self, work: Work, error: CoordinationUnavailable) -> str | None:
        try:
            work.found = await self.writes.settle(work.ms_id, work.path)
        except CoordinationUnavailable:
            return f"etcd does not answer: {error}"
        return None

    async def _step(self, work: Work, found: Found) -> str | None:
        """Do the next step; returns None to go on, else why to stop ('' when done)."""
        if work.record is None:
            work.record = await self.records.get(work.ms_id)
        view = await self._view(work, found)
        match machine.next_step(found.document, view):
            case machine.Done():
                return ""
            case machine.Wait(why):
                return why
            case machine.Place() as step:
                return await self._place(work, found, step)
            case machine.Write(document, lost, why, orphan):
                work.found = await self.writes.replace(work.ms_id, work.path, found, document, lost=lost, orphan=orphan)
                self.events.add(_event_of(document), work.ms_id, text=document.reason or why)
            case machine.Instantiate(replica, source):
                return await self._instantiate(work, found, replica, source)
            case machine.Retire(replicas, document):
                for replica in replicas:
                    problem = await self._retire(work, found, replica, destroy=False)
                    if problem:
                        return problem
                work.found = await self.writes.replace(work.ms_id, work.path, found, document)
            case machine.Destroy(replicas):
                return await self._destroy(work, found, replicas)
        return None

    async def _view(self, work: Work, found: Found) -> machine.View:
        for replica in found.document.replicas:
            if not self.directory.lives(replica.server, replica.incarnation):
                await self.commands.proof(replica.server, replica.incarnation)
        recovery: machine.Recovery = "none"
        if work.record is not None:
            if self.chains.recovers_from_checkpoint(work.record.spec):
                recovery = "checkpoint"
            elif work.record.spec.on_loss == "recreate":
                recovery = "construct"
        return machine.View(
            microservice=work.ms_id,
            live=self.directory.live,
            recovery=recovery,
            tombstones=self.commands.tombstones(),
            paused=self.directory.cluster.paused,
            record=work.record is not None,
        )

    async def _place(self, work: Work, found: Found, step: machine.Place) -> str | None:
        assert work.record is not None, "the machine deletes what has no record"
        base = self._pruned(step.base)
        try:
            choice = self.choose(work.ms_id, work.record, self.demand(work.ms_id, work.record, base, work.avoid))
        except NoEligibleServer as error:
            return await self._nowhere(work, found, error)
        replica = self.replica_at(choice.server, base.epoch + 1, step.source)
        document = msgspec.structs.replace(
            machine.placed(base, replica, choice.explanation),
            trace=self._failovers.trace_of(step.lost.server, step.lost.incarnation) if step.lost is not None else "",
            store_id=base.store_id or (choice.server.store_id if self.chains.needs_store(work.record.spec) else ""),
        )
        with self.directory.reserve(replica.server):
            work.found = await self.writes.replace(
                work.ms_id, work.path, found, document, placing=replica, lost=step.lost
            )
        if step.lost is not None:
            self._failovers.placed(work.ms_id, (step.lost.server, step.lost.incarnation), document)
            self.events.add("replaced", work.ms_id, replica.server, step.why)
        return None

    def _pruned(self, base: GroupDocument) -> GroupDocument:
        """Forget reasons of incarnations that are gone: the next one may be able to load the class."""
        live = {incarnation_key(name, incarnation) for name, incarnation in self.directory.live.items()}
        kept = {server: reason for server, reason in base.ineligible.items() if server in live}
        return msgspec.structs.replace(base, ineligible=kept)

    async def _nowhere(self, work: Work, found: Found, error: NoEligibleServer) -> str | None:
        problem = work.problem if isinstance(work.problem, StoreFailed) else error
        if not found.document.constructed:
            return await self._undo(work, found, problem)
        work.avoid.clear()
        return str(problem)

    async def _undo(self, work: Work, found: Found, verdict: AminoError) -> str | None:
        """Undo a creation: nothing was constructed, so nothing is lost."""
        if found.document.replicas and self.directory.lives(
            found.document.replicas[0].server, found.document.replicas[0].incarnation
        ):
            problem = await self._retire(work, found, found.document.replicas[0], destroy=True)
            if problem:
                return problem
        self._verdicts[work.ms_id] = verdict
        while len(self._verdicts) > VERDICTS_MAX:
            self._verdicts.popitem(last=False)
        return await self._destroy(work, found, ())

    async def _instantiate(
        self, work: Work, found: Found, replica: ReplicaDocument, source: machine.Source
    ) -> str | None:
        assert work.record is not None, "the machine deletes what has no record"
        document = found.document
        request = InstantiateRequest(
            microservice=work.ms_id,
            path=work.path,
            replica=replica.id,
            record=work.record,
            document=document,
            fence=self.fence(work.ms_id, found),
            source=source,
            suspects=tuple(document.deaths),
        )
        server = incarnation_key(replica.server, replica.incarnation)
        began_ns = self._failovers.now_ns()
        try:
            async with self.commands.to(work.ms_id, replica, INSTANTIATE_TIMEOUT_S) as kernel:
                reply = await kernel.instantiate(request)
        except NotFound:  # the source of a move that was given up does not have it
            return await self._rewrite(work, found, machine.forsaken(document))
        except NotExecuted as error:
            return await self._after_doubt(work, f"{replica.server}: {error}")
        except (OutcomeUnknown, CoordinationUnavailable, TimeoutError) as error:
            return await self._after_doubt(work, f"{replica.server}: {error or 'no answer'}")
        except CodeUnavailable as error:
            return await self._rewrite(work, found, machine.refused(document, server, str(error)))
        except CorruptCheckpoint as error:
            return await self._rewrite(work, found, machine.failed(document, str(error)))
        except StoreFailed as error:
            work.avoid[server] = str(error)
            work.problem = error
            return await self._rewrite(work, found, machine.forsaken(document))
        except AminoError as error:
            if not document.constructed:
                return await self._undo(work, found, error)
            return await self._rewrite(work, found, machine.failed(document, str(error)))
        done = machine.confirmed(document, reply.methods)
        self.directory.learn(work.ms_id, work.path, done, reply.document_revision)
        if document.constructed or source != "construct":
            self._failovers.restored(work.ms_id, began_ns, document)
            self.events.add("recovered", work.ms_id, replica.server, f"{source}, epoch {document.epoch}")
        if document.leftovers:
            work.found = await self.writes.read(work.ms_id, work.path)
            return None
        work.found = Found(done, reply.document_revision)
        return ""

    async def _rewrite(self, work: Work, found: Found, document: GroupDocument) -> str | None:
        work.found = await self.writes.replace(work.ms_id, work.path, found, document)
        return None

    async def _after_doubt(self, work: Work, why: str) -> str | None:
        """A command's outcome is not known: look again; if nothing changed, wait."""
        before = work.found
        work.found = await self.writes.read(work.ms_id, work.path)
        if work.found is None or before is None or work.found.revision != before.revision:
            return None
        replica = work.found.document.replicas[0] if work.found.document.replicas else None
        if replica is not None and not self.directory.lives(replica.server, replica.incarnation):
            return None
        return why

    async def _retire(self, work: Work, found: Found, replica: ReplicaDocument, *, destroy: bool) -> str:
        request = RetireRequest(work.ms_id, work.path, replica.id, self.fence(work.ms_id, found), destroy)
        try:
            async with self.commands.to(work.ms_id, replica, RETIRE_TIMEOUT_S) as kernel:
                await kernel.retire(request)
        except (AminoError, TimeoutError) as error:
            if not self.directory.lives(replica.server, replica.incarnation):
                return ""
            return f"{replica.server} did not drop replica {replica.id}: {error or 'no answer'}"
        return ""

    async def _destroy(self, work: Work, found: Found, replicas: tuple[ReplicaDocument, ...]) -> str | None:
        for replica in replicas:
            problem = await self._retire(work, found, replica, destroy=True)
            if problem:
                return problem
        try:
            await self.blobs.delete_checkpoints(work.ms_id)
        except StoreFailed as error:
            return f"its checkpoints cannot be removed: {error}"
        await self.writes.purge(work.ms_id, found, work.record)
        self.records.forget(work.ms_id)
        work.found = None
        return None


def _event_of(document: GroupDocument) -> str:
    return document.phase if document.phase in ("lost", "quarantined") else "changed"
