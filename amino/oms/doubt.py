"""Who answers when a primary says that it is stuck: evidence for the choice of another.

Owns asking the servers that could take over. Leaves the choice to ``replica_machine``.
Invariant: nobody is asked unless a primary of the present epoch says so.
Failure behaviour: a server that does not answer in time is silent; it may be frozen, or cut off from this server only: so this one
asks all the others, too, whether it is the one that is cut off.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from amino.contracts.services import Empty
from amino.errors import AminoError

if TYPE_CHECKING:
    from amino.contracts.documents import GroupDocument, ReplicaDocument
    from amino.oms.commands import Commands
    from amino.oms.reach import Reach

ASK_TIMEOUT_S = 0.4


async def silent(commands: Commands, reach: Reach, microservice: str, document: GroupDocument) -> frozenset[str]:
    """Return the servers of in-sync replicas that do not answer; empty unless the primary says that it is stuck."""
    epoch, _, what = document.report.partition(" ")
    if not what.startswith("stuck") or epoch != str(document.epoch):
        return frozenset()
    others = [one for one in document.replicas if one.id in document.in_sync and one.id != document.primary]
    answers, _ = await asyncio.gather(
        asyncio.gather(*(_answers(commands, microservice, one) for one in others)), reach.ask()
    )
    return frozenset(one.server for one, answered in zip(others, answers, strict=True) if not answered)


async def _answers(commands: Commands, microservice: str, replica: ReplicaDocument) -> bool:
    try:
        async with commands.to(microservice, replica, ASK_TIMEOUT_S) as kernel:
            await kernel.statistics(Empty())
    except (AminoError, TimeoutError):
        return False
    return True
