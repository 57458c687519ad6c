"""What must be true at every instant, and once a cluster has come to rest: the invariants of ``docs/invariants.md``.

Owns comparing what servers and clients do with the truth in etcd, as it happens. Leaves causing trouble to ``faults``.
Invariants: checks read the truth only (etcd's state, published deadlines), never what the code under test believes.
Failure behaviour: a broken invariant is a ``Finding``; checks go on.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from amino.checkpoint import names
from amino.contracts.calls import decode_call_head
from amino.contracts.documents import GroupDocument, Manifest, Phase, decode
from amino.coordination.store import Event, EventKind
from amino.ids import ROOT, SLOT_COUNT, slot_of

if TYPE_CHECKING:
    from amino.rpc.port import Inbound
    from amino.testing.simulation.cluster import SimulatedCluster
    from amino.testing.simulation.server import Kernel

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
        self._documents: dict[str, GroupDocument] = {}
        self._epochs: dict[str, int] = {}
        self._checkpointed: dict[str, int] = {}
        self._answers: dict[str, tuple[int, str, int]] = {}
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
            self._documents.pop(key, None)
            self._epochs.pop(key, None)
            self._deleted_at[self._cluster.keys.parse_group(key).id] = self._cluster.clock.wall()
            return
        document = decode(event.record.value, GroupDocument, key)
        before = self._documents.get(key)
        if document.epoch < self._epochs.get(key, 0):
            self.find(2, f"epoch of {key} went from {self._epochs[key]} to {document.epoch}")
        self._epochs[key] = document.epoch
        if before is not None:
            if before.phase == Phase.DELETING != document.phase:
                self.find(6, f"the deletion of {key} was taken back: {before} became {document}")
            self._taken_from_the_living(key, before, document)
        self._documents[key] = document

    def _taken_from_the_living(self, key: str, before: GroupDocument, document: GroupDocument) -> None:
        """Only a move, a deletion or the server's own word takes a confirmed replica from a server that lives."""
        kept = {replica.id for replica in (*document.replicas, *document.leftovers)}
        for replica in before.replicas:
            if replica.confirmed and replica.id not in kept:
                server = self._cluster.etcd.get(self._cluster.keys.server(replica.server))
                if server is not None and server.create_revision == replica.incarnation:
                    self.find(1, f"{replica} of {key} was given up although its server lives")

    def _manifest(self, key: str, event: Event) -> None:
        if event.kind is EventKind.DELETE:
            self._checkpointed.pop(key, None)
            return
        epochs = [entry.epoch for entry in decode(event.record.value, Manifest, key).entries]
        newest = max(epochs, default=0)
        if newest < self._checkpointed.get(key, 0) or epochs != sorted(epochs, reverse=True):
            self.find(2, f"manifest {key} went back from epoch {self._checkpointed.get(key, 0)} to {epochs}")
        self._checkpointed[key] = newest

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
        document = self._documents.get(key)
        if document is None:
            self.find(6, f"{who} answered for {head.microservice}, which does not exist")
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

    # --- at rest ----------------------------------------------------------------------------------------------------

    def differences(self) -> list[str]:
        """Return what in records and reality does not fit together now (invariant 6); empty when all is well."""
        cluster = self._cluster
        keys, etcd = cluster.keys, cluster.etcd
        kernels = {name: server.kernel for name, server in cluster.servers.items()}
        found = self._unsettled(kernels)
        records = {keys.parse_microservice(r.key).id for r in etcd.list(keys.microservices_prefix)[0]}
        groups = {keys.parse_group(r.key).id: r for r in etcd.list(keys.groups_prefix)[0]}
        if records != set(groups):
            found.append(f"records {sorted(records)} and groups {sorted(groups)} differ")
        listed: set[tuple[str, str, str]] = set()
        for ms_id, record in groups.items():
            found += self._misplaced(ms_id, decode(record.value, GroupDocument, record.key), kernels, listed)
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
        if len(etcd.leases) != len(live):
            found.append(f"{len(etcd.leases)} leases of {len(live)} servers")
        slots = etcd.list(keys.slots_prefix)[0]
        if len(slots) != SLOT_COUNT:
            found.append(f"{SLOT_COUNT - len(slots)} slots have no leader")
        return found

    @staticmethod
    def _misplaced(
        ms_id: str, document: GroupDocument, kernels: dict[str, Kernel | None], listed: set[tuple[str, str, str]]
    ) -> list[str]:
        found: list[str] = []
        if document.leftovers or document.move is not None or document.phase in (Phase.CREATING, Phase.DELETING):
            found.append(f"{ms_id} is unfinished: {document}")
        for replica in document.replicas:
            listed.add((replica.server, ms_id, replica.id))
            kernel = kernels.get(replica.server)
            target = kernel.server.host.find(ms_id, ROOT) if kernel is not None and kernel.server else None
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
