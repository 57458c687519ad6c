"""What every step for one microservice needs: its demand of servers, new replicas, fences, and telling servers to drop some.

Owns these, and the state of one pass. Leaves steps to ``leader`` and ``shards``.
Invariant: a fence proves the leadership and the document that a command was decided on.
Failure behaviour: as each method says.
"""

from __future__ import annotations

import dataclasses
import random as random_module
from dataclasses import dataclass, field

import msgspec

from amino.contracts.documents import GroupDocument, MicroserviceRecord, ReplicaDocument, format_of
from amino.contracts.services import Fence, RetireRequest
from amino.errors import AminoError, NoEligibleServer, NotExecuted
from amino.ids import ROOT, slot_of
from amino.oms import group_machine as machine
from amino.oms import replica_machine
from amino.oms.commands import Commands
from amino.oms.directory import Directory, Found
from amino.oms.events import EventLog
from amino.oms.patience import Patience
from amino.oms.placement import Candidate, Choice, Demand, choose, incarnation_key, why_not
from amino.oms.ports import Chains, Maker
from amino.oms.records import Records
from amino.oms.writes import Writes

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
    doing: object = "looking"
    path: str = ROOT
    avoid: dict[str, str] = field(default_factory=dict)
    problem: AminoError | None = None

    def said(self) -> str:
        """Return what is being done, for a log."""
        doing = self.doing if isinstance(self.doing, str) else type(self.doing).__name__.lower()
        replicas = self.found.document.replicas if self.found is not None else ()
        where = ", ".join(f"{one.id} on {one.server}@{one.incarnation}" for one in replicas)
        return f"{self.ms_id}{self.path}: {doing} ({where or 'no replica'})"


class Hand:
    """What steps are made of."""

    server: str
    maker: Maker | None
    directory: Directory
    records: Records
    writes: Writes
    events: EventLog
    commands: Commands
    chains: Chains
    _patience: Patience
    _joined: Patience
    _random: random_module.Random

    def choose(self, ms_id: str, record: MicroserviceRecord, demand: Demand | None = None) -> Choice:
        """Choose a server for a replica of ``ms_id``; raises ``NoEligibleServer``."""
        return choose(demand or self.demand(ms_id, record), self.directory.candidates())

    async def choose_surely(self, ms_id: str, record: MicroserviceRecord, demand: Demand | None = None) -> Choice:
        """As ``choose``, but refuse only after having looked in etcd for servers that this one has not heard of.

        Raises:
            NoEligibleServer: no server may have it. CoordinationUnavailable: none that is known may, and etcd does not answer.
        """
        try:
            return self.choose(ms_id, record, demand)
        except NoEligibleServer:
            if not await self.directory.hear_of_servers():
                raise
        return self.choose(ms_id, record, demand)

    def demand(
        self,
        ms_id: str,
        record: MicroserviceRecord,
        document: GroupDocument | None = None,
        avoid: dict[str, str] | None = None,
        prefer: str = "",
        path: str = ROOT,
    ) -> Demand:
        """Return what a replica of ``ms_id`` needs of a server."""
        return Demand(
            key=ms_id if path == ROOT else ms_id + path,
            placement=record.spec.placement,
            needs_store=self.chains.needs_store(record.spec),
            store_id=document.store_id if document is not None else "",
            refused={**(document.ineligible if document is not None else {}), **(avoid or {})},
            excluded={
                one.server: "it has another replica of the group"
                for one in (machine.everywhere(document) if document is not None and document.kind else ())
            },
            neighbours=tuple(
                server.record.labels
                for one in (document.replicas if document is not None and document.kind else ())
                if (server := self.directory.server(one.server)) is not None
            ),
            prefer=prefer,
            regions=document.regions if document is not None else (),
            preferred_region=document.preferred_region if document is not None else "",
            devices="first" if document is not None and document.devices else "",
            format=format_of(document if document is not None else self._sketch(record)),
        )

    def devices(
        self, ms_id: str, record: MicroserviceRecord | None, document: GroupDocument, path: str, avoid: dict[str, str]
    ) -> dict[str, bool]:
        """Return the live devices, and of each whether it may have one more replica of a group; none if it needs no device."""
        if not document.devices:
            return {}
        if record is None:
            return self.directory.devices()
        demand = self.demand(ms_id, record, document, avoid, path=path)
        return {one.name: not why_not(demand, one) for one in self.directory.candidates() if one.device}

    def _sketch(self, record: MicroserviceRecord) -> GroupDocument:
        """Return a document with the fields that tell which releases can act on the group, before it has one."""
        levels = self.chains.levels(record.spec)
        return GroupDocument(kind=levels[0].kind if levels else "", generation=record.generation)

    @staticmethod
    def with_store(document: GroupDocument, store_id: str) -> GroupDocument:
        """Return ``document`` with the checkpoint store of its first server, unless it has one."""
        return msgspec.structs.replace(document, store_id=document.store_id or store_id)

    def replica_at(self, server: Candidate, epoch: int, source: machine.Source) -> ReplicaDocument:
        """Return a new replica at ``server``, with an id of its own."""
        return ReplicaDocument(
            id=f"{epoch}-{self._random.getrandbits(32):08x}",
            server=server.name,
            incarnation=server.incarnation,
            source=source,
        )

    def generation(self, ms_id: str) -> int:
        """Return which of its specs is in force, as far as this server has heard."""
        root = self.directory.group(ms_id)
        return root.document.generation if root is not None else 0

    def fence(self, ms_id: str, found: Found) -> Fence:
        """Return the proof that goes with a command decided on ``found``."""
        return Fence(slot_of(ms_id), self.writes.leader_revision(ms_id), found.revision)

    def _pruned(self, base: GroupDocument) -> GroupDocument:
        """Forget reasons of incarnations that are gone: the next one may be able to load the class."""
        live = {incarnation_key(name, incarnation) for name, incarnation in self.directory.live.items()}
        kept = {server: reason for server, reason in base.ineligible.items() if server in live}
        return msgspec.structs.replace(base, ineligible=kept)

    async def _rewrite(self, work: Work, found: Found, document: GroupDocument) -> str | None:
        work.found = await self.writes.replace(work.ms_id, work.path, found, document)
        return None

    def _young(self, document: GroupDocument) -> frozenset[str]:
        """Return which in-sync replicas have joined just now, where a primary may be handed back to one of them."""
        if not document.preferred_region:
            return frozenset()
        for replica in document.in_sync:
            self._joined.begin(replica)
        return frozenset(replica for replica in document.in_sync if not self._joined.is_over(replica))

    def _goes_elsewhere(self, work: Work, document: GroupDocument, replica: ReplicaDocument, why: NotExecuted) -> bool:
        """Return whether another server is to make a replica, because its own has not begun with it for long."""
        assert work.record is not None, "the machine deletes what has no record"
        if not self._patience.is_over(replica.id):
            return False
        work.avoid[incarnation_key(replica.server, replica.incarnation)] = str(why)
        try:
            self.choose(
                work.ms_id, work.record, self.demand(work.ms_id, work.record, document, work.avoid, path=work.path)
            )
        except NoEligibleServer:
            return False
        self._patience.end(replica.id)
        return True

    async def _after_doubt(self, work: Work, why: str) -> str | None:
        """A command's outcome is not known: look again; if nothing changed, wait."""
        before = work.found
        work.found = await self.writes.read(work.ms_id, work.path)
        if work.found is None or before is None or work.found.revision != before.revision:
            return None
        document = work.found.document
        if not all(self.directory.lives(one.server, one.incarnation) for one in document.replicas):
            return None
        return why

    async def retire(self, ms_id: str, path: str, found: Found, replica: ReplicaDocument, *, destroy: bool) -> str:
        """Tell a replica's server to drop it; returns why that cannot be taken for done, empty if it can."""
        request = RetireRequest(ms_id, path, replica.id, self.fence(ms_id, found), destroy)
        try:
            async with self.commands.to(ms_id, replica, RETIRE_TIMEOUT_S) as kernel:
                await kernel.retire(request)
        except (AminoError, TimeoutError) as error:
            if not self.directory.lives(replica.server, replica.incarnation):
                return ""
            return f"{replica.server} did not drop replica {replica.id}: {error or 'no answer'}"
        return ""

    async def _retire(self, work: Work, found: Found, step: machine.Retire) -> str | None:
        """Have servers drop replicas that the group goes on without."""
        for replica in step.replicas:
            problem = await self.retire(work.ms_id, work.path, found, replica, destroy=False)
            if problem:
                return problem
        work.found = await self.writes.replace(work.ms_id, work.path, found, step.document)
        return None

    async def _add(self, work: Work, found: Found, step: machine.Add) -> str | None:
        """Give a replicated group one more replica, on a server that has none of it."""
        assert work.record is not None, "the machine deletes what has no record"
        why, base = step.why, self._pruned(found.document)
        demand = self.demand(work.ms_id, work.record, base, work.avoid, path=work.path)
        if step.region:
            demand = dataclasses.replace(demand, regions=(step.region,))
        if step.device:
            demand = dataclasses.replace(demand, devices="only")
        try:
            choice = self.choose(work.ms_id, work.record, demand)
        except NoEligibleServer as error:
            work.avoid.clear()
            if step.otherwise is not None:
                return await self._retire(work, found, step.otherwise)
            return f"{why}; {error}"
        replica = self.replica_at(choice.server, base.epoch, "join")
        if step.instead_of:
            document = replica_machine.moving(base, step.instead_of, replica, choice.explanation)
        else:
            document = replica_machine.added(base, replica, choice.explanation)
        with self.directory.reserve(replica.server):
            work.found = await self.writes.replace(work.ms_id, work.path, found, document, placing=replica)
        self.events.add("replica-added", work.ms_id, replica.server, why)
        return None
