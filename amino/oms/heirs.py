"""How far those are that could follow a lost primary: evidence for the choice where acknowledged writes may differ.

Owns asking their servers. Leaves the choice to ``replica_machine``.
Invariant: nobody is asked unless the primary is lost, there is a choice, and the group acknowledges before it copies.
Failure behaviour: who does not answer in time counts as having nothing; it may be promoted only if nobody answers.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from amino.contracts import log_end
from amino.contracts.log_end import LOG_END, NOWHERE, LogEnd
from amino.contracts.services import NotifyRequest
from amino.errors import AminoError
from amino.oms.doubt import ASK_TIMEOUT_S

if TYPE_CHECKING:
    from amino.contracts.documents import GroupDocument, ReplicaDocument
    from amino.contracts.levels import Level
    from amino.oms.commands import Commands
    from amino.oms.directory import Directory


async def log_ends(
    commands: Commands, directory: Directory, level: Level | None, place: tuple[str, str], document: GroupDocument
) -> dict[str, LogEnd]:
    """Return where the logs of the possible heirs end, by replica id; empty where that does not matter.

    Args:
        level: of the group. place: its microservice and path.
    """
    primary = next((one for one in document.replicas if one.id == document.primary), None)
    if level is None or not level.early or primary is None or directory.lives(primary.server, primary.incarnation):
        return {}
    heirs = [
        one
        for one in document.replicas
        if one.id in document.in_sync and one.confirmed and directory.lives(one.server, one.incarnation)
    ]
    if len(heirs) < 2:
        return {}
    ends = await asyncio.gather(*(_end_of(commands, level.manager, place, one) for one in heirs))
    return {one.id: end for one, end in zip(heirs, ends, strict=True)}


async def _end_of(commands: Commands, manager: str, place: tuple[str, str], replica: ReplicaDocument) -> LogEnd:
    request = NotifyRequest(*place, replica.id, manager, LOG_END)
    try:
        async with commands.to(place[0], replica, ASK_TIMEOUT_S) as kernel:
            return log_end.decode((await kernel.notify(request, memoryview(b""))).payload)
    except (AminoError, TimeoutError):
        return NOWHERE
