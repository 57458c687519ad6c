"""Messages and Protocols of the two system services: Registry (the OMS) and Kernel.

Owns the shape of every request to the Registry and of its answer; those of the Kernel are in ``kernel_service`` and
re-exported. Leaves transport to ``rpc`` and behaviour to ``oms`` and ``kernel``.
Invariant: messages only ever gain fields with defaults, so a cluster can be upgraded one server at a time.
Failure behaviour: services raise ``AminoError``s; transports carry them by code.
"""

from __future__ import annotations

from typing import Any, Protocol

import msgspec

from amino.contracts.decisions import BeginDecisionRequest, DecideRequest, Decision, DecisionList, DecisionsRequest
from amino.contracts.documents import (
    GroupDocument,
    MicroserviceRecord,
    MicroserviceSpec,
    Requirement,
)
from amino.contracts.kernel_service import (
    AdoptRequest,
    ConvertReply,
    ConvertRequest,
    DocumentWrite,
    Empty,
    Fence,
    FenceRequest,
    HeartbeatReply,
    HeartbeatRequest,
    InstantiateReply,
    InstantiateRequest,
    Kernel,
    KernelCaller,
    KernelStatistics,
    NotifyReply,
    NotifyRequest,
    ObserveReply,
    ObserveRequest,
    ReplicaInfo,
    ReplicaList,
    RetireRequest,
    TransferReply,
    TransferRequest,
)
from amino.contracts.listings import EventInfo, EventList, EventsRequest, Membership, ServerInfo, SlotInfo, SlotList
from amino.contracts.locks import AcquireLockRequest, HeldLockRequest, LockGrant
from amino.errors import OutcomeUnknown
from amino.ids import ROOT

__all__ = [  # re-exported, beside everything defined here
    "AcquireLockRequest",
    "AdoptRequest",
    "BeginDecisionRequest",
    "ConvertReply",
    "ConvertRequest",
    "DecideRequest",
    "Decision",
    "DecisionList",
    "DecisionsRequest",
    "DocumentWrite",
    "Empty",
    "EventInfo",
    "EventList",
    "EventsRequest",
    "Fence",
    "FenceRequest",
    "HeartbeatReply",
    "HeartbeatRequest",
    "HeldLockRequest",
    "InstantiateReply",
    "InstantiateRequest",
    "Kernel",
    "KernelCaller",
    "KernelStatistics",
    "LockGrant",
    "Membership",
    "NotifyReply",
    "NotifyRequest",
    "ObserveReply",
    "ObserveRequest",
    "ReplicaInfo",
    "ReplicaList",
    "RetireRequest",
    "ServerInfo",
    "SlotInfo",
    "SlotList",
    "TransferReply",
    "TransferRequest",
]

# --- the registry: what any client may ask of any kernel server -----------------------------------------------------


class CreateRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """Create a microservice. Idempotent by ``microservice``: a retry finds what the first try made.

    Args:
        microservice: id chosen by the caller.
        arguments: encoded constructor arguments: one codec byte, then the value (``amino.wire.codec.pack``).
        if_exists: ``fail`` or ``get``, when the name is taken.
    """

    microservice: str
    spec: MicroserviceSpec
    arguments: bytes = b""
    if_exists: str = "fail"
    timeout_s: float = 30.0


class ReplicaLocation(msgspec.Struct, frozen=True, omit_defaults=True):
    """A replica and the server that has it."""

    id: str
    server: str
    incarnation: int
    address: str


class GroupLocation(msgspec.Struct, frozen=True, omit_defaults=True):
    """One group of a microservice, for calls. ``children``: names of the groups below it, its shards."""

    epoch: int
    replicas: tuple[ReplicaLocation, ...] = ()
    primary: str = ""
    children: tuple[str, ...] = ()


class Location(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where a microservice is and how to talk to it.

    Args:
        created: this request (or an earlier try of it) made the microservice.
        restored_from: after ``restore``: ``checkpoint`` or ``construct``.
    """

    microservice: str
    spec: MicroserviceSpec
    groups: dict[str, GroupLocation]
    methods: dict[str, int] = {}
    created: bool = False
    restored_from: str = ""


def home_of(location: Location) -> str:
    """Return the server that a microservice with one replica is on, after a move.

    Raises:
        OutcomeUnknown: it is on none now: where it was moved to has been lost meanwhile.
    """
    replicas = location.groups[ROOT].replicas
    if not replicas:
        raise OutcomeUnknown(
            f"microservice {location.microservice} was moved, and the server it came to is lost already; it is being placed again"
        )
    return replicas[0].server


class LocateRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """Find a microservice by id or name.

    Args:
        stale: group path -> epoch that turned out wrong or unreachable; the answer waits up to ``wait_s`` for a newer one,
            then says what it has.
        stale_incarnation: (server, incarnation) that could not be reached; a change of that server also ends the wait.
    """

    microservice: str = ""
    name: str = ""
    stale: dict[str, int] = {}
    stale_incarnation: tuple[str, int] | None = None
    wait_s: float = 0.0


class DeleteRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """Delete a microservice by id or name. Deleting what does not exist raises ``NotFound``."""

    microservice: str = ""
    name: str = ""
    timeout_s: float = 30.0


class MoveRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """Move a replica of the group at ``path`` to ``server`` (empty: anywhere else that fits).

    ``replica``: which; empty for the only one, or the primary. ``leave``: see ``DrainRequest``.
    """

    microservice: str = ""
    name: str = ""
    server: str = ""
    replica: str = ""
    path: str = "/"
    why: str = "asked for"
    timeout_s: float = 30.0
    leave: bool = False


class ScaleRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """Have so many shards, or so many replicas of each replicated group (one of the two), from now on."""

    microservice: str = ""
    name: str = ""
    shards: int = 0
    replicas: int = 0
    timeout_s: float = 60.0


class ChangeRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """Give a running microservice (by id, or by the name in ``spec``) another spec.

    Args:
        spec: in full; class and name must be those it has.
        dry_run: only tell what would be done, or why it cannot be.
    """

    spec: MicroserviceSpec
    microservice: str = ""
    dry_run: bool = False
    timeout_s: float = 30.0


class ChangeReply(msgspec.Struct, frozen=True, omit_defaults=True):
    """``changes``: one line for each difference, empty if there is none. ``location``: where it is now."""

    location: Location
    changes: tuple[str, ...] = ()


class ClearDeathsRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """From a kernel object: ``methods`` that were suspected of killing processes have completed at ``replica``."""

    microservice: str
    path: str
    replica: str
    methods: tuple[str, ...]
    timeout_s: float = 5.0


class AbsentRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """From a kernel server: it does not have ``replica``, which the group's document says it has."""

    microservice: str
    path: str
    replica: str
    timeout_s: float = 5.0


class FindRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """Find microservices; every given condition must hold.

    Args:
        label: requirements on the microservice's own labels.
        after: id to go on from; answers come in id order, ``limit`` at a time.
        describe: give each one's description, too; then at most 200 at a time.
    """

    cls: str = ""
    name_prefix: str = ""
    label: tuple[Requirement, ...] = ()
    server: str = ""
    region: str = ""
    state: str = ""
    application: str = ""
    after: str = ""
    limit: int = 1000
    describe: bool = False


class MicroserviceInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """One row of ``find``."""

    id: str
    name: str
    cls: str
    state: str
    epoch: int
    servers: tuple[str, ...]
    dms: tuple[str, ...]
    labels: dict[str, str] = {}
    application: str = ""
    created_at: float = 0.0
    slot: int = 0


class Description(msgspec.Struct, frozen=True, omit_defaults=True):
    """Everything known of one microservice, for people: record, groups, checkpoints, why it is where it is."""

    id: str
    record: MicroserviceRecord
    groups: dict[str, GroupDocument]
    slot: int
    slot_leader: str
    state: str
    explanation: tuple[str, ...] = ()
    checkpoints: tuple[dict[str, Any], ...] = ()


class FindReply(msgspec.Struct, frozen=True, omit_defaults=True):
    """A page of rows; ``more`` when there are further ones after the last.

    Args:
        described: of each row, in order, if that was asked for; without the constructor's arguments.
    """

    rows: tuple[MicroserviceInfo, ...] = ()
    more: bool = False
    described: tuple[Description, ...] = ()


class ByName(msgspec.Struct, frozen=True, omit_defaults=True):
    """Names one thing: a microservice by id or name, a server or an application by name."""

    microservice: str = ""
    name: str = ""


class CordonRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """Close a server to new replicas, or open it again."""

    server: str
    cordon: bool = True
    why: str = ""


class DrainRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """Cordon a server, unless it is, and move everything off it; ``why`` is the reason given for the cordon.

    ``leave``: it ends then: replicas that no other server fits leave their groups as soon as enough others are in sync.
    """

    server: str
    timeout_s: float = 60.0
    why: str = ""
    leave: bool = False


class DrainReply(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a drain achieved."""

    moved: int = 0
    left: tuple[str, ...] = ()


class PauseRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """Stop (or resume) automatic recovery and balancing in the whole cluster."""

    paused: bool


class PushCodeRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """Store a bundle under its content's sha256. Idempotent."""

    sha256: str
    kind: str
    content: bytes


class ApplicationRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """Define (or redefine) an application: its entry's spec and arguments."""

    name: str
    entry: MicroserviceSpec
    arguments: bytes = b""


class Registry(Protocol):
    """The OMS as every kernel server offers it; operations on a microservice run on its slot's leader."""

    async def create(self, request: CreateRequest) -> Location:
        """Make a microservice and return where it is, serving. ``created`` tells whether this request made it."""
        ...

    async def locate(self, request: LocateRequest) -> Location:
        """Find a microservice. Raises ``NotFound``, ``StateLost``, ``Quarantined``."""
        ...

    async def delete(self, request: DeleteRequest) -> Empty:
        """Delete a microservice and everything kept for it. Idempotent once begun; waits until it is gone."""
        ...

    async def move(self, request: MoveRequest) -> Location:
        """Migrate a replica, live."""
        ...

    async def scale(self, request: ScaleRequest) -> Location:
        """Change the number of shards or replicas, live; returns once it is so. Idempotent."""
        ...

    async def change(self, request: ChangeRequest) -> ChangeReply:
        """Change managers, their options, code, placement, labels or ``on_loss`` of a running microservice.

        Idempotent. Raises ``Invalid`` for what cannot change, ``CodeUnavailable`` and ``NoEligibleServer`` if no server can
        run it so, ``NotExecuted`` if it is not active or too busy: it goes on as it was.
        """
        ...

    async def find(self, request: FindRequest) -> FindReply:
        """List microservices."""
        ...

    async def describe(self, request: ByName) -> Description:
        """Tell everything about one microservice."""
        ...

    async def members(self, request: Empty) -> Membership:
        """List live servers."""
        ...

    async def slots(self, request: Empty) -> SlotList:
        """List slots and their leaders."""
        ...

    async def cordon(self, request: CordonRequest) -> Empty:
        """Close a server to new replicas, or open it. Idempotent."""
        ...

    async def drain(self, request: DrainRequest) -> DrainReply:
        """Cordon a server and move everything off it. Idempotent."""
        ...

    async def pause(self, request: PauseRequest) -> Empty:
        """Stop or resume automatic recovery and balancing. Idempotent."""
        ...

    async def release(self, request: ByName) -> Empty:
        """Let a quarantined microservice run again."""
        ...

    async def restore(self, request: ByName) -> Location:
        """Bring a lost microservice back: from its newest intact checkpoint, else by its constructor, as the reply says."""
        ...

    async def report_absent(self, request: AbsentRequest) -> Empty:
        """Have the slot leader find out whether a replica is gone from its server, and recover it then. Idempotent."""
        ...

    async def clear_deaths(self, request: ClearDeathsRequest) -> Empty:
        """Forget deaths counted against methods that completed since. For servers only; idempotent."""
        ...

    async def push_code(self, request: PushCodeRequest) -> Empty:
        """Store a bundle. Idempotent."""
        ...

    async def define_application(self, request: ApplicationRequest) -> Empty:
        """Store an application's definition; a running entry is not changed."""
        ...

    async def application(self, request: ByName) -> Location:
        """Return an application's entry microservice, creating it once."""
        ...

    async def events(self, request: EventsRequest) -> EventList:
        """Return the bounded event history, or wait for what is newer than what is known."""
        ...

    async def acquire_lock(self, request: AcquireLockRequest) -> LockGrant:
        """Take a distributed lock, or wait for it; ``token`` 0 if somebody else has it. Idempotent by holder.

        Raises:
            Invalid: a name or a TTL that cannot be. Overloaded: too many locks, or too many wait.
        """
        ...

    async def renew_lock(self, request: HeldLockRequest) -> LockGrant:
        """Begin a new TTL for a held lock. Raises ``LockLost``. Idempotent."""
        ...

    async def release_lock(self, request: HeldLockRequest) -> Empty:
        """Free a held lock; one that is not held under that token is left as it is. Idempotent."""
        ...

    async def begin_decision(self, request: BeginDecisionRequest) -> Decision:
        """Create the decision of a two-phase commit, pending, and tell its revision. Idempotent by transaction."""
        ...

    async def decide(self, request: DecideRequest) -> Decision:
        """Commit or abort unless that was decided before, and tell what is decided. Idempotent."""
        ...

    async def decisions(self, request: DecisionsRequest) -> DecisionList:
        """List the decisions that are pending or not yet carried out everywhere, of one resource."""
        ...

    async def end_decision(self, request: DecideRequest) -> Empty:
        """Remove a commit that every cohort has made durable. Idempotent."""
        ...


class RegistryCaller(Protocol):
    """How a server passes a registry operation on to a slot's leader.

    The serving side hands a forwarded request to ``amino.oms.registry.RegistryService.forwarded``.
    """

    async def forward(self, address: str, method: str, request: msgspec.Struct, timeout_s: float) -> Any:
        """Run ``method`` of the Registry at ``address``, marked as forwarded so that it is not passed on again."""
        ...
