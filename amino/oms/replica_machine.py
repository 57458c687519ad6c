"""What to do next for a group of alike replicas: a pure function of its document and of who lives.

Owns promotion, replacement, moves and removal of replicas (design: the in-sync set is edited by its primary alone, except
at a change of primary). Leaves the life cycle that all groups share to ``group_machine``, and replication to the replicas.
Invariants: only an in-sync replica is promoted, and every promotion raises the epoch; a replica in the in-sync set leaves
the document only together with a change of primary; nobody is taken for lost without proof in the same write.
Failure behaviour: as ``group_machine``: what cannot go on now is a ``Wait`` with its reason.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import msgspec

from amino.contracts.documents import GroupDocument, Move, Phase, ReplicaDocument
from amino.contracts.log_end import NOWHERE
from amino.oms import group_machine as machine
from amino.oms.devices import missing, to_let_go, to_replace
from amino.oms.group_machine import Add, Done, Instantiate, Place, Step, View, Wait, Write
from amino.oms.regions import is_preferred, misplaced, to_hand_back


def next_step(document: GroupDocument, view: View) -> Step:
    """Return what is to be done next for an active (or being created) replicated group."""
    if not document.replicas:
        return machine.recover_unless_paused(document, view, None)
    primary = replica_of(document, document.primary)
    if primary is None or not view.lives(primary):
        return _without_primary(document, view, primary)
    if not primary.confirmed:
        return Instantiate(primary, primary.source)
    step = _too_few(document, view, primary) or _after_report(document, view) or _after_losses(document, view)
    step = step or _former(document, view)
    if step is not None:
        return step
    unconfirmed = next((one for one in document.replicas if view.lives(one) and not one.confirmed), None)
    if unconfirmed is not None:
        return Instantiate(unconfirmed, "join")
    step = _changes(document, view, primary)
    if not document.leftovers:
        return step or Done()
    tidy = machine.retire(document, view)
    if isinstance(step, Add) and len(_relied_on(document, view)) < document.min_in_sync:
        return dataclasses.replace(
            step, otherwise=tidy
        )  # it takes no writes: who is to go, and may not answer, can wait
    return tidy  # first: their servers are wanted for new replicas


def replica_of(document: GroupDocument, replica: str) -> ReplicaDocument | None:
    """Return the replica of that id."""
    return next((one for one in document.replicas if one.id == replica), None)


def serves(document: GroupDocument) -> bool:
    """Return whether the group takes writes, as far as its document tells."""
    primary = replica_of(document, document.primary)
    return (
        document.phase == Phase.ACTIVE
        and primary is not None
        and primary.confirmed
        and len(document.in_sync) >= min(document.min_in_sync, document.wanted)
    )


def promoted(
    document: GroupDocument,
    primary: ReplicaDocument,
    *,
    lost: Iterable[ReplicaDocument] = (),
    leaving: Iterable[ReplicaDocument] = (),
) -> GroupDocument:
    """Return ``document`` at the next epoch with ``primary``.

    Args:
        lost: go, and so have their servers. leaving: go, and have to be told (``leftovers``).
    """
    told = {one.id for one in leaving}
    gone = {one.id for one in lost} | told
    move = document.move
    return msgspec.structs.replace(
        document,
        epoch=document.epoch + 1,
        version=document.version + 1,
        primary=primary.id,
        in_sync=tuple(one for one in document.in_sync if one not in gone),
        replicas=tuple(
            msgspec.structs.replace(one, doubted=False) if one.id == primary.id else one
            for one in document.replicas
            if one.id not in gone
        ),
        leftovers=(*document.leftovers, *(one for one in document.replicas if one.id in told)),
        move=None if move is not None and {move.source, move.target.id} & gone else move,
        explanation={key: why for key, why in document.explanation.items() if key not in gone},
        report="",
    )


def added(document: GroupDocument, replica: ReplicaDocument, explanation: str) -> GroupDocument:
    """Return ``document`` with one more replica, empty and unconfirmed."""
    return msgspec.structs.replace(
        document,
        version=document.version + 1,
        replicas=(*document.replicas, replica),
        explanation={**document.explanation, replica.id: explanation},
    )


def moving(document: GroupDocument, source: str, target: ReplicaDocument, why: str) -> GroupDocument:
    """Return ``document`` with the intent to have ``target`` in place of ``source``: it joins first."""
    move = Move(source=source, target=target, why=why)
    return msgspec.structs.replace(added(document, target, why), move=move)


def forsaken(document: GroupDocument, replica: ReplicaDocument) -> GroupDocument:
    """Return ``document`` without ``replica``, which its own live server does not have or cannot make."""
    if replica.id not in document.in_sync:
        return dropped(document, [replica], keep=True)
    heirs = [one for one in document.replicas if one.id in document.in_sync and one != replica and one.confirmed]
    if not heirs:
        return machine.forsaken(document)
    heir = next((one for one in heirs if one.id == document.primary), heirs[0])
    return promoted(document, heir, leaving=[replica])


def dropped(document: GroupDocument, leaving: Iterable[ReplicaDocument], *, keep: bool) -> GroupDocument:
    """Return ``document`` without replicas that are not in the in-sync set."""
    gone = {one.id for one in leaving}
    assert not gone & set(document.in_sync), "only a change of primary or the primary itself takes those out"
    move = document.move
    return msgspec.structs.replace(
        document,
        version=document.version + 1,
        replicas=tuple(one for one in document.replicas if one.id not in gone),
        leftovers=(*document.leftovers, *(one for one in document.replicas if keep and one.id in gone)),
        move=None if move is not None and {move.source, move.target.id} & gone else move,
        explanation={key: why for key, why in document.explanation.items() if key not in gone},
    )


def _without_primary(document: GroupDocument, view: View, primary: ReplicaDocument | None) -> Step:
    if view.paused and document.constructed:
        return Wait("automatic recovery is paused; `amino resume` lets it go on")
    members = [one for one in document.replicas if one.id in document.in_sync]
    lost = [one for one in members if not view.lives(one)]
    heirs = [one for one in members if view.lives(one) and one.confirmed]
    if heirs and primary is not None:
        heir = _best(document, view, heirs)
        counted = machine.with_deaths(document, view, primary)
        if machine.is_killer(counted):
            return machine.recover_unless_paused(document, view, primary)
        others = tuple(one for one in lost if one.id != primary.id)
        why = f"{primary.server}@{primary.incarnation}, which had the primary, is lost; {heir.server} goes on"
        return Write(promoted(counted, heir, lost=lost), primary, why, gone=others)
    step = machine.recover_unless_paused(document, view, primary)
    gone = tuple(one for one in lost if primary is None or one.id != primary.id)
    return _with_proof(step, gone)


def _best(document: GroupDocument, view: View, heirs: list[ReplicaDocument]) -> ReplicaDocument:
    """Return who follows a lost primary: of those that have most, where that may differ, one in the preferred region."""
    ends = {one.id: view.ends.get(one.id, NOWHERE) for one in heirs}
    most = max(ends.values())
    return min(
        (one for one in heirs if ends[one.id] == most),
        key=lambda one: (not is_preferred(document, view, one), one.id),
    )


def _with_proof(step: Step, gone: tuple[ReplicaDocument, ...]) -> Step:
    """Return a step that recovers from nothing, with the proof that the whole in-sync set is gone."""
    if isinstance(step, Place):
        return Place(step.base, step.source, step.lost, step.why, gone)
    if isinstance(step, Write):
        return Write(step.document, step.lost, step.why, step.orphan, gone)
    return step


def _too_few(document: GroupDocument, view: View, primary: ReplicaDocument) -> Step | None:
    """Let a primary go on without lost replicas that it may not leave out itself, before it has noticed, or anybody has called."""
    lost = _lost_in_sync(document, view)
    if not lost or view.paused or len(document.in_sync) - len(lost) >= document.min_in_sync:
        return None
    where = ", ".join(f"{one.server}@{one.incarnation}" for one in lost)
    why = f"{where} is lost, and writes need {document.min_in_sync} replicas; {primary.server} goes on without"
    return Write(promoted(document, primary, lost=lost), None, why, gone=lost)


def _lost_in_sync(document: GroupDocument, view: View) -> tuple[ReplicaDocument, ...]:
    return tuple(one for one in document.replicas if one.id in document.in_sync and not view.lives(one))


def _after_report(document: GroupDocument, view: View) -> Step | None:
    """Let a primary go on that says it can neither commit nor leave anybody out: without the lost, or in another replica.

    Without the lost the same primary begins a new epoch: what it has executed is committed by those that are left, and only
    then can it give its state to a replacement (docs/replication.md).
    """
    epoch, _, what = document.report.partition(" ")
    if not what.startswith("stuck") or epoch != str(document.epoch) or view.paused:
        return None
    primary = replica_of(document, document.primary)
    heirs = [
        one
        for one in document.replicas
        if one.id in document.in_sync and one.id != document.primary and one.confirmed and view.lives(one)
    ]
    lost = _lost_in_sync(document, view)
    if primary is None or not (heirs or lost):
        return None
    if lost:
        where = ", ".join(one.server for one in lost)
        why = f"the primary at {primary.server} is {what}; it goes on without {where}"
        return Write(promoted(document, primary, lost=lost), None, why, gone=lost)
    if view.aside:
        return Wait("this server reaches too few others to tell who is cut off; another is about to lead")
    heir = min(heirs, key=lambda one: (one.server in view.silent, not is_preferred(document, view, one), one.id))
    why = f"the primary at {primary.server} is {what}; {heir.server} takes over"
    if heir.server in view.silent:  # perhaps frozen, all of them, and then the present primary alone has everything
        return Write(_doubting(promoted(document, heir), primary), None, f"{why}, though it does not answer here")
    return Write(promoted(document, heir, leaving=[primary]), None, why)


def _doubting(document: GroupDocument, former: ReplicaDocument) -> GroupDocument:
    """Return ``document`` with ``former`` marked: it goes once the primary has left it out of the in-sync set."""
    return msgspec.structs.replace(
        document,
        replicas=tuple(
            msgspec.structs.replace(one, doubted=True) if one.id == former.id else one for one in document.replicas
        ),
    )


def _former(document: GroupDocument, view: View) -> Step | None:
    """Let a former primary go that the new one has left out of the in-sync set: what it executed last may differ."""
    left_out = [one for one in document.replicas if one.doubted and one.id not in document.in_sync and view.lives(one)]
    if not left_out:
        return None
    return Write(dropped(document, left_out, keep=True), None, f"{left_out[0].server} was replaced as primary")


def _after_losses(document: GroupDocument, view: View) -> Step | None:
    """Forget lost replicas; those in the in-sync set are the primary's to take out as long as it may."""
    lost = tuple(one for one in document.replicas if not view.lives(one) and one.id not in document.in_sync)
    if not lost:
        return None
    where = ", ".join(f"{one.server}@{one.incarnation}" for one in lost)
    return Write(dropped(document, lost, keep=False), None, f"{where} is lost", gone=lost)


def _changes(document: GroupDocument, view: View, primary: ReplicaDocument) -> Step | None:
    if document.move is not None:
        return _move(document, view, primary, document.move)
    if document.devices:
        return _devices(document, view, primary)
    live = [one for one in document.replicas if view.lives(one)]
    if len(live) < document.wanted:
        return Add(f"{len(live)} of {document.wanted} replicas live") if not view.paused else None
    if len(live) > document.wanted:
        return _shed(document, primary, live)
    return _regions(document, view, primary) if not view.paused else None


def _regions(document: GroupDocument, view: View, primary: ReplicaDocument) -> Step | None:
    """Bring replicas and the primary to the regions where they are wanted, one step at a time."""
    heir = to_hand_back(document, view, primary)
    if heir is not None and heir.id in view.young:
        return Wait(f"the primary is wanted in {document.preferred_region}: {heir.server} has just joined")
    if heir is not None:
        why = f"the primary is wanted in {document.preferred_region}: {heir.server} takes over"
        return Write(promoted(document, heir, leaving=[primary]), None, why)
    found = misplaced(document, view, primary)
    if found is None:
        return None
    leaving, region = found
    return Add(f"a replica is wanted in {region} rather than at {leaving.server}", leaving.id, region)


def _devices(document: GroupDocument, view: View, primary: ReplicaDocument) -> Step | None:
    """Have as many replicas as there are devices for, servers standing in while those are too few."""
    live = [one for one in document.replicas if view.lives(one)]
    if len(live) > document.wanted:
        return _shed(document, primary, live)
    if view.paused:
        return None
    enough = len(live) >= document.min_in_sync
    leaving = to_replace(document, view) if enough else None
    if leaving is not None:
        return Add(f"a device is free to have the replica at {leaving.server}", leaving.id, device=True)
    why = missing(document, view)
    if why:
        return Add(why, device=enough)
    leaving = to_let_go(document, view)
    if leaving is None:
        return None
    why = f"enough devices have replicas; {leaving.server} stands in no longer"
    return Write(without(document, view, leaving), None, why)


def may_leave(document: GroupDocument, view: View, leaving: ReplicaDocument) -> bool:
    """Return whether enough others are in sync to go on without ``leaving``, and take writes."""
    others = [one for one in _relied_on(document, view) if one != leaving]
    return len(others) >= max(1, document.min_in_sync)


def _relied_on(document: GroupDocument, view: View) -> list[ReplicaDocument]:
    return [one for one in document.replicas if one.id in document.in_sync and one.confirmed and view.lives(one)]


def someone_joins(document: GroupDocument, view: View) -> bool:
    """Return whether a live replica is still catching up."""
    return any(view.lives(one) and one.id not in document.in_sync for one in document.replicas)


def without(document: GroupDocument, view: View, leaving: ReplicaDocument) -> GroupDocument:
    """Return ``document`` without ``leaving``, a live replica; the primary stays unless that is it.

    Another in-sync replica must be there to go on.
    """
    if leaving.id not in document.in_sync:
        return dropped(document, [leaving], keep=True)
    others = [one for one in document.replicas if one.id in document.in_sync and one != leaving and one.confirmed]
    others = [one for one in others if view.lives(one)]
    heir = min(others, key=lambda one: (one.id != document.primary, one.server not in view.devices, one.id))
    return promoted(document, heir, leaving=[leaving])


def _move(document: GroupDocument, view: View, primary: ReplicaDocument, move: Move) -> Step:
    source = replica_of(document, move.source)
    if source is None or not view.lives(move.target) or replica_of(document, move.target.id) is None:
        return Write(msgspec.structs.replace(document, move=None, version=document.version + 1), None, "abort the move")
    if move.target.id not in document.in_sync:
        return Wait(f"the replica at {move.target.server} is catching up")
    heir = replica_of(document, move.target.id) if source.id == primary.id else primary
    assert heir is not None
    return Write(promoted(document, heir, leaving=[source]), None, f"{move.target.server} has caught up")


def _shed(document: GroupDocument, primary: ReplicaDocument, live: list[ReplicaDocument]) -> Step:
    """Take one replica too many out: one that is still joining, if there is one."""
    joining = next((one for one in live if one.id not in document.in_sync), None)
    if joining is not None:
        return Write(dropped(document, [joining], keep=True), None, f"{document.wanted} replicas are wanted")
    leaving = next(one for one in reversed(live) if one.id != primary.id)
    return Write(promoted(document, primary, leaving=[leaving]), None, f"{document.wanted} replicas are wanted")
