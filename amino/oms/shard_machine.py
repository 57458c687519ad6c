"""What to do next for a group of shards: a pure function of its document, of the groups below, and of who lives.

Owns creating the groups of shards, growing and shrinking one shard at a time, and removing what left. Leaves each shard's
own group to its machine, moving keys to the shards themselves (``resharding`` sends the messages), and deletion to
``group_machine``.
Invariants: a shard leaves ``children`` only when its keys have gone; one change of shards at a time; names of shards are
never used again; nobody but the leader knows of a shard before ``CHANGES`` names it, so that one that is lost before held
nothing (invariant 3), and is replaced (docs/decisions/0016-groups-and-messages.md).
Failure behaviour: as ``group_machine``: what cannot go on now is a ``Wait`` with its reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from amino.contracts.documents import GroupDocument, Phase
from amino.contracts.sharding import Transition, encode_transition, transition_of
from amino.oms.group_machine import Done, Step, Wait, Write, state_of

CHANGES = "shards"
"""Under this key the root group's ``coordinator`` holds the change of shards under way."""
ADDED = "shard-added"
"""Under this key it holds the name of a shard that is being made, which no change of shards has named yet."""


@dataclass(frozen=True, slots=True)
class CreateChild:
    """Make the group of shard ``name``."""

    name: str


@dataclass(frozen=True, slots=True)
class RemoveChild:
    """Remove the group of shard ``name``, which owns nothing any more."""

    name: str


@dataclass(frozen=True, slots=True)
class Reshard:
    """Have the shards move keys as ``transition`` says, then write ``document``."""

    transition: Transition
    document: GroupDocument


ShardStep = Step | CreateChild | RemoveChild | Reshard


def path_of(name: str) -> str:
    """Return the path of a shard's group below the root."""
    return f"/{name}"


def first_children(count: int) -> tuple[str, ...]:
    """Return the names of the shards of a new microservice."""
    return tuple(str(number) for number in range(count))


def next_step(document: GroupDocument, children: Mapping[str, GroupDocument], *, paused: bool = False) -> ShardStep:
    """Return what is to be done next for an active (or being created) group of shards.

    Args:
        children: the documents of the groups below that exist, by name.
    """
    transition = transition_of(document.coordinator.get(CHANGES))
    added = _added(document)
    if added and document.wanted <= len(document.children):
        return _write(document, f"shard {added} is not wanted any more", {ADDED: b""})
    wanted = {*document.children, *(transition.after if transition is not None else ()), *([added] if added else [])}
    missing = sorted(wanted - children.keys(), key=_number)
    if missing:
        return CreateChild(missing[0])
    surplus = sorted(children.keys() - wanted, key=_number)
    if surplus:
        return RemoveChild(surplus[0])
    if document.phase == Phase.CREATING:
        return _create(document, children)
    if transition is not None:
        return _go_on(document, children, transition)
    if added:
        return _admit(document, children[added], added)
    if document.wanted != len(document.children):
        many = f"{document.wanted} shards are wanted, there are {len(document.children)}"
        return Wait(f"{many}; the cluster is paused: `amino resume`") if paused else _begin(document)
    return Done()


def settled(document: GroupDocument) -> bool:
    """Return whether there are as many shards as are wanted, and no change of them is under way."""
    coordinator = document.coordinator
    return document.wanted == len(document.children) and CHANGES not in coordinator and ADDED not in coordinator


def leaving(document: GroupDocument, names: Iterable[str]) -> list[str]:
    """Return those of the groups below, by name, that are shards no more and wait to be removed, while no change is under way."""
    return sorted(set(names) - {*document.children, _added(document)}, key=_number)


def _create(document: GroupDocument, children: Mapping[str, GroupDocument]) -> ShardStep:
    """Make a microservice's first shards; one that is lost before they are all there is replaced."""
    for name in document.children:
        if _lost_once_made(children[name]):
            number = str(next_number(document))
            named = tuple(number if one == name else one for one in document.children)
            why = f"shard {name} was lost before all were made; shard {number} takes its place"
            return _write(document, why, {USED: _used(named, document)}, children=named)
    unready = [name for name in document.children if not children[name].constructed]
    if unready:
        return Wait(f"shards {', '.join(unready)} are being made")
    methods = next(iter(children.values())).methods
    return _write(document, "all shards are made", {}, phase=Phase.ACTIVE, constructed=True, methods=methods)


def _admit(document: GroupDocument, child: GroupDocument, added: str) -> ShardStep:
    """Have keys move to a shard that is there and can keep them; make another if it is lost, for it has none yet."""
    if _lost_once_made(child):
        return _add(document, f"shard {added} was lost before it had a key")
    if state_of(child) != "active":
        return Wait(f"shard {added} is being made; it is {state_of(child)} {child.reason}".rstrip())
    before = document.children
    transition = Transition(before, (*before, added), document.epoch + 1)
    return _write(document, f"shard {added} takes keys", {CHANGES: encode_transition(transition), ADDED: b""})


def _lost_once_made(child: GroupDocument) -> bool:
    """Return whether a shard was made and is lost. One that could not be made would fail again, and again."""
    return child.phase == Phase.LOST and child.constructed


def _go_on(document: GroupDocument, children: Mapping[str, GroupDocument], transition: Transition) -> ShardStep:
    lost = [name for name in {*transition.before, *transition.after} if children[name].phase != Phase.ACTIVE]
    if lost:
        return Wait(f"shards {', '.join(sorted(lost))} are {children[lost[0]].phase}; keys move when they are back")
    coordinator = {key: value for key, value in document.coordinator.items() if key != CHANGES}
    finished = msgspec.structs.replace(
        document,
        children=transition.after,
        coordinator=coordinator,
        epoch=document.epoch + 1,
        version=document.version + 1,
    )
    return Reshard(transition, finished)


def _begin(document: GroupDocument) -> Step:
    """Write the intent to add or remove one shard."""
    before = document.children
    if document.wanted > len(before):
        return _add(document, f"{document.wanted} shards are wanted")
    transition = Transition(before, before[:-1], document.epoch + 1)
    noted = {CHANGES: encode_transition(transition), USED: _used(before, document)}
    return _write(document, f"shard {before[-1]} leaves: {document.wanted} are wanted", noted)


def _add(document: GroupDocument, why: str) -> Write:
    name = str(next_number(document))
    return _write(document, f"shard {name} is made: {why}", {ADDED: name.encode(), USED: _used((name,), document)})


def _write(document: GroupDocument, why: str, noted: Mapping[str, bytes], **fields: Any) -> Write:
    """Return the step that writes ``fields``, and ``noted`` in the coordinator's part; what is noted empty goes."""
    coordinator = {key: value for key, value in {**document.coordinator, **noted}.items() if value}
    changed = msgspec.structs.replace(document, coordinator=coordinator, version=document.version + 1, **fields)
    return Write(changed, None, why)


def _added(document: GroupDocument) -> str:
    return document.coordinator.get(ADDED, b"").decode()


def _used(names: Iterable[str], document: GroupDocument) -> bytes:
    return str(max(next_number(document), *(int(name) + 1 for name in names))).encode()


USED = "shards-named"
"""Under this key the root group's ``coordinator`` holds the next number for a shard's name."""


def next_number(document: GroupDocument) -> int:
    """Return the number that names the next shard: none is used twice, not after a change to one object and back either."""
    known = max((int(name) + 1 for name in document.children), default=0)
    return max(known, int(document.coordinator.get(USED, b"0")))


def _number(name: str) -> int:
    return int(name)
