"""Messages and Protocol of the Kernel service: what slot leaders and other servers ask of a kernel server.

Owns the shape of every command and its answer. Leaves transport to ``rpc`` and behaviour to ``kernel``; ``services``
re-exports all of it beside the Registry.
Invariants: every command carries the fence of the slot leader that sends it; servers refuse older ones.
Failure behaviour: services raise ``AminoError``s; transports carry them by code.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from amino.contracts.documents import GroupDocument, MicroserviceRecord


class Empty(msgspec.Struct, frozen=True):
    """Nothing."""


class Fence(msgspec.Struct, frozen=True):
    """Proof of who commands: the slot, the create revision of its leader's key, the document's mod revision."""

    slot: int
    leader_revision: int
    document_revision: int


class InstantiateRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """Make replica ``replica`` serve at ``document.epoch``. Idempotent: a replica that already serves just says so.

    Args:
        source: ``construct`` (run the constructor), ``checkpoint`` (restore the newest intact one; if there never was one
            and nothing was acknowledged, construct), ``resume`` (unseal what is here), ``join`` (empty: the group's primary
            sends the state).
        suspects: methods whose completion clears the microservice's record of deaths.
    """

    microservice: str
    path: str
    replica: str
    record: MicroserviceRecord
    document: GroupDocument
    fence: Fence
    source: str = "construct"
    suspects: tuple[str, ...] = ()


class InstantiateReply(msgspec.Struct, frozen=True, omit_defaults=True):
    """The replica serves; ``document_revision`` is that of the confirmed document."""

    document_revision: int
    methods: dict[str, int] = {}


class TransferRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """To the source: seal replica ``document.move.source``, ship it to the target, then drop it.

    Args:
        target_address: peer link of the target's server.
        quiesce_timeout_s: how long to wait for running calls before giving up.
    """

    microservice: str
    path: str
    record: MicroserviceRecord
    document: GroupDocument
    fence: Fence
    target_address: str
    quiesce_timeout_s: float = 1.0


class TransferReply(msgspec.Struct, frozen=True, omit_defaults=True):
    """The target serves and the source is gone."""

    document_revision: int
    stalled_s: float = 0.0


class AdoptRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """From source to target: become replica ``document.move.target`` with this state.

    The target switches the placement itself, by one transaction guarded with the leader's fence and its own session.
    The snapshot travels beside this message, as the frame's segments.
    """

    microservice: str
    path: str
    record: MicroserviceRecord
    document: GroupDocument
    fence: Fence


class DocumentWrite(msgspec.Struct, frozen=True, omit_defaults=True):
    """Group ``path``'s document is to be ``document`` (None: gone), if it is at ``revision`` now (0: if there is none)."""

    path: str
    revision: int
    document: GroupDocument | None = None


class ConvertRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """Build replica ``replica`` again, with the managers (and code) of another spec, and put that on record.

    The server itself switches record and documents, by one transaction guarded with the leader's fence and its own session.

    Args:
        path, to_path: of its group, before and after.
        record: with the new spec. document: of its group as it is, with the intent.
        writes: the documents as they are to be, that at ``to_path`` among them; the server adds the methods.
        forget_checkpoints: the new managers do not go on with the checkpoints that there are.
        quiesce_timeout_s: how long to wait for running calls before giving up.
    """

    microservice: str
    path: str
    to_path: str
    replica: str
    record: MicroserviceRecord
    document: GroupDocument
    writes: tuple[DocumentWrite, ...]
    fence: Fence
    forget_checkpoints: bool = False
    quiesce_timeout_s: float = 1.0

    @property
    def goal(self) -> GroupDocument:
        """The document of the replica's group as it is to be."""
        found = next(one.document for one in self.writes if one.path == self.to_path)
        assert found is not None, "the group that gets the replica has a document"
        return found


class ConvertReply(msgspec.Struct, frozen=True, omit_defaults=True):
    """It serves with its new managers."""

    document_revision: int
    stalled_s: float = 0.0


class RetireRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """Drop a replica. Idempotent. ``destroy``: for good, so that its components remove what they keep elsewhere."""

    microservice: str
    path: str
    replica: str
    fence: Fence
    destroy: bool = False


class NotifyRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """From a component at one replica to the same manager's component at another of the group.

    The payload travels beside this message, as the frame's segment.
    """

    microservice: str
    path: str
    replica: str
    manager: str
    topic: str


class NotifyReply(msgspec.Struct, frozen=True, omit_defaults=True):
    """What that component answered."""

    payload: bytes = b""


class HeartbeatRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """From a server that has primaries to one that has replicas of theirs.

    Args:
        server, incarnation: the sender.
        groups: (microservice, path, epoch) of each primary.
    """

    server: str
    incarnation: int
    groups: tuple[tuple[str, str, int], ...] = ()


class HeartbeatReply(msgspec.Struct, frozen=True, omit_defaults=True):
    """Acknowledges a heartbeat for all its groups but those at the places in ``uncovered``."""

    server: str
    incarnation: int
    uncovered: tuple[int, ...] = ()


class FenceRequest(msgspec.Struct, frozen=True):
    """Stop ``incarnation`` at once if that is you: it has lost its lease."""

    incarnation: int


class KernelStatistics(msgspec.Struct, frozen=True, omit_defaults=True):
    """Figures of one kernel server."""

    server: str
    incarnation: int
    replicas: int = 0
    in_flight: int = 0
    threads: int = 0
    valid_for_s: float = 0.0
    rss_bytes: int = 0
    calls: int = 0


class ReplicaInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """A kernel object as its own server sees it."""

    microservice: str
    path: str
    replica: str
    epoch: int
    state: str
    in_flight: int = 0
    mutations: int = 0


class ReplicaList(msgspec.Struct, frozen=True, omit_defaults=True):
    """All kernel objects of a server."""

    replicas: tuple[ReplicaInfo, ...] = ()


class ObserveRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """Measure calls of the replica of a group that is here, from now on until nobody has asked for ``OBSERVED_S`` seconds."""

    microservice: str
    path: str = "/"


class ObserveReply(msgspec.Struct, frozen=True, omit_defaults=True):
    """How long calls took at one replica, from arriving to their answer's leaving, while it was observed.

    Args:
        replica: which; empty: there is none here.
        since_s: seconds since it is observed. calls: that ended since then.
        p50_ms, p99_ms, max_ms: of the newest ``OBSERVED_MAX`` of them.
    """

    replica: str = ""
    since_s: float = 0.0
    calls: int = 0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    max_ms: float = 0.0
    in_flight: int = 0


class Kernel(Protocol):
    """Commands to one kernel server; for servers only."""

    async def instantiate(self, request: InstantiateRequest) -> InstantiateReply:
        """Make a replica serve.

        Raises:
            CodeUnavailable: class or manager cannot be loaded here; another server may.
            ConstructionFailed: the constructor (or ``on_create``) raised; nothing is left.
            CorruptCheckpoint, StoreFailed: nothing could be restored.
            NotExecuted: the fence is old, or this server's session is not valid (reason ``fenced``).
        """
        ...

    async def transfer(self, request: TransferRequest) -> TransferReply:
        """Move a replica away. On any error the source stays sealed until told to resume (or the target serves)."""
        ...

    async def adopt(self, request: AdoptRequest, snapshot: memoryview) -> InstantiateReply:
        """Become the new home of a migrating replica."""
        ...

    async def convert(self, request: ConvertRequest) -> ConvertReply:
        """Change a replica's managers. On any error the replica stays as it was, sealed until told to resume.

        Raises:
            CodeUnavailable: class or manager cannot be loaded here. NotExecuted: it is too busy, or the fence is old.
            StoreFailed: the new managers' first checkpoint was refused.
        """
        ...

    async def retire(self, request: RetireRequest) -> Empty:
        """Drop a replica."""
        ...

    async def notify(self, request: NotifyRequest, payload: memoryview) -> NotifyReply:
        """Hand a message to a component of a replica here.

        Raises:
            NotExecuted: the replica is not here, or this server's session is not valid.
        """
        ...

    async def heartbeat(self, request: HeartbeatRequest) -> HeartbeatReply:
        """Acknowledge a server's primaries for the groups whose replica here knows no newer epoch."""
        ...

    async def fence(self, request: FenceRequest) -> Empty:
        """Stop at once if this incarnation is meant."""
        ...

    async def statistics(self, request: Empty) -> KernelStatistics:
        """Tell figures."""
        ...

    async def replicas(self, request: Empty) -> ReplicaList:
        """List kernel objects."""
        ...

    async def observe(self, request: ObserveRequest) -> ObserveReply:
        """Tell how long calls of a replica take, measured since somebody began to ask. Idempotent."""
        ...


class KernelCaller(Protocol):
    """How the OMS reaches another server's Kernel; errors arrive as themselves."""

    def at(self, address: str) -> Kernel:
        """Return the Kernel of the server at ``address``."""
        ...
