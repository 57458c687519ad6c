"""What to do next for one group: a pure function of its document and of who lives.

Owns the life cycle of a microservice's group: creating, active, moving, recovering, lost, quarantined, deleting.
Leaves doing it to ``leader`` and choosing servers to ``placement``.
Invariants: from any document that can be stored, the next step leads on, so a successor continues whatever a dead
leader began; an epoch grows with every placement, abort and change of home; nothing is placed anew while its server
lives.
Failure behaviour: none; what cannot go on now is a ``Wait`` with its reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from amino.contracts.documents import GroupDocument, Move, Phase, ReplicaDocument, Tombstone
from amino.contracts.log_end import LogEnd

DEATHS_MAX = 3
REPLICATED = "replicated"
SHARDS = "shards"

Source = Literal["construct", "checkpoint", "resume", "join"]
Recovery = Literal["checkpoint", "construct", "none"]


@dataclass(frozen=True, slots=True)
class View:
    """The world as the leader knows it.

    Args:
        microservice: id of the one it is about.
        live: server -> its incarnation now.
        recovery: how it comes back when its server is lost: from a ``checkpoint``, by its constructor, or not.
        tombstones: what is known of incarnations that are gone.
        paused: whether automatic recovery is switched off.
        record: whether the microservice's record exists.
        regions: server -> region, of the servers that may take replicas.
        devices: live devices, and of each whether it may take replicas.
        ends: where the logs of possible heirs end, by replica id; filled in where they may differ in what was acknowledged.
        young: replicas that joined the in-sync set just now and would have to wait before they serve; filled in where it matters.
        silent: servers that live but do not answer now, so are not to be relied on; filled in where it matters.
        aside: this server reaches too few others to tell who is cut off, and is handing over to those that can.
    """

    microservice: str
    live: Mapping[str, int]
    recovery: Recovery = "none"
    tombstones: Mapping[tuple[str, int], Tombstone] = field(default_factory=dict)
    paused: bool = False
    record: bool = True
    regions: Mapping[str, str] = field(default_factory=dict)
    devices: Mapping[str, bool] = field(default_factory=dict)
    young: frozenset[str] = frozenset()
    silent: frozenset[str] = frozenset()
    aside: bool = False
    ends: Mapping[str, LogEnd] = field(default_factory=dict)

    def lives(self, replica: ReplicaDocument) -> bool:
        """Return whether the incarnation that has ``replica`` is still the server's present one."""
        return self.live.get(replica.server) == replica.incarnation


@dataclass(frozen=True, slots=True)
class Done:
    """Nothing to do."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing can be done until the world changes."""

    why: str


@dataclass(frozen=True, slots=True)
class Place:
    """Give the group a new replica: choose a server, write ``placed(base, ...)``, then instantiate.

    Args:
        base: the document without the lost replica, with deaths counted; its epoch is still the old one.
        lost: the replica whose server is gone; the write must prove that it is. None if nothing is replaced.
        gone: others whose servers must be gone too.
    """

    base: GroupDocument
    source: Source
    lost: ReplicaDocument | None
    why: str
    gone: tuple[ReplicaDocument, ...] = ()


@dataclass(frozen=True, slots=True)
class Add:
    """Give the group one more replica, empty, beside those it has: choose a server and write it.

    Args:
        instead_of: id of the replica that goes once the new one is in sync; empty for none.
        region: that it must be in; empty for the group's own.
        device: whether it must be on a device.
        otherwise: what to do instead if no server may have it.
    """

    why: str
    instead_of: str = ""
    region: str = ""
    device: bool = False
    otherwise: Retire | None = None


@dataclass(frozen=True, slots=True)
class Write:
    """Write ``document``; if ``lost`` is given the write must prove that its server is gone.

    ``orphan``: it must also prove that the microservice's record does not exist. ``gone``: others whose servers must be
    gone too.
    """

    document: GroupDocument
    lost: ReplicaDocument | None
    why: str
    orphan: bool = False
    gone: tuple[ReplicaDocument, ...] = ()


@dataclass(frozen=True, slots=True)
class Instantiate:
    """Tell the replica's server to make it serve."""

    replica: ReplicaDocument
    source: Source


@dataclass(frozen=True, slots=True)
class Retire:
    """Tell live servers to drop what is not of the group any more, then write ``document``."""

    replicas: tuple[ReplicaDocument, ...]
    document: GroupDocument


@dataclass(frozen=True, slots=True)
class Destroy:
    """Drop ``replicas`` for good, remove the checkpoints, then all records in one transaction."""

    replicas: tuple[ReplicaDocument, ...]


Step = Done | Wait | Place | Add | Write | Instantiate | Retire | Destroy


def next_step(document: GroupDocument, view: View) -> Step:
    """Return what is to be done next; ``Done`` when the document describes reality and nothing is under way."""
    if document.phase == Phase.DELETING:
        return Destroy(tuple(replica for replica in everywhere(document) if view.lives(replica)))
    if not view.record:
        return Write(deleting(document), None, "nobody's group", orphan=True)
    if document.phase in (Phase.LOST, Phase.QUARANTINED):
        return tidy(document, view)
    if document.changing:
        from amino.oms import change_machine

        return Write(change_machine.aborted(document), None, "give the change up")
    if document.kind == REPLICATED:
        from amino.oms import replica_machine

        return replica_machine.next_step(document, view)
    if not document.replicas:
        return recover_unless_paused(document, view, None)
    replica = document.replicas[0]
    if not view.lives(replica):
        return recover_unless_paused(document, view, replica)
    if document.move is not None:
        return Write(aborted(document), None, "abort the move")
    if not replica.confirmed:
        return Instantiate(replica, replica.source)
    return tidy(document, view)


def everywhere(document: GroupDocument) -> tuple[ReplicaDocument, ...]:
    """Return every replica that some server may hold because of ``document``."""
    target = (document.move.target,) if document.move is not None else ()
    return (*document.replicas, *target, *document.leftovers)


def tidy(document: GroupDocument, view: View) -> Step:
    """Return what is left to do for a document that describes reality: drop what is not of the group any more."""
    return retire(document, view) if document.leftovers else Done()


def retire(document: GroupDocument, view: View) -> Retire:
    """Return the step that ends leftovers."""
    return Retire(
        tuple(replica for replica in document.leftovers if view.lives(replica)),
        msgspec.structs.replace(document, leftovers=(), version=document.version + 1),
    )


def recover_unless_paused(document: GroupDocument, view: View, lost: ReplicaDocument | None) -> Step:
    """Return how a group without any replica that could go on comes back."""
    if view.paused and document.constructed:  # a creation was asked for; it goes on
        return Wait("automatic recovery is paused; `amino resume` lets it go on")
    return _recover(document, view, lost)


def _recover(document: GroupDocument, view: View, lost: ReplicaDocument | None) -> Step:
    tombstone = _tombstone(view, lost)
    why = "it has no replica" if lost is None else f"{lost.server}@{lost.incarnation} is lost"
    if tombstone is not None and tombstone.cause:
        why += f" ({tombstone.cause})"
    leftovers = (
        *document.leftovers,
        *(one for one in document.replicas if one != lost),
        *((document.move.target,) if document.move is not None else ()),
    )
    base = msgspec.structs.replace(
        with_deaths(document, view, lost),
        replicas=(),
        primary="",
        in_sync=(),
        move=None,
        report="",
        leftovers=tuple(dict.fromkeys(replica for replica in leftovers if view.lives(replica))),
        version=document.version + 1,
    )
    killer = is_killer(base)
    if killer:
        reason = f"{base.deaths[killer]} processes in a row died while running {killer}"
        return Write(msgspec.structs.replace(base, phase=Phase.QUARANTINED, reason=reason), lost, "quarantine it")
    if not base.constructed:
        return Place(base, "construct", lost, why)
    if view.recovery == "none":
        reason = f"its state was in memory only, and {why}"
        return Write(msgspec.structs.replace(base, phase=Phase.LOST, reason=reason), lost, "its state is lost")
    return Place(base, view.recovery, lost, why)


def _tombstone(view: View, lost: ReplicaDocument | None) -> Tombstone | None:
    return view.tombstones.get((lost.server, lost.incarnation)) if lost is not None else None


def with_deaths(document: GroupDocument, view: View, lost: ReplicaDocument | None) -> GroupDocument:
    """Return ``document`` with the death of the process that had ``lost`` counted."""
    return msgspec.structs.replace(
        document, deaths=_counted(document.deaths, view.microservice, _tombstone(view, lost))
    )


def is_killer(document: GroupDocument) -> str:
    """Return the method that has killed too many processes in a row, empty if none has."""
    killer = max(document.deaths, key=lambda method: document.deaths[method], default="")
    return killer if killer and document.deaths[killer] >= DEATHS_MAX else ""


def _counted(deaths: Mapping[str, int], microservice: str, tombstone: Tombstone | None) -> dict[str, int]:
    """Count a process's death against each method of ours that it was running, once per method."""
    counted = dict(deaths)
    if tombstone is not None:
        for method in {method for suspect, method in tombstone.suspects if suspect == microservice}:
            counted[method] = counted.get(method, 0) + 1
    return counted


def placed(base: GroupDocument, replica: ReplicaDocument, explanation: str, *, first: bool = False) -> GroupDocument:
    """Return ``base`` with ``replica`` as its only one, unconfirmed, at the next epoch (the first: at epoch 1)."""
    ordered = base.kind == REPLICATED
    return msgspec.structs.replace(
        base,
        epoch=base.epoch if first else base.epoch + 1,
        replicas=(replica,),
        primary=replica.id if ordered else "",
        in_sync=(replica.id,) if ordered else (),
        move=None,
        explanation={replica.id: explanation},
    )


def refused(document: GroupDocument, replica: ReplicaDocument, server: str, reason: str) -> GroupDocument:
    """Return ``document`` without ``replica``, which ``server`` (name@incarnation) cannot load, and with the reason."""
    document = msgspec.structs.replace(document, ineligible={**document.ineligible, server: reason})
    if document.kind == REPLICATED and len(document.replicas) > 1:
        return forsaken(document, replica)
    return msgspec.structs.replace(document, replicas=(), version=document.version + 1)


def forsaken(document: GroupDocument, replica: ReplicaDocument | None = None) -> GroupDocument:
    """Return ``document`` without ``replica`` (its only one), of which its own live server says that it does not have it."""
    if document.kind == REPLICATED and replica is not None and len(document.replicas) > 1:
        from amino.oms import replica_machine

        return replica_machine.forsaken(document, replica)
    return msgspec.structs.replace(
        document,
        replicas=(),
        leftovers=(*document.leftovers, *document.replicas),
        version=document.version + 1,
    )


def failed(document: GroupDocument, reason: str) -> GroupDocument:
    """Return ``document`` as lost, because its state could not be brought back."""
    return msgspec.structs.replace(
        document,
        phase=Phase.LOST,
        replicas=(),
        leftovers=(*document.leftovers, *document.replicas),
        reason=reason,
        version=document.version + 1,
    )


def moving(document: GroupDocument, target: ReplicaDocument, why: str) -> GroupDocument:
    """Return ``document`` with the intent to move its replica."""
    move = Move(source=document.replicas[0].id, target=target, why=why)
    return msgspec.structs.replace(document, move=move, version=document.version + 1)


def aborted(document: GroupDocument) -> GroupDocument:
    """Return ``document`` with its move given up: the source resumes, at a new epoch, and the target is dropped."""
    if document.move is None:
        return document
    source = msgspec.structs.replace(document.replicas[0], confirmed=False, source="resume")
    return msgspec.structs.replace(
        document,
        epoch=document.epoch + 1,
        replicas=(source,),
        leftovers=(*document.leftovers, document.move.target),
        move=None,
    )


def turned_down(document: GroupDocument, server: str, reason: str) -> GroupDocument:
    """Return ``document`` with its move given up, because ``server`` (name@incarnation) cannot have it."""
    return aborted(msgspec.structs.replace(document, ineligible={**document.ineligible, server: reason}))


def switched(document: GroupDocument) -> GroupDocument:
    """Return ``document`` after its move: the target serves at a new epoch, the source is left to be dropped.

    Written by the target's server, guarded by the leader's fence and its own session.
    """
    if document.move is None:
        return document
    target = msgspec.structs.replace(document.move.target, confirmed=True)
    return msgspec.structs.replace(
        document,
        epoch=document.epoch + 1,
        replicas=(target,),
        leftovers=(*document.leftovers, *document.replicas),
        move=None,
        explanation={target.id: f"{target.server}: moved here: {document.move.why}"},
    )


def confirmed(document: GroupDocument, methods: Mapping[str, int], replica: str | None = None) -> GroupDocument:
    """Return ``document`` once its replica (the first, unless one is named) serves. Written by the replica's server."""
    first = document.replicas[0].id if replica is None else replica
    return msgspec.structs.replace(
        document,
        phase=Phase.ACTIVE,
        replicas=tuple(
            msgspec.structs.replace(one, confirmed=True) if one.id == first else one for one in document.replicas
        ),
        constructed=True,
        methods=dict(methods) or document.methods,
        reason="",
        version=document.version + 1,
    )


def deleting(document: GroupDocument) -> GroupDocument:
    """Return ``document`` with the decision to delete, which is never taken back."""
    return msgspec.structs.replace(document, phase=Phase.DELETING, version=document.version + 1)


def released(document: GroupDocument) -> GroupDocument:
    """Return a quarantined ``document`` as one that may try again."""
    return msgspec.structs.replace(
        document,
        phase=Phase.ACTIVE if document.constructed else Phase.CREATING,
        deaths={},
        reason="",
        replicas=(),
        version=document.version + 1,
    )


def forgiven(document: GroupDocument, methods: tuple[str, ...]) -> GroupDocument:
    """Return ``document`` without the deaths counted against ``methods``."""
    deaths = {method: count for method, count in document.deaths.items() if method not in methods}
    return msgspec.structs.replace(document, deaths=deaths, version=document.version + 1)


AT_REST = frozenset({"active", "recovering"})
"""States in which replicas stay where they are; a group whose primary is gone from its server is ``recovering`` for that."""


def state_of(document: GroupDocument) -> str:
    """Return the state shown to people: a phase, or ``moving`` or ``recovering``."""
    if document.phase != Phase.ACTIVE:
        return document.phase
    if document.move is not None:
        return "moving"
    if document.changing:
        return "changing"
    if document.kind == SHARDS:
        return "active"
    if document.kind == REPLICATED:
        from amino.oms import replica_machine

        return "active" if replica_machine.serves(document) else "recovering"
    return "active" if document.replicas and document.replicas[0].confirmed else "recovering"
