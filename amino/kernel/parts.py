"""Taking the part of an object's state that belongs to some keys out of it, and putting such a part into another.

Owns what is keyed state: what the class says (``__amino_split__``, ``__amino_merge__``), else the entries of every dict and
the elements of every set among its attributes. Leaves which keys belong where to the manager of shards.
Invariants: what is taken out is not there any more; putting a part in twice leaves what putting it in once leaves.
Failure behaviour: an object without attributes of its own and without these methods raises ``Invalid``; it and what cannot be
encoded leave the object as it was.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from amino import limits
from amino.errors import Invalid
from amino.wire import codec

PART_BYTES_MAX = limits.FRAME_BYTES_MAX // 16
"""Bytes of one part beyond which it is divided: a part must stay well below what fits into a frame."""
ENTRIES_MAX = 2_000

SPLIT, MERGE = "__amino_split__", "__amino_merge__"
_BY_CLASS, _BY_ATTRIBUTES = "class", "attributes"

Entry = tuple[str, Any, Any, bool]
"""Attribute, key, value, and whether it is an element of a set."""


def take_out(instance: Any, owner_of: Callable[[Any], str], mine: str, targets: list[str]) -> dict[str, list[bytes]]:
    """Take out of ``instance`` what belongs to others.

    Args:
        owner_of: tells the owner of a key; raises ``Invalid`` for what is none, which stays.
        mine: the owner whose keys stay. targets: the other owners there are.

    Returns:
        The encoded parts of each target, at least one, empty perhaps.
    """
    split = getattr(instance, SPLIT, None)
    if split is not None:
        return {
            target: [codec.pack((_BY_CLASS, split(lambda key, target=target: owner_of(key) == target)))]
            for target in targets
        }
    leaving: dict[str, list[Entry]] = {target: [] for target in targets}
    for entry, owner in _owned(instance, owner_of):
        if owner != mine:
            leaving.setdefault(owner, []).append(entry)
    parts = {
        target: [
            part
            for start in range(0, max(len(entries), 1), ENTRIES_MAX)
            for part in _packed(entries[start : start + ENTRIES_MAX])
        ]
        for target, entries in leaving.items()
    }
    for entries in leaving.values():
        _remove(instance, entries)
    return parts


def discard(instance: Any, owns: Callable[[Any], bool]) -> None:
    """Remove from ``instance`` the state of the keys that ``owns`` is true of (it raises ``Invalid`` for what is none)."""
    split = getattr(instance, SPLIT, None)
    if split is not None:
        split(owns)
        return
    found = _owned(instance, lambda key: "theirs" if owns(key) else "")
    _remove(instance, [entry for entry, owner in found if owner])


def put_in(instance: Any, part: bytes, binding: Any) -> None:
    """Put a part that ``take_out`` gave into ``instance``."""
    kind, content = codec.unpack(part, binding=binding)
    if kind == _BY_CLASS:
        getattr(instance, MERGE)(content)
        return
    for name, key, value, of_set in content:
        holder: Any = getattr(instance, name, None)
        if holder is None:  # an attribute that its class makes when it is first needed
            holder = set() if of_set else {}
            setattr(instance, name, holder)
        if of_set:
            holder.add(key)
        else:
            holder[key] = value


def _owned(instance: Any, owner_of: Callable[[Any], str]) -> list[tuple[Entry, str]]:
    """Return every entry and element that has a key for a key, with its owner."""
    if not hasattr(instance, "__dict__"):
        raise Invalid(
            f"{type(instance).__qualname__} has no attributes that could be looked into for keys; give it {SPLIT} and {MERGE}"
        )
    found: list[tuple[Entry, str]] = []
    for name, holder in vars(instance).items():
        if isinstance(holder, dict):
            entries: list[Entry] = [(name, key, value, False) for key, value in holder.items()]
        elif isinstance(holder, set):
            entries = [(name, key, None, True) for key in holder]
        else:
            continue
        for entry in entries:
            try:
                found.append((entry, owner_of(entry[1])))
            except Invalid:  # not a key
                continue
    return found


def _packed(entries: list[Entry]) -> list[bytes]:
    part = codec.pack((_BY_ATTRIBUTES, entries))
    if len(part) <= PART_BYTES_MAX or len(entries) < 2:
        return [part]
    middle = len(entries) // 2
    return [*_packed(entries[:middle]), *_packed(entries[middle:])]


def _remove(instance: Any, entries: list[Entry]) -> None:
    for name, key, _, of_set in entries:
        holder = getattr(instance, name)
        if of_set:
            holder.discard(key)
        else:
            del holder[key]
