"""Where the replicas of a group should be that belongs on devices: a pure function of its document and of the devices there are.

Owns three questions: whether a replica is missing, which of those on servers should make room for a device, which is not needed
any more. Leaves acting on the answers to ``replica_machine``.
Invariant: servers stand in only as far as ``min_in_sync`` needs them, and never leave before those who stay are in sync.
Failure behaviour: none; a device that cannot have a replica (cordoned, refused its class) asks for nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from amino.contracts.documents import GroupDocument, ReplicaDocument
    from amino.oms.group_machine import View


def has_room(document: GroupDocument, view: View) -> bool:
    """Return whether some device without a replica of the group could take one."""
    used = {one.server for one in document.replicas}
    return any(takes and name not in used for name, takes in view.devices.items())


def missing(document: GroupDocument, view: View) -> str:
    """Return why the group needs one more replica now, empty if it needs none.

    Up to ``min_in_sync`` a server will do; beyond it only devices count.
    """
    count = _live(document, view)
    if count < document.min_in_sync:
        return f"{count} replicas live, and writes need {document.min_in_sync}"
    if count < document.wanted and has_room(document, view):
        return f"{count} of {document.wanted} replicas live, and there is a device without one"
    return ""


def to_replace(document: GroupDocument, view: View) -> ReplicaDocument | None:
    """Return a replica on a server in whose place a device should have one, the primary's last; None if there is none."""
    if len(document.in_sync) < _live(document, view) or not has_room(document, view):
        return None
    return _standing_in(document, view)


def to_let_go(document: GroupDocument, view: View) -> ReplicaDocument | None:
    """Return a replica on a server that is not needed besides those on devices, the primary's last; None if all are."""
    if len(document.in_sync) < _live(document, view) or len(document.in_sync) <= document.min_in_sync:
        return None
    return _standing_in(document, view)


def may_shrink(document: GroupDocument, view: View, leaving: ReplicaDocument) -> bool:
    """Return whether a device may leave without a replacement: none has room, and enough others are in sync."""
    others = [one for one in document.replicas if one != leaving and one.id in document.in_sync and one.confirmed]
    return not has_room(document, view) and sum(map(view.lives, others)) >= document.min_in_sync


def _live(document: GroupDocument, view: View) -> int:
    return sum(map(view.lives, document.replicas))


def _standing_in(document: GroupDocument, view: View) -> ReplicaDocument | None:
    found = [one for one in document.replicas if one.server not in view.devices and view.lives(one)]
    return min(found, key=lambda one: (one.id == document.primary, one.id), default=None)
