"""Where the replicas of a group should be by region: a pure function of its document and of the servers there are.

Owns three questions: where a primary is preferred, whether it should be handed back, which replica should move to another
region. Leaves acting on the answers to ``replica_machine``.
Invariant: a region without a server that could take a replica asks for nothing.
Failure behaviour: none; a group whose document names no regions is left alone.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from amino.contracts.documents import GroupDocument, ReplicaDocument
    from amino.oms.group_machine import View


def is_preferred(document: GroupDocument, view: View, replica: ReplicaDocument) -> bool:
    """Return whether the primary is wanted where ``replica`` is."""
    return not document.preferred_region or view.regions.get(replica.server) == document.preferred_region


def to_hand_back(document: GroupDocument, view: View, primary: ReplicaDocument) -> ReplicaDocument | None:
    """Return the replica that should be primary in place of ``primary``, None if that is where it should be."""
    if is_preferred(document, view, primary) or len(document.in_sync) < document.wanted:
        return None
    there = [
        one
        for one in document.replicas
        if one.id in document.in_sync and one.confirmed and view.lives(one) and is_preferred(document, view, one)
    ]
    return min(there, key=lambda one: one.id, default=None)


def misplaced(document: GroupDocument, view: View, primary: ReplicaDocument) -> tuple[ReplicaDocument, str] | None:
    """Return a replica that should go to another region, and that region; None if all are well spread.

    A wanted region without a replica, but with a server, takes one from outside the wanted regions or from a region that has
    several; the preferred region comes first, and takes one in any case.
    """
    if len(document.in_sync) < document.wanted:
        return None
    wanted = [document.preferred_region] if document.preferred_region else []
    wanted += [region for region in document.regions if region not in wanted]
    used = {one.server for one in document.replicas}
    count = Counter(view.regions.get(one.server, "") for one in document.replicas)
    for region in wanted:
        free = any(where == region and server not in used for server, where in view.regions.items())
        if count[region] or not free:
            continue

        def rank(one: ReplicaDocument) -> tuple[bool, int, bool, str]:
            where = view.regions.get(one.server, "")
            return (where in wanted, -count[where], one.id == primary.id, one.id)

        leaving = min(document.replicas, key=rank)
        where = view.regions.get(leaving.server, "")
        if region == document.preferred_region or where not in wanted or count[where] > 1:
            return leaving, region
    return None
