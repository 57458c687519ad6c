"""A server that has its session and does not serve: found in etcd by everybody, and of no use to anybody.

Seen in an hour of chaos: a server whose start had stuck was the emptiest of all, and a lost microservice waited for it for 71 s.
"""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from amino.contracts.documents import DmSpec, Phase, Placement, Requirement, ServerRecord, encode
from amino.coordination.store import Put
from amino.ids import slot_of
from tests.coordination.virtual import run_virtual
from tests.oms.world import World

REPLICATED = (DmSpec("Replicated", {"replicas": 2, "min_in_sync": 1}),)
ON_MARS = Placement(selector=((Requirement("region", "Equal", ("mars",)),),))


async def in_limbo(world: World, name: str, **labels: str) -> int:
    """Have a server in etcd that nobody reaches; returns its lease."""
    record = ServerRecord(name=name, address=f"{name}:99", labels={"host": name, **labels}, store_id="shared")
    lease = await world.admin.grant(100_000)
    await world.admin.txn([], [Put(world.keys.server(name), encode(record), lease)])
    await world.until(lambda: all(name in one.oms.directory.live for one in world.servers.values() if one.alive))
    return lease


def test_what_was_lost_does_not_wait_for_it() -> None:
    """Everything serves elsewhere within seconds, although the server in limbo is the emptiest and stays."""

    async def main(clock: Any) -> None:
        async with World(clock) as world:
            await world.add("s1", "s2", "s3")
            ids = [(await world.create(durable=True)).microservice for _ in range(12)]
            lost = [ms_id for ms_id in ids if world.home(ms_id) is world.servers["s3"]]
            assert lost
            lease = await in_limbo(world, "s4")
            world.servers["s3"].die()
            began = clock.monotonic()

            def serves(ms_id: str) -> bool:
                document = world.document(ms_id)
                return document.replicas[0].confirmed and document.replicas[0].server in {"s1", "s2"}

            await world.until(lambda: all(map(serves, ids)), timeout_s=15)
            assert clock.monotonic() - began < 8  # the session of s3 has to end first
            await world.admin.revoke(lease)  # nobody can ask it to drop what it may have begun; now nobody has to
            await world.settled()

    run_virtual(main)


def test_creations_do_not_wait_for_it() -> None:
    """The one that it was chosen for is made elsewhere."""

    async def main(clock: Any) -> None:
        async with World(clock) as world:
            await world.add("s1", "s2")
            lease = await in_limbo(world, "s3")
            for _ in range(6):
                began = clock.monotonic()
                ms_id = (await world.create(durable=True)).microservice
                assert clock.monotonic() - began < 4
                assert world.home(ms_id).alive
            await world.admin.revoke(lease)
            await world.settled()

    run_virtual(main)


def test_what_may_go_nowhere_else_waits_for_it() -> None:
    """Nothing is given up, and it is made as soon as the server serves."""

    async def main(clock: Any) -> None:
        async with World(clock) as world:
            await world.add("s1")
            await world.add("s2", labels={"region": "mars"})
            ms_id = (await world.create(durable=True, placement=ON_MARS)).microservice
            world.servers["s2"].die()
            lease = await in_limbo(world, "s3", region="mars")
            await asyncio.sleep(20)  # virtual
            document = world.document(ms_id)
            assert document.phase == Phase.ACTIVE
            assert [one.server for one in document.replicas] == ["s3"]
            await world.admin.revoke(lease)
            await world.add("s4", labels={"region": "mars"})
            await world.until(lambda: world.document(ms_id).replicas[0].confirmed)
            await world.settled()
            assert world.home(ms_id) is world.servers["s4"]

    run_virtual(main)


def test_who_is_to_go_comes_first_where_no_other_server_is_free() -> None:
    """A group that takes no writes gets its replica before others are told to go, but not where the only server has one of those."""

    async def main(clock: Any) -> None:
        async with World(clock) as world:
            await world.add("s1", "s2")
            ms_id = (await world.create(dms=REPLICATED)).microservice
            await world.until(lambda: len(world.document(ms_id).replicas) == 2)
            document = world.document(ms_id)
            goes = next(one for one in document.replicas if one.id != document.primary)
            stays = tuple(one for one in document.replicas if one != goes)
            short = msgspec.structs.replace(
                document,
                version=document.version + 1,
                replicas=stays,
                in_sync=(document.primary,),
                min_in_sync=2,
                leftovers=(*document.leftovers, goes),
            )
            await world.admin.txn([], [Put(world.keys.group(slot_of(ms_id), ms_id, "/"), encode(short))])
            await world.until(lambda: len(world.document(ms_id).replicas) == 2 and not world.document(ms_id).leftovers)
            again = next(one for one in world.document(ms_id).replicas if one.id != document.primary)
            assert (again.server, again.id != goes.id) == (goes.server, True)

    run_virtual(main)
