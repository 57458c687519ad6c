"""A replica that its own live server does not have any more: given up as soon as somebody notices.

Owns making sure of that and writing it. Leaves noticing to the servers and recovering to the leader's next steps; the audit of
``housekeeping`` finds what nobody calls.
Invariants: whoever reports is not believed: the server itself is asked, twice, and the document must be the same all the while.
Failure behaviour: a server that does not answer keeps its replica; the report may be repeated.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from amino.contracts.services import AbsentRequest, Empty
from amino.errors import AminoError, Conflict
from amino.oms import group_machine as machine

if TYPE_CHECKING:
    from amino.contracts.documents import ReplicaDocument
    from amino.oms.directory import Found
    from amino.oms.leader import Leader

LOOKS = 2
BETWEEN_S = 0.1
ANSWER_S = 2.0


async def give_up_absent(leader: Leader, request: AbsentRequest) -> None:
    """Give up the replica of ``request`` if its server does not have it, and go on to recover it. Idempotent."""
    ms_id, path = request.microservice, request.path
    async with leader.locks.hold(ms_id):
        found = await leader.writes.read(ms_id, path)
        replica = _confirmed(found, request.replica)
        if found is None or replica is None:
            return
        for look in range(LOOKS):
            if look:
                await asyncio.sleep(BETWEEN_S)
            if await _has(leader, ms_id, replica):
                return
        try:
            await leader.writes.replace(ms_id, path, found, machine.forsaken(found.document, replica))
        except Conflict:  # it has changed: whatever is wrong now is another matter
            return
        leader.events.add("replica-absent", ms_id, replica.server, f"replica {replica.id} is not there any more")
        await leader.advance_locked(ms_id)


def _confirmed(found: Found | None, replica: str) -> ReplicaDocument | None:
    """Return the replica if the group has it, confirmed, and is neither moving nor changing."""
    if found is None or machine.state_of(found.document) not in machine.AT_REST:
        return None
    return next((one for one in found.document.replicas if one.id == replica and one.confirmed), None)


async def _has(leader: Leader, ms_id: str, replica: ReplicaDocument) -> bool:
    """Return whether its server has it, or cannot say."""
    try:
        async with leader.commands.to(ms_id, replica, ANSWER_S) as kernel:
            listed = (await kernel.replicas(Empty())).replicas
    except (AminoError, TimeoutError):
        return True
    return any(one.microservice == ms_id and one.replica == replica.id for one in listed)
