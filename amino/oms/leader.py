"""The slot leader's hand: takes one microservice from its stored document to where nothing is left to do.

Owns executing the steps of ``group_machine``, one microservice at a time. Leaves deciding to the machine, what users ask
for to ``operations`` and when to look to ``reconciler``.
Invariants: steps of one microservice never overlap on this server, and every one of them is guarded, so a former leader
changes nothing; after a write of unknown outcome the next step is a write that settles it.
Failure behaviour: ``Progress.wait`` tells why it cannot go on now; errors that end a creation are kept as its verdict.
"""

from __future__ import annotations

import asyncio
import logging
import random as random_module
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import msgspec

from amino.aio.overdue import told_if_overdue
from amino.aio.tasks import TaskOwner
from amino.contracts.documents import GroupDocument, Phase, ReplicaDocument
from amino.contracts.levels import leaf
from amino.contracts.services import InstantiateRequest
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
from amino.ids import ROOT
from amino.oms import group_machine as machine
from amino.oms.commands import Commands
from amino.oms.directory import Directory, Found
from amino.oms.doubt import silent
from amino.oms.events import EventLog
from amino.oms.failovers import Failovers
from amino.oms.hand import Hand, Progress, Work
from amino.oms.heirs import log_ends
from amino.oms.locks import Locks
from amino.oms.patience import SETTLED_S, Patience
from amino.oms.placement import incarnation_key
from amino.oms.ports import Blobs, Chains, Maker
from amino.oms.reach import Reach
from amino.oms.records import Records
from amino.oms.shards import Shards
from amino.oms.writes import Writes

_log = logging.getLogger("amino.oms")
STEPS_MAX = 64
VERDICTS_MAX = 1024
INSTANTIATE_TIMEOUT_S = 120.0
ROUNDS_MAX = 8


class Leader(Hand):
    """Executes steps for the microservices of the slots this server leads.

    Args:
        on_wait: called with (id, reason) whenever a pass ended before everything was done, so that somebody comes back.
        server: this server's name; creations are placed here where that makes little difference.
        random: for replica ids.

    Attributes:
        maker: makes here, in one write, what can be made so; None while nothing can.
    """

    def __init__(
        self,
        *,
        server: str,
        directory: Directory,
        records: Records,
        writes: Writes,
        commands: Commands,
        reach: Reach,
        chains: Chains,
        blobs: Blobs,
        events: EventLog,
        failovers: Failovers,
        random: random_module.Random,
    ) -> None:
        self.server = server
        self.maker: Maker | None = None
        self.directory = directory
        self.records = records
        self.writes = writes
        self.commands = commands
        self.reach = reach
        self.chains = chains
        self.blobs = blobs
        self.events = events
        self._failovers = failovers
        self.locks = Locks()
        self.on_wait: Callable[[str, str], None] | None = None
        self._random = random
        self.shards = Shards(self)
        self._patience, self._joined = Patience(), Patience(SETTLED_S)
        self._tasks = TaskOwner("leader")
        self._preempted: Counter[str] = Counter()
        self._verdicts: OrderedDict[str, AminoError] = OrderedDict()

    def __repr__(self) -> str:
        return f"Leader({self.locks!r})"

    async def aclose(self) -> None:
        """End the passes under way. Idempotent."""
        await self.shards.aclose()
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
        progress = await self._advance_group(ms_id, ROOT)
        for _ in range(ROUNDS_MAX):
            root = progress.found
            if root is None or root.document.kind != machine.SHARDS or root.document.phase == Phase.DELETING:
                break
            waits = [progress.wait]
            for path in self.directory.paths(ms_id):
                child = await self._advance_group(ms_id, path)
                waits.append(f"{path}: {child.wait}" if child.wait else "")
            progress = await self._advance_group(ms_id, ROOT)
            if progress.wait == waits[0]:  # nothing that the groups below did let the root go on
                waits[0] = progress.wait
                progress = Progress(progress.found, "; ".join(filter(None, waits)))
                break
        if progress.wait and self.on_wait is not None:
            self.on_wait(ms_id, progress.wait)
        return progress

    async def _advance_group(self, ms_id: str, path: str) -> Progress:
        work = Work(ms_id, self.directory.group(ms_id, path), path=path)
        if work.found is None:
            work.found = await self.writes.read(ms_id, path)
        return await self._pass(work)

    def idle(self, ms_id: str) -> bool:
        """Return whether nothing is left to do for a microservice, as far as this server has heard; never waits."""
        found = self.directory.group(ms_id)
        if found is None:
            return True
        view = machine.View(
            ms_id,
            self.directory.live,
            paused=self.directory.cluster.paused,
            regions=self.directory.regions(),
            devices=self.directory.devices(),
        )
        if found.document.kind != machine.SHARDS or found.document.phase == Phase.DELETING:
            return isinstance(machine.next_step(found.document, view), machine.Done)
        if not isinstance(self.shards.next_step(ms_id, found.document), machine.Done):
            return False
        groups = self.directory.groups(ms_id)
        return all(
            isinstance(machine.next_step(one.document, view), machine.Done)
            for path, one in groups.items()
            if path != ROOT
        )

    def forget_verdict(self, ms_id: str) -> None:
        """Forget why an earlier creation of ``ms_id`` failed: it is being tried again."""
        self._verdicts.pop(ms_id, None)

    def verdict(self, ms_id: str) -> AminoError | None:
        """Return why the creation of ``ms_id`` failed, if it did here lately."""
        return self._verdicts.get(ms_id)

    # --- one pass ---------------------------------------------------------------------------------------------------

    async def _pass(self, work: Work) -> Progress:
        while work.found is not None:
            work.steps += 1
            if work.steps > STEPS_MAX:
                return Progress(work.found, f"no end after {STEPS_MAX} steps")
            if work.ms_id in self._preempted:
                return Progress(work.found, "it is about to be deleted")
            try:
                with told_if_overdue(_log, work.said):
                    wait = await self._step(work, work.found)
            except Conflict:
                await self.writes.check_leadership(work.ms_id)
                before, work.found = work.found, await self.writes.read(work.ms_id, work.path)
                if work.found is None or work.found.revision != before.revision:
                    continue
                if await self.writes.hear_of_cordons():
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
        generation = self.generation(work.ms_id)
        if work.record is None or work.record.generation < generation:
            work.record = await self.records.get(work.ms_id, generation)
        shards = found.document.kind == machine.SHARDS and found.document.phase in (Phase.CREATING, Phase.ACTIVE)
        sharded = shards and work.record is not None
        if sharded and not found.document.leftovers:
            return await self.shards.step(work, found)
        view = await self._view(work, found)
        work.doing = step = machine.tidy(found.document, view) if sharded else machine.next_step(found.document, view)
        match step:
            case machine.Done():
                return ""
            case machine.Wait(why):
                return why
            case machine.Place():
                return await self._place(work, found, step)
            case machine.Add():
                return await self._add(work, found, step)
            case machine.Write():
                await self._write(work, found, step)
            case machine.Instantiate(replica, source):
                return await self._instantiate(work, found, replica, source)
            case machine.Retire():
                return await self._retire(work, found, step)
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
            regions=self.directory.regions(),
            devices=self.devices(work.ms_id, work.record, found.document, work.path, work.avoid),
            young=self._young(found.document),
            silent=await silent(self.commands, self.reach, work.ms_id, found.document),
            aside=self.reach.hands_over(),
            ends=await log_ends(
                self.commands,
                self.directory,
                leaf(self.chains.levels(work.record.spec)) if work.record is not None else None,
                (work.ms_id, work.path),
                found.document,
            ),
        )

    async def _write(self, work: Work, found: Found, step: machine.Write) -> None:
        document, lost = step.document, step.lost
        promotes = document.kind == machine.REPLICATED and document.epoch > found.document.epoch
        if promotes and lost is not None:
            document = msgspec.structs.replace(document, trace=self._failovers.trace_of(lost.server, lost.incarnation))
        work.found = await self.writes.replace(
            work.ms_id, work.path, found, document, lost=lost, gone=step.gone, orphan=step.orphan
        )
        if promotes and lost is not None:
            self._failovers.placed(work.ms_id, (lost.server, lost.incarnation), document)
        kind = "promoted" if promotes and document.phase == Phase.ACTIVE else _event_of(document)
        self.events.add(kind, work.ms_id, text=document.reason or step.why)

    async def _place(self, work: Work, found: Found, step: machine.Place) -> str | None:
        assert work.record is not None, "the machine deletes what has no record"
        base = self._pruned(step.base)
        try:
            choice = self.choose(
                work.ms_id, work.record, self.demand(work.ms_id, work.record, base, work.avoid, path=work.path)
            )
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
                work.ms_id, work.path, found, document, placing=replica, lost=step.lost, gone=step.gone
            )
        if step.lost is not None:
            self._failovers.placed(work.ms_id, (step.lost.server, step.lost.incarnation), document)
            self.events.add("replaced", work.ms_id, replica.server, step.why)
        return None

    async def _nowhere(self, work: Work, found: Found, error: NoEligibleServer) -> str | None:
        problem = work.problem if isinstance(work.problem, StoreFailed) else error
        if not found.document.constructed:
            return await self.undo(work, found, problem)
        work.avoid.clear()
        return str(problem)

    async def undo(self, work: Work, found: Found, verdict: AminoError) -> str | None:
        """Undo a creation: nothing was acknowledged, so nothing is lost."""
        if work.path != ROOT:
            return await self._undo_shard(work, found, verdict)
        for replica in found.document.replicas:
            if self.directory.lives(replica.server, replica.incarnation):
                problem = await self.retire(work.ms_id, work.path, found, replica, destroy=True)
                if problem:
                    return problem
        self._verdicts[work.ms_id] = verdict
        while len(self._verdicts) > VERDICTS_MAX:
            self._verdicts.popitem(last=False)
        return await self._destroy(work, found, ())

    async def _undo_shard(self, work: Work, found: Found, verdict: AminoError) -> str | None:
        """One shard cannot be made: undo the whole creation, or go on without if the microservice exists already."""
        root = await self.writes.read(work.ms_id)
        if root is None or root.document.constructed:
            if isinstance(verdict, NoEligibleServer | StoreFailed):  # which may pass
                return str(verdict)
            work.found = await self.writes.replace(
                work.ms_id, work.path, found, machine.failed(found.document, str(verdict))
            )
            return None
        self._verdicts[work.ms_id] = verdict
        await self.writes.replace(work.ms_id, ROOT, root, machine.deleting(root.document))
        work.found = None
        return None

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
        self._patience.begin(replica.id)
        began_ns = self._failovers.now_ns()
        try:
            async with self.commands.to(work.ms_id, replica, INSTANTIATE_TIMEOUT_S) as kernel:
                with self._failovers.placing(work.ms_id, document, replica, source):
                    reply = await kernel.instantiate(request)
        except NotFound:  # the source of a move that was given up does not have it
            return await self._rewrite(work, found, machine.forsaken(document, replica))
        except NotExecuted as error:
            if source != "resume" and self._goes_elsewhere(work, document, replica, error):
                return await self._rewrite(work, found, machine.forsaken(document, replica))
            return await self._after_doubt(work, f"{replica.server}: {error}")
        except (OutcomeUnknown, CoordinationUnavailable, TimeoutError) as error:
            return await self._after_doubt(work, f"{replica.server}: {error or 'no answer'}")
        except CodeUnavailable as error:
            return await self._rewrite(work, found, machine.refused(document, replica, server, str(error)))
        except CorruptCheckpoint as error:
            return await self._rewrite(work, found, machine.failed(document, str(error)))
        except StoreFailed as error:
            work.avoid[server] = str(error)
            work.problem = error
            return await self._rewrite(work, found, machine.forsaken(document, replica))
        except AminoError as error:
            if not document.constructed:
                return await self.undo(work, found, error)
            if source == "join":
                work.avoid[server] = str(error)
                return await self._rewrite(work, found, machine.forsaken(document, replica))
            return await self._rewrite(work, found, machine.failed(document, str(error)))
        self._patience.end(replica.id)
        done = machine.confirmed(document, reply.methods, replica.id)
        self.directory.learn(work.ms_id, work.path, done, reply.document_revision)
        if (document.constructed or source != "construct") and source != "join":
            self._failovers.restored(work.ms_id, began_ns, document)
            self.events.add("recovered", work.ms_id, replica.server, f"{source}, epoch {document.epoch}")
        if document.leftovers or document.kind:
            work.found = await self.writes.read(work.ms_id, work.path)
            return None
        work.found = Found(done, reply.document_revision)
        return ""

    async def _destroy(self, work: Work, found: Found, replicas: tuple[ReplicaDocument, ...]) -> str | None:
        for replica in replicas:
            problem = await self.retire(work.ms_id, work.path, found, replica, destroy=True)
            if problem:
                return problem
        for path in self.directory.paths(work.ms_id):
            child = await self.writes.read(work.ms_id, path)
            for replica in machine.everywhere(child.document) if child is not None else ():
                if child is not None and self.directory.lives(replica.server, replica.incarnation):
                    problem = await self.retire(work.ms_id, path, child, replica, destroy=True)
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
