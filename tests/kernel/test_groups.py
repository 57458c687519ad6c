"""What a component hears of its group's document."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from amino.aio.clock import RealClock
from amino.aio.tasks import TaskOwner
from amino.contracts.documents import GroupDocument, ReplicaDocument
from amino.kernel.groups import Groups

ALONE = GroupDocument(kind="replicated", replicas=(ReplicaDocument("1-a", "s1", 1, confirmed=True),), primary="1-a")
JOINED = GroupDocument(
    kind="replicated",
    version=1,
    replicas=(*ALONE.replicas, ReplicaDocument("1-b", "s2", 2, confirmed=True)),
    primary="1-a",
)


class Confirmer:
    """Refuses an edit of what etcd has a newer document of."""

    async def edit(self, *_: Any) -> tuple[bool, GroupDocument, int]:
        """Return what etcd has."""
        return False, JOINED, 7


class Chain:
    """Notes that it is told of a change."""

    def __init__(self) -> None:
        self.told = asyncio.Event()

    async def on_member_change(self) -> None:
        """Be told."""
        self.told.set()


async def test_a_document_that_an_edit_found_is_told_of() -> None:
    """Seed 5295 of dht-replicated: a report met a newer document, whose watch event said nothing new then; nobody ever joined."""
    tasks = TaskOwner("test")
    members: Any = SimpleNamespace(group_seen=lambda *_: (JOINED, 7))
    given: dict[str, Any] = {"confirmer": Confirmer(), "kernel_at": None, "post": None, "valid": lambda: True}
    groups = Groups(me=("s1", 1), members=members, group_key=lambda *_: "g", clock=RealClock(), tasks=tasks, **given)
    chain = Chain()
    target: Any = SimpleNamespace(microservice="m", path="/", replica="1-a", chain=chain)
    members.group_seen = lambda *_: (ALONE, 3)
    group = groups.open(target, ALONE, 3)
    groups.add(group)
    members.group_seen = lambda *_: (JOINED, 7)
    assert await group.edit(ALONE, 3) == (False, JOINED, 7)
    groups.changed("m", "/")  # the watch, later
    async with asyncio.timeout(5.0):
        await chain.told.wait()
    assert group.seen == (JOINED, 7)
    await tasks.aclose()
