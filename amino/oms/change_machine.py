"""Changing the spec of a running microservice: what may change, and the group's document at each step.

Pure. Owns the rules and the documents of a change. Leaves carrying it out to ``changing``.
Invariants: class and name never change; the replica that has the state keeps its id and gets a higher epoch, whether the
change is carried out or given up; a document whose change nobody carries on is led back by ``aborted``.
Failure behaviour: ``Invalid`` says what cannot change and what to do instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from amino.contracts.documents import DmSpec, GroupDocument, MicroserviceSpec, ReplicaDocument
from amino.contracts.levels import Level, leaf, sharding
from amino.errors import Invalid
from amino.ids import ROOT
from amino.oms.shard_machine import USED, next_number

_FIXED = {
    "cls": ("class", "its state belongs to the class; create another microservice and copy what you need"),
    "name": ("name", "delete it and create another, or give another microservice that name"),
    "application": ("application", "it belongs to the application that created it"),
}
_COUNTS = frozenset({"shards", "replicas"})


@dataclass(frozen=True, slots=True)
class Plan:
    """What a change comes to.

    Args:
        changes: one line for each difference.
        rebuild: whether the replica has to be built again.
        counts: whether only numbers of shards or replicas differ in the chain, which groups come to by themselves.
    """

    changes: tuple[str, ...]
    rebuild: bool = False
    counts: bool = False


def plan(running: MicroserviceSpec, wanted: MicroserviceSpec) -> Plan:
    """Compare two specs of a microservice.

    Raises:
        Invalid: something differs that cannot change.
    """
    for field, (name, remedy) in _FIXED.items():
        before, after = getattr(running, field), getattr(wanted, field)
        if before != after:
            raise Invalid(f"the {name} of a running microservice cannot change from {before!r} to {after!r}: {remedy}")
    changes = []
    if running.dms != wanted.dms:
        changes.append(f"dms: {chain_text(running.dms)} -> {chain_text(wanted.dms)}")
    if running.code != wanted.code:
        changes.append(f"code: {running.code[:12] or 'by import path'} -> {wanted.code[:12] or 'by import path'}")
    if running.placement != wanted.placement:
        changes.append("placement")
    if running.on_loss != wanted.on_loss:
        changes.append(f"onLoss: {running.on_loss} -> {wanted.on_loss}")
    if running.labels != wanted.labels:
        changes.append(f"labels: {_labels(running.labels)} -> {_labels(wanted.labels)}")
    same = _without_counts(running.dms) == _without_counts(wanted.dms)
    return Plan(
        tuple(changes),
        rebuild=not same or running.code != wanted.code,
        counts=same and running.dms != wanted.dms,
    )


def _without_counts(dms: Sequence[DmSpec]) -> list[tuple[str, dict[str, Any]]]:
    return [(dm.name, {key: value for key, value in dm.options.items() if key not in _COUNTS}) for dm in dms]


def chain_text(dms: Sequence[DmSpec]) -> str:
    """Return a chain as people write it."""
    return f"[{', '.join(map(_dm_text, dms))}]"


def _dm_text(dm: DmSpec) -> str:
    options = ", ".join(f"{key}={value!r}" for key, value in sorted(dm.options.items()))
    return f"{dm.name}({options})" if options else dm.name


def _labels(labels: dict[str, str]) -> str:
    return ", ".join(f"{key}={value}" for key, value in sorted(labels.items())) or "none"


def keeper(document: GroupDocument) -> ReplicaDocument:
    """Return the replica that has the state: the primary, or the only one."""
    return next((one for one in document.replicas if one.id == document.primary), document.replicas[0])


def intended(document: GroupDocument) -> GroupDocument:
    """Return ``document`` with the intent to change; written before any command."""
    return msgspec.structs.replace(document, changing=True, version=document.version + 1)


def aborted(document: GroupDocument) -> GroupDocument:
    """Return ``document`` with its change given up: the replica resumes as it was, at a new epoch."""
    if not document.replicas:
        return msgspec.structs.replace(document, changing=False, epoch=document.epoch + 1)
    stays = keeper(document)
    back = msgspec.structs.replace(stays, confirmed=False, source="resume")
    return msgspec.structs.replace(
        document,
        changing=False,
        epoch=document.epoch + 1,
        version=document.version + 1,
        replicas=tuple(back if one.id == stays.id else one for one in document.replicas),
    )


def changed(document: GroupDocument, levels: tuple[Level, ...], store_id: str) -> GroupDocument:
    """Return a group's ``document`` after the change: the replica that had the state has it, alone, in its new form.

    Args:
        levels: of the new chain. store_id: where its checkpoints are from now on, empty for none.
    """
    stays = msgspec.structs.replace(keeper(document), confirmed=True, source="resume")
    level = leaf(levels)
    others = tuple(one for one in document.replicas if one.id != stays.id)
    return msgspec.structs.replace(
        document,
        changing=False,
        generation=document.generation + 1,
        epoch=document.epoch + 1,
        version=document.version + 1,
        replicas=(stays,),
        leftovers=(*document.leftovers, *others),
        kind=level.kind if level is not None else "",
        wanted=level.members if level is not None else 1,
        min_in_sync=level.min_in_sync if level is not None else 1,
        regions=level.regions if level is not None else (),
        preferred_region=level.preferred_region if level is not None else "",
        devices=level is not None and level.devices,
        primary=stays.id if level is not None else "",
        in_sync=(stays.id,) if level is not None else (),
        children=(),
        explanation={stays.id: document.explanation.get(stays.id, f"{stays.server}: it was here")},
        store_id=store_id,
        ineligible={},
        coordinator=_names_used(document),
        report="",
    )


def _names_used(document: GroupDocument) -> dict[str, bytes]:
    """Return what a group's document keeps of its DM coordinators' over a change of managers: the shards there have been.

    A shard of the same name would begin at an epoch that another has had.
    """
    number = next_number(document)
    return {USED: str(number).encode()} if number else {}


@dataclass(frozen=True, slots=True)
class Paths:
    """Where the replica that has the state is and will be: ``/``, or the path of the only shard."""

    before: str
    after: str


def paths(root: GroupDocument, levels: tuple[Level, ...]) -> Paths:
    """Return the path of the group that has the state, before and after a change to ``levels``; at most one shard is left."""
    before = f"/{root.children[0]}" if root.kind == "shards" else ROOT
    if sharding(levels) is None:
        return Paths(before, ROOT)
    return Paths(before, before if before != ROOT else f"/{next_number(root)}")


def documents(
    root: GroupDocument, holder: GroupDocument, where: Paths, levels: tuple[Level, ...], store_id: str
) -> dict[str, GroupDocument | None]:
    """Return all documents that change, by path; None for one that goes.

    Args:
        root: of the microservice. holder: of the group that has the state (perhaps the root itself).
    """
    generation, level = root.generation + 1, sharding(levels)
    goal = msgspec.structs.replace(changed(holder, levels, store_id), generation=generation)
    if where.before == where.after == ROOT:
        return {ROOT: goal}
    if where.after == ROOT:
        goal = msgspec.structs.replace(goal, epoch=max(root.epoch, holder.epoch) + 1, coordinator=_names_used(root))
        return {ROOT: goal, where.before: None}
    assert level is not None, "only a chain with a manager of shards puts the state below the root"
    above = msgspec.structs.replace(root, generation=generation, version=root.version + 1, wanted=level.members)
    if where.before == ROOT:  # the group becomes the first shard; what else it had is the root's to drop
        above = msgspec.structs.replace(
            above,
            kind=level.kind,
            epoch=root.epoch + 1,
            children=(where.after[1:],),
            changing=False,
            replicas=(),
            leftovers=goal.leftovers,
            min_in_sync=1,
            primary="",
            in_sync=(),
            explanation={},
            ineligible={},
            coordinator=_names_used(root),
            report="",
            store_id=store_id,
        )
        goal = msgspec.structs.replace(goal, leftovers=(), coordinator={})
    return {ROOT: above, where.after: goal}


def noted(document: GroupDocument) -> GroupDocument:
    """Return ``document`` after a change that concerns its record alone."""
    return msgspec.structs.replace(document, generation=document.generation + 1, version=document.version + 1)
