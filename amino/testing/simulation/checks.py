"""What must be true at every instant, and once a cluster has come to rest: the invariants of ``docs/invariants.md``.

Owns comparing what servers and clients do with the truth in etcd, as it happens. Leaves causing trouble to ``faults``.
Invariants: checks read the truth only (etcd's state, published deadlines), never what the code under test believes.
Failure behaviour: a broken invariant is a ``Finding``; checks go on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from amino.checkpoint import names
from amino.contracts.calls import decode_call_head
from amino.contracts.documents import GroupDocument, Manifest, Phase, decode
from amino.coordination.store import Event, EventKind
from amino.dm.replication.fresh import ANYWHERE
from amino.ids import ROOT, SLOT_COUNT, slot_of
from amino.marks import READONLY
from amino.oms.group_machine import REPLICATED
from amino.testing.documents import Rules

if TYPE_CHECKING:
    from amino.coordination.keys import OwnedKey
    from amino.rpc.port import Inbound
    from amino.testing.simulation.cluster import SimulatedCluster
    from amino.testing.simulation.kernel import Kernel

FINDINGS_MAX = 20


@dataclass(frozen=True, slots=True)
class Finding:
    """A broken invariant: its number, when, and what was seen."""

    invariant: int
    at_s: float
    text: str

    def __str__(self) -> str:
        return f"invariant {self.invariant} at {self.at_s:.3f} s: {self.text}"


class Watchtower:
    """Watches a cluster from outside.

    Attributes:
        findings: what was broken, at most ``FINDINGS_MAX``.
        replies: how many replies to calls have left servers. trace: digest of everything seen, equal for equal histories.
    """

    def __init__(self, cluster: SimulatedCluster) -> None:
        self.findings: list[Finding] = []
        self.replies = 0
        self._cluster = cluster
        self._trace = hashlib.blake2b(digest_size=16)
        self._rules = Rules(self._is_alive)
        self._answers: dict[str, tuple[int, str, int]] = {}
        self._primaries: dict[tuple[str, int], tuple[str, int]] = {}
        self._deleted_at: dict[str, float] = {}
        cluster.etcd.on_commit.append(self._committed)
        cluster.on_reply.append(self._replied)

    @property
    def trace(self) -> str:
        """Digest of the history so far."""
        return self._trace.hexdigest()

    def find(self, invariant: int, text: str) -> None:
        """Note a broken invariant."""
        if len(self.findings) < FINDINGS_MAX:
            self.findings.append(Finding(invariant, self._cluster.loop.now, text))

    def record(self, text: str) -> None:
        """Make ``text`` part of the history."""
        self._trace.update(f"{self._cluster.loop.now!r} {text}\n".encode())

    def _committed(self, revision: int, events: tuple[Event, ...]) -> None:
        keys = self._cluster.keys
        for event in events:
            key = event.record.key
            self.record(f"{revision} {event.kind.value} {key}")
            if key.startswith(keys.groups_prefix):
                self._group(key, event)
            elif key.startswith(keys.checkpoints_prefix):
                self._manifest(key, event)

    def _group(self, key: str, event: Event) -> None:
        if event.kind is EventKind.DELETE:
            self._find_all(self._rules.group(key, None))
            self._deleted_at[self._cluster.keys.parse_group(key).id] = self._cluster.clock.wall()
            return
        document = decode(event.record.value, GroupDocument, key)
        if document.kind == REPLICATED:
            for one in document.replicas:
                if one.id == document.primary:
                    self._primaries[key, document.epoch] = (one.server, one.incarnation)
        self._find_all(self._rules.group(key, document))

    def _manifest(self, key: str, event: Event) -> None:
        deleted = event.kind is EventKind.DELETE
        self._find_all(self._rules.manifest(key, None if deleted else decode(event.record.value, Manifest, key)))

    def _find_all(self, broken: Iterable[tuple[int, str]]) -> None:
        for invariant, text in broken:
            self.find(invariant, text)

    def _is_alive(self, server: str, incarnation: int) -> bool:
        record = self._cluster.etcd.get(self._cluster.keys.server(server))
        return record is not None and record.create_revision == incarnation

    def _replied(self, kernel: Kernel, inbound: Inbound) -> None:
        self.replies += 1
        head = decode_call_head(inbound.head)
        who = f"{kernel.name}@{kernel.incarnation}"
        self.record(f"reply {who} {head.microservice} {head.method} {head.epoch}")
        server = self._cluster.etcd.get(self._cluster.keys.server(kernel.name))
        if not kernel.valid:
            self.find(8, f"{who} answered {head.method} of {head.microservice} while its session was not valid")
        elif server is None or server.create_revision != kernel.incarnation:
            self.find(8, f"{who} answered {head.method} of {head.microservice} without holding its key")
        key = self._cluster.keys.group(slot_of(head.microservice), head.microservice, head.path)
        document = self._rules.documents.get(key)
        if document is None:
            self.find(6, f"{who} answered for {head.microservice}, which does not exist")
            return
        if document.methods.get(head.method, 0) & READONLY and head.headers and head.headers.get(ANYWHERE):
            return  # any replica may answer; how old the answer is, the load judges
        if self._is_late(key, head.method, head.epoch, document, kernel):
            return
        here = [r for r in document.replicas if (r.server, r.incarnation) == (kernel.name, kernel.incarnation)]
        resumed = bool(here) and here[0].source == "resume"  # after a move given up: the same replica, at a later epoch
        answered = (head.epoch, kernel.name, kernel.incarnation)
        last = self._answers.get(key)
        if (
            last is not None
            and head.epoch <= last[0]
            and answered != last
            and not (resumed and answered[1:] == last[1:])
        ):
            self.find(1, f"{who} answered for {head.microservice} at epoch {head.epoch} after {last}")
        self._answers[key] = answered
        if not here:
            self.find(1, f"{who} answered for {head.microservice} at epoch {head.epoch}; it is at {document.replicas}")
        elif not here[0].confirmed and not resumed:
            self.find(1, f"{who} answered for {head.microservice} before its placement was confirmed: {here[0]}")
        elif head.epoch < document.epoch and here[0].confirmed and not resumed:
            self.find(2, f"{who} answered for {head.microservice} at epoch {head.epoch}, it is {document.epoch} now")

    def _is_late(self, key: str, method: str, epoch: int, document: GroupDocument, kernel: Kernel) -> bool:
        """Return whether this is answered by a primary of an earlier epoch, and as good as an early reply that was held up.

        A write was committed while its server had the primary of that epoch, so every in-sync replica had it, and the primaries
        of later epochs have it too. A read is not old before one of those has answered: they wait until its lease has run out.
        """
        me = (kernel.name, kernel.incarnation)
        if document.kind != REPLICATED or self._primaries.get((key, epoch)) != me or epoch >= document.epoch:
            return False
        if not document.methods.get(method, 0) & READONLY or self._primaries.get((key, document.epoch)) == me:
            return True
        return self._answers.get(key, (0,))[0] <= epoch

    # --- at rest ----------------------------------------------------------------------------------------------------

    def differences(self) -> list[str]:
        """Return what in records and reality does not fit together now (invariant 6); empty when all is well."""
        cluster = self._cluster
        keys, etcd = cluster.keys, cluster.etcd
        kernels = {name: host.kernel for name, host in cluster.hosts().items()}
        found = self._unsettled(kernels)
        records = {keys.parse_microservice(r.key).id for r in etcd.list(keys.microservices_prefix)[0]}
        groups = {keys.parse_group(r.key): r for r in etcd.list(keys.groups_prefix)[0]}
        roots = {owned.id for owned in groups if owned.path == ROOT}
        if records != roots:
            found.append(f"records {sorted(records)} and groups {sorted(roots)} differ")
        listed: set[tuple[str, str, str]] = set()
        for owned, record in groups.items():
            found += self._misplaced(owned, decode(record.value, GroupDocument, record.key), kernels, listed)
        found += [
            f"{target!r} on {name} is in no document"
            for name, kernel in kernels.items()
            if kernel is not None and kernel.server is not None
            for target in kernel.server.host._objects.values()  # noqa: SLF001 - the truth, not what a service says
            if (name, target.microservice, target.replica) not in listed
        ]
        return found + self._rubbish(records)

    def _unsettled(self, kernels: dict[str, Kernel | None]) -> list[str]:
        cluster = self._cluster
        keys, etcd = cluster.keys, cluster.etcd
        found: list[str] = []
        live = {keys.parse_server(record.key): record.create_revision for record in etcd.list(keys.servers_prefix)[0]}
        for name, kernel in kernels.items():
            if kernel is None or not kernel.serves or live.get(name) != kernel.incarnation or not kernel.valid:
                found.append(f"{name} does not serve: {kernel!r}, registered {live.get(name)}")
        found += [f"{name} is registered, and off" for name in live if name not in kernels]
        if len(etcd.leases) != len(live):
            found.append(f"{len(etcd.leases)} leases of {len(live)} servers")
        slots = etcd.list(keys.slots_prefix)[0]
        if len(slots) != SLOT_COUNT:
            found.append(f"{SLOT_COUNT - len(slots)} slots have no leader")
        return found

    @staticmethod
    def _misplaced(
        owned: OwnedKey, document: GroupDocument, kernels: dict[str, Kernel | None], listed: set[tuple[str, str, str]]
    ) -> list[str]:
        ms_id = owned.id
        found: list[str] = []
        if (
            document.kind == REPLICATED
            and document.phase == Phase.ACTIVE
            and set(document.in_sync) != {one.id for one in document.replicas}
        ):
            found.append(f"{ms_id} has replicas that are not in sync: {document}")
        if document.leftovers or document.move is not None or document.phase in (Phase.CREATING, Phase.DELETING):
            found.append(f"{ms_id} is unfinished: {document}")
        for replica in document.replicas:
            listed.add((replica.server, ms_id, replica.id))
            kernel = kernels.get(replica.server)
            target = kernel.server.host.find(ms_id, owned.path) if kernel is not None and kernel.server else None
            if target is None or target.replica != replica.id or target.epoch != document.epoch:
                found.append(f"{ms_id} is at {replica}, epoch {document.epoch}, but there is {target!r}")
            elif not replica.confirmed or target.state != "serving":
                found.append(f"{ms_id} does not serve: {target!r}")
        return found

    def _rubbish(self, records: set[str]) -> list[str]:
        cluster = self._cluster
        keys, etcd = cluster.keys, cluster.etcd
        found = [
            f"name {record.key} of {record.value!r}, which does not exist"
            for record in etcd.list(keys.names_prefix)[0]
            if record.value.decode() not in records
        ]
        found += [
            f"manifest {record.key} of nothing"
            for record in etcd.list(keys.checkpoints_prefix)[0]
            if keys.parse_manifest(record.key)[0] not in records
        ]
        found += [f"tombstone {record.key}" for record in etcd.list(keys.tombstones_prefix)[0]]
        return found + [f"file {key} of nothing" for key in self.orphan_files(records)]

    def orphan_files(self, records: set[str]) -> list[str]:
        """Return the files of microservices that do not exist, but for those that a dying server wrote after the deletion.

        Those nothing can prevent: a process that dies between storing a file and finding that it may not publish it leaves
        it to the collector, which takes it after its horizon.
        """
        return [
            file.key
            for file in self._cluster.checkpoints.list(names.CHECKPOINTS)
            if (ms_id := names.microservice_of(file.key)) not in records
            and not file.modified_at > self._deleted_at.get(ms_id, float("inf"))
        ]
