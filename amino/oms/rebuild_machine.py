"""What to write into an empty etcd so that a microservice comes back from what the checkpoint store holds of it: pure.

Owns choosing checkpoints, epochs, and the documents of every group. Leaves reading files and writing documents to
``rebuilding``, and bringing replicas back from those documents to slot leaders, as after any loss.
Invariants: every epoch is above each that this microservice can have had; of a group the newest checkpoint that is intact is
the current one; what a log beside a damaged checkpoint holds is never passed over in silence.
Failure behaviour: what cannot be brought back is a ``Refused`` with its reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from amino.checkpoint.inventory import FoundCheckpoint, FoundGroup
from amino.contracts.documents import CheckpointEntry, GroupDocument, Manifest, MicroserviceRecord, Phase
from amino.contracts.levels import Level, leaf, sharding
from amino.contracts.sharding import Transition, encode_transition
from amino.ids import ROOT
from amino.oms import group_machine as machine
from amino.oms import shard_machine

EPOCH_STEP = 1_000_000
"""Epochs begin at the next multiple of this, with each rebuilding: no group is placed so often in between."""
KEPT = 2
"""As many intact checkpoints of a group are taken over, the older ones for the case that a newer one is damaged later."""
UNFINISHED = "it is being rebuilt from its checkpoints; `amino rebuild` goes on with it"
"""Reason of a root whose shards are not all on record again."""

UNDESCRIBED = (
    "the store has no intact description of it: an earlier release wrote it, it was being deleted, or its managers keep no "
    "checkpoints any more"
)


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What to write.

    Args:
        documents, manifests: by path; a group without a manifest has no checkpoint.
        notes: what an operator should know.
    """

    record: MicroserviceRecord
    documents: dict[str, GroupDocument]
    manifests: dict[str, Manifest]
    notes: tuple[str, ...] = ()

    @property
    def newest(self) -> CheckpointEntry | None:
        """The newest checkpoint of all groups."""
        entries = [entry for manifest in self.manifests.values() for entry in manifest.entries if entry.sha256]
        return max(entries, key=lambda entry: entry.taken_at, default=None)


@dataclass(frozen=True, slots=True)
class Refused:
    """Why it cannot be brought back."""

    why: str


@dataclass(slots=True)
class _Draft:
    record: MicroserviceRecord
    groups: Mapping[str, FoundGroup]
    level: Level | None
    epoch: int
    store_id: str
    documents: dict[str, GroupDocument] = field(default_factory=dict)
    manifests: dict[str, Manifest] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def record_of(groups: Mapping[str, FoundGroup]) -> MicroserviceRecord | None:
    """Return the microservice's newest record, None if no description is intact."""
    records = [group.description.record for group in groups.values() if group.description is not None]
    return max(records, key=lambda record: record.generation, default=None)


def plan(
    groups: Mapping[str, FoundGroup], levels: Sequence[Level], store_id: str, *, at_least: int = 0
) -> Rebuilt | Refused:
    """Return what brings a microservice back whose record is ``record_of(groups)``.

    Args:
        groups: by path. levels: of its chain. store_id: of the checkpoint store.
        at_least: an epoch that earlier rebuildings have come to; whatever is in the store.
    """
    record = record_of(groups)
    if record is None:
        return Refused(UNDESCRIBED)
    draft = _Draft(record, groups, leaf(tuple(levels)), above(_epochs(groups), at_least), store_id)
    above_shards = sharding(tuple(levels))
    why = _plan_one(draft) if above_shards is None else _plan_shards(draft, above_shards)
    if why:
        return Refused(why)
    return Rebuilt(record, draft.documents, draft.manifests, tuple(draft.notes))


def above(epochs: Sequence[int], at_least: int = 0) -> int:
    """Return the epoch that a group begins with which has had ``epochs``."""
    return (max(*epochs, at_least, 0, 0) // EPOCH_STEP + 1) * EPOCH_STEP


def _epochs(groups: Mapping[str, FoundGroup]) -> list[int]:
    found = [one.entry.epoch for group in groups.values() for one in group.checkpoints]
    for group in groups.values():
        about = group.description
        if about is not None:
            found += [one.epoch for one in (about.group, about.root) if one is not None]
            found += [about.shards.version] if about.shards is not None else []
    return found


def _plan_one(draft: _Draft) -> str:
    stored = draft.groups.get(ROOT)
    if stored is None or not stored.checkpoints:
        return "the store has no checkpoint of it"
    if all(one.problem for one in stored.checkpoints):
        return f"none of its {len(stored.checkpoints)} checkpoints is intact: {stored.checkpoints[0].problem}"
    _add(draft, ROOT, generation=draft.record.generation)
    return ""


def _add(draft: _Draft, path: str, *, generation: int = 0) -> None:
    """Plan a group that has the state of the microservice, or of a shard."""
    stored, level = draft.groups.get(path, FoundGroup()), draft.level
    kind = level.kind if level is not None else ""
    known = stored.description.group if stored.description is not None else None
    same = known is not None and known.kind == kind
    wanted = level.members if level is not None else 1
    draft.documents[path] = GroupDocument(
        phase=Phase.ACTIVE,
        epoch=draft.epoch,
        constructed=True,
        store_id=draft.store_id,
        kind=kind,
        wanted=known.wanted if same and known is not None else wanted,
        min_in_sync=level.min_in_sync if level is not None else 1,
        regions=level.regions if level is not None else (),
        preferred_region=level.preferred_region if level is not None else "",
        devices=level is not None and level.devices,
        coordinator=dict(known.coordinator) if same and known is not None else {},
        generation=generation,
    )
    entries, notes = manifest_of(stored.checkpoints)
    if entries:
        draft.manifests[path] = Manifest(entries=entries)
    where = "" if path == ROOT else f"shard {path[1:]}: "
    draft.notes += [where + note for note in notes]


def manifest_of(checkpoints: Sequence[FoundCheckpoint]) -> tuple[tuple[CheckpointEntry, ...], list[str]]:
    """Return the entries of a group's manifest, and what is to be said about damaged ones.

    A damaged checkpoint stays listed while the log beside it holds what was acknowledged: the one before it and its own log
    lead up to it. Without such a log it is left out, and what it held beyond the one before is lost.
    """
    notes: list[str] = []
    intact = next((number for number, one in enumerate(checkpoints) if not one.problem), None)
    if intact is None:
        entries = tuple(one.entry for one in checkpoints)
        return entries, [f"none of its {len(entries)} checkpoints is intact" if entries else "it has no checkpoint"]
    newest = checkpoints[intact].entry
    for one in checkpoints[:intact]:
        told = f"checkpoint {one.entry.epoch}-{one.entry.sequence} is damaged ({one.problem})"
        what = "its log leads on from" if one.logged else "taken instead:"
        notes.append(f"{told}; {what} {newest.epoch}-{newest.sequence}")
    kept = [one.entry for one in checkpoints[:intact] if one.logged]
    useful = 0
    for one in checkpoints[intact:]:
        last = kept[-1] if kept else None
        if useful >= KEPT or (last is not None and last.log and (not one.entry.log or one.entry.log_size < 0)):
            break
        if not one.problem:
            useful += 1
        elif not one.entry.log:
            continue
        kept.append(one.entry)
    if kept[0].log:  # its log is open: whoever restores it finds its end
        kept[0] = msgspec.structs.replace(kept[0], log_size=-1)
    return tuple(kept), notes


# --- shards ---------------------------------------------------------------------------------------------------------


def _plan_shards(draft: _Draft, level: Level) -> str:
    """Plan the root and all its shards.

    A change of shards that any of them has heard of is gone through again from its beginning: what was done of it before is
    in the shards' own states, and is not done twice.
    """
    described = [group.description for group in draft.groups.values() if group.description is not None]
    transition = max((one.shards for one in described if one.shards), key=lambda one: one.version, default=None)
    roots = [one.root for one in described if one.root is not None]
    root = max(roots, key=lambda one: (one.epoch, one.version), default=None)
    if transition is not None:
        children = transition.before
    else:
        children = root.children if root is not None and root.children else shard_machine.first_children(level.members)
    stored = {path[1:] for path, group in draft.groups.items() if path != ROOT and group.checkpoints}
    if not stored:
        return "the store has no checkpoint of any of its shards"
    missing = [name for name in children if name not in stored]
    if missing and transition is None and (root is None or not root.constructed):
        return f"its creation was not finished: shards {', '.join(missing)} have no checkpoint"
    draft.documents[ROOT] = GroupDocument(
        phase=Phase.ACTIVE,
        epoch=draft.epoch,
        constructed=True,
        store_id=draft.store_id,
        kind=level.kind,
        wanted=root.wanted if root is not None else len(transition.after) if transition is not None else len(children),
        children=children,
        coordinator=_coordinator(root, transition, {*stored, *children}),
        generation=draft.record.generation,
    )
    leaving = set(transition.before) - set(transition.after) if transition is not None else set()
    coming = set(transition.after) - set(transition.before) if transition is not None else set()
    for name in sorted({*children, *coming}, key=int):
        if name in stored:
            _add(draft, shard_machine.path_of(name))
        elif name not in leaving | coming:
            _add(draft, shard_machine.path_of(name))  # which ends as lost, for everybody to see
    return ""


def _coordinator(root: GroupDocument | None, transition: Transition | None, names: set[str]) -> dict[str, bytes]:
    known = dict(root.coordinator) if root is not None else {}
    for key in (
        shard_machine.CHANGES,
        shard_machine.ADDED,
    ):  # what no shard has heard of is begun anew, if still wanted
        known.pop(key, None)
    if transition is not None:
        known[shard_machine.CHANGES] = encode_transition(transition)
        names = {*names, *transition.before, *transition.after}
    number = max(int(known.get(shard_machine.USED, b"0")), *(int(name) + 1 for name in names))
    return {**known, shard_machine.USED: str(number).encode()}


def unfinished(document: GroupDocument) -> GroupDocument:
    """Return a root's document while not all its shards are on record again: nothing is done for it meanwhile."""
    return msgspec.structs.replace(document, phase=Phase.LOST, reason=UNFINISHED)


def is_unfinished(document: GroupDocument) -> bool:
    """Return whether an earlier run stopped between a root and its shards."""
    return document.phase == Phase.LOST and document.reason == UNFINISHED


def state_of(documents: Mapping[str, GroupDocument]) -> tuple[str, str]:
    """Return the state of a microservice and the reason, by the worst of its groups."""
    states = {path: machine.state_of(document) for path, document in documents.items()}
    for bad in (Phase.LOST, Phase.QUARANTINED, Phase.DELETING):
        for path, state in sorted(states.items()):
            if state == bad:
                where = "" if path == ROOT else f"shard {path[1:]}: "
                return state, where + documents[path].reason
    for path, state in sorted(states.items()):
        if state != "active":
            reasons = "; ".join(sorted(set(documents[path].ineligible.values())))
            return state, reasons
    return "active", ""
