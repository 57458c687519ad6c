"""The records kept in etcd, and the spec they carry.

Owns their shape, and since which format version their fields exist. Leaves how they are stored to ``contracts.formats``, keys
to ``coordination.keys`` and meaning to the OMS.
Invariants: a document decodes to what was encoded; fields of a later release that one may ignore survive a rewrite here.
Failure behaviour: a document of a later format version or of another shape raises ``Invalid``; it is never half read.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from amino.contracts.formats import FORMAT, REST, Formats

FORMAT_READ = 2
"""The latest format version of documents that this release acts on; servers say theirs in ``ServerRecord.format_read``."""


class DmSpec(msgspec.Struct, frozen=True, omit_defaults=True):
    """One deployment manager of a chain: its name and the options that differ from the defaults."""

    name: str
    options: dict[str, Any] = {}


class Requirement(msgspec.Struct, frozen=True, omit_defaults=True):
    """A condition on one label of a server. ``Exists`` takes no values; ``Equal`` exactly one."""

    key: str
    operator: Literal["Equal", "In", "NotIn", "Exists"] = "Exists"
    values: tuple[str, ...] = ()


class Placement(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where a microservice may run.

    Args:
        selector: terms, one of which must hold; a term is a list of requirements, all of which must hold. Empty: anywhere.
        spread: labels over whose values replicas are spread, most important first.
    """

    selector: tuple[tuple[Requirement, ...], ...] = ()
    spread: tuple[str, ...] = ("host",)


class MicroserviceSpec(msgspec.Struct, frozen=True, omit_defaults=True, rename={"cls": "class"}):
    """How a microservice is made and deployed; the same content as the Python object and the YAML document.

    Args:
        cls: ``module:QualifiedName`` of the class.
        code: sha256 of the bundle that holds the class; empty if the class is imported by path.
        name: unique in the cluster; empty for none.
        dms: the chain of deployment managers, outermost first.
        on_loss: ``fail`` (calls raise ``StateLost``) or ``recreate`` (run the constructor again).
        application: the application it belongs to, empty for none.
    """

    cls: str
    code: str = ""
    name: str = ""
    dms: tuple[DmSpec, ...] = ()
    placement: Placement = Placement()
    on_loss: Literal["fail", "recreate"] = "fail"
    labels: dict[str, str] = {}
    application: str = ""


class MicroserviceRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """``microservices/<slot>/<ms-id>``: what it takes to make the microservice again.

    Args:
        arguments: encoded constructor arguments (``amino.wire.codec``, codec number first).
        arguments_url: where they are when larger than 64 KiB; then ``arguments`` is empty.
        digest: of class, spec and arguments as created; a retried creation must match it.
        created_at: wall clock, for display.
        generation: +1 at each change of the spec; the root group's document says which one is in force.
    """

    spec: MicroserviceSpec
    arguments: bytes = b""
    arguments_url: str = ""
    digest: str = ""
    created_at: float = 0.0
    generation: int = 0
    rest: bytes = msgspec.field(default=b"", name=REST)
    format: int = FORMAT


class Phase:
    """The phases of a group, as stored."""

    CREATING = "creating"
    ACTIVE = "active"
    LOST = "lost"
    QUARANTINED = "quarantined"
    DELETING = "deleting"


class ReplicaDocument(msgspec.Struct, frozen=True, omit_defaults=True):
    """One replica and where it runs.

    Args:
        confirmed: its server has proved by a transaction that it may answer.
        source: how it comes to be, for whoever continues after a dead leader: ``construct``, ``checkpoint``, ``resume`` or
            ``join`` (empty, for the primary to fill).
        doubted: it was replaced as primary though nobody could tell whether the others still were there; it stays in sync
            until the new primary leaves it out, and goes then.
    """

    id: str
    server: str
    incarnation: int
    confirmed: bool = False
    source: Literal["construct", "checkpoint", "resume", "join"] = "construct"
    doubted: bool = False
    rest: bytes = msgspec.field(default=b"", name=REST)


class Move(msgspec.Struct, frozen=True, omit_defaults=True):
    """The intent to move replica ``source`` to another server, as replica ``target``; written before any command."""

    source: str
    target: ReplicaDocument
    why: str = ""
    rest: bytes = msgspec.field(default=b"", name=REST)


class GroupDocument(msgspec.Struct, frozen=True, omit_defaults=True):
    """``groups/<slot>/<ms-id>/<path>``: the single source of where a group's replicas are.

    Args:
        phase: see ``Phase``.
        epoch: fencing token; +1 at each placement or change of primary, never less.
        version: counts other edits.
        replicas: those that exist or are being made.
        primary: id of the replica that orders operations, empty where there is no order.
        in_sync: ids of the in-sync set.
        move: intent of a migration under way.
        leftovers: replicas that are not of the group any more and whose servers may still hold them.
        constructed: the constructor has run and its effect was acknowledged: it must never run again silently.
        ineligible: ``server@incarnation`` that could not load the class or a manager, with the reason.
        store_id: the checkpoint store its checkpoints are in; only servers that share it may have a replica.
        deaths: method -> how many processes in a row died while running it (``__restore__``, ``__init__`` too).
        explanation: why the replicas are where they are, one line per replica id.
        coordinator: documents of DM coordinators, by manager name and chain position (``PeriodicCheckpoint@1``).
        methods: the class's public methods with their flags, known once it has been constructed.
        reason: why it is lost or quarantined, with the remedy left to the error; empty otherwise.
        trace: W3C context of the failover under way, empty otherwise.
        kind: ``""`` (one replica), ``replicated`` (alike replicas, one of them primary) or ``shards`` (its members are the
            groups named in ``children``).
        wanted: how many replicas or shards there should be.
        min_in_sync: of a replicated group: the in-sync set is never made smaller by its primary.
        regions: where its replicas should be, one each where possible; empty for anywhere.
        preferred_region: where its primary should be; empty for anywhere.
        devices: whether its replicas belong on devices; servers only stand in.
        children: names of the groups below, in order; ``/`` and a name make the path of a shard of the root.
        generation: of the record that holds the spec in force.
        changing: intent of a change of managers under way: the replica that has the state is being built again.
        report: what the primary asks of the slot leader: ``EPOCH stuck: why`` or ``EPOCH short: why``; empty if nothing.
    """

    phase: str = Phase.CREATING
    epoch: int = 1
    version: int = 0
    replicas: tuple[ReplicaDocument, ...] = ()
    primary: str = ""
    in_sync: tuple[str, ...] = ()
    move: Move | None = None
    leftovers: tuple[ReplicaDocument, ...] = ()
    constructed: bool = False
    ineligible: dict[str, str] = {}
    store_id: str = ""
    deaths: dict[str, int] = {}
    explanation: dict[str, str] = {}
    coordinator: dict[str, bytes] = {}
    methods: dict[str, int] = {}
    reason: str = ""
    trace: str = ""
    kind: str = ""
    wanted: int = 1
    min_in_sync: int = 1
    regions: tuple[str, ...] = ()
    preferred_region: str = ""
    devices: bool = False
    children: tuple[str, ...] = ()
    report: str = ""
    generation: int = 0
    changing: bool = False
    rest: bytes = msgspec.field(default=b"", name=REST)
    format: int = FORMAT


class ServerRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """``servers/<name>``: a live kernel server. Its incarnation is the key's create revision.

    Args:
        address: ``host:port`` of the peer link.
        grpc_address: ``host:port`` of gRPC, empty if off.
        labels: at least ``host``; ``region`` where given.
        capacity: most replicas it accepts, 0 for no bound.
        device: embedded in a client; never leads a slot, gets no replicas unless asked for.
        supervisor_pid: for operators; 0 if none.
        store_id: identity of the checkpoint store it sees; equal for servers that share one.
        format_read: the latest format version of documents that its release acts on.
    """

    name: str
    address: str
    grpc_address: str = ""
    labels: dict[str, str] = {}
    capacity: int = 0
    device: bool = False
    pid: int = 0
    supervisor_pid: int = 0
    store_id: str = ""
    version: str = ""
    started_at: float = 0.0
    format_read: int = 1
    format: int = FORMAT


class Tombstone(msgspec.Struct, frozen=True, omit_defaults=True):
    """``tombstones/<name>/<incarnation>``: proven dead.

    Args:
        cause: how it ended (``exit 1``, ``signal 9``, ``hung``, ``lease lost``, ``supervisor died``).
        suspects: (microservice id, method) pairs that were running when the process died.
        detected_at: wall clock, for display and traces.
    """

    cause: str = ""
    suspects: tuple[tuple[str, str], ...] = ()
    detected_at: float = 0.0
    format: int = FORMAT


class ClusterDocument(msgspec.Struct, frozen=True, omit_defaults=True):
    """``cluster``: what holds for all servers.

    Args:
        counts_from: added to revisions that are told to clients and kept in states, so that those of an etcd which was lost,
            and replaced, are all lower: microseconds since 1970 when this etcd was first used. 0: of an earlier release.
    """

    paused: bool = False
    cordoned: dict[str, str] = {}
    hash_seed: int = 0
    allow_bundles: bool = True
    counts_from: int = 0
    rest: bytes = msgspec.field(default=b"", name=REST)
    format: int = FORMAT


class Manifest(msgspec.Struct, frozen=True, omit_defaults=True):
    """``checkpoints/<ms-id>/<path>``: which checkpoints exist, newest first."""

    entries: tuple[CheckpointEntry, ...] = ()
    rest: bytes = msgspec.field(default=b"", name=REST)
    format: int = FORMAT


class CheckpointEntry(msgspec.Struct, frozen=True, omit_defaults=True):
    """One intact checkpoint: ordered by (epoch, sequence).

    Args:
        log: a log of what ran after it stands beside it (``checkpoint.operation_log``).
        log_size: bytes of that log that count, known once the next checkpoint is there; -1 while it may grow.
    """

    epoch: int
    sequence: int
    url: str
    sha256: str
    size: int
    taken_at: float = 0.0
    log: bool = False
    log_size: int = -1
    rest: bytes = msgspec.field(default=b"", name=REST)


class ApplicationRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """``applications/<name>``: the entry microservice of an application, made once on first use."""

    name: str
    entry: MicroserviceSpec
    arguments: bytes = b""
    format: int = FORMAT


class EventRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """``events/<seq>``: one line of the bounded history, for people. ``at``: wall clock."""

    kind: str
    at: float
    microservice: str = ""
    server: str = ""
    text: str = ""
    format: int = FORMAT


class CodeRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """``code/<sha256>``: a bundle; small ones inline, and all in the checkpoint store, if there is one."""

    kind: Literal["pickle", "zip"] = "pickle"
    inline: bytes = b""
    url: str = ""
    size: int = 0
    uploaded_at: float = 0.0
    format: int = FORMAT


SINCE: dict[type[msgspec.Struct], dict[str, int]] = {
    MicroserviceRecord: dict.fromkeys(("generation",), 2),
    GroupDocument: dict.fromkeys(
        (
            "kind",
            "wanted",
            "min_in_sync",
            "regions",
            "preferred_region",
            "children",
            "report",
            "generation",
            "changing",
            "devices",
        ),
        2,
    ),
}
"""Fields that an earlier release must not overlook -> the format version that they came with."""

_formats = Formats(FORMAT_READ, SINCE)
encode = _formats.encode
decode = _formats.decode
format_of = _formats.needed
