"""Files of checkpoints that nothing names are looked for by the leaders of their slots."""

from __future__ import annotations

import asyncio

from amino.checkpoint.collector import UNKNOWN_HORIZON_S
from amino.contracts.documents import ClusterDocument, Manifest, encode
from amino.coordination.store import Put
from amino.oms.housekeeping import COLLECT_EVERY_S
from tests.coordination.virtual import run_virtual
from tests.oms.world import World


def test_each_microservice_s_files_are_looked_at_by_one_server() -> None:
    """One round covers every microservice once, by its slot's leader, with the manifests of its groups."""

    async def main(clock):
        async with World(clock) as world:
            await world.add("s1", "s2", "s3")
            ids = [(await world.create(durable=True)).microservice for _ in range(12)]
            await world.admin.txn([], [Put(world.keys.manifest(ids[0], "/"), encode(Manifest()))])
            await asyncio.sleep(COLLECT_EVERY_S + 1)
            looked_at = [one for _, group in world.collected for one in group.items()]
            assert sorted(ms_id for ms_id, _ in looked_at) == sorted(ids)
            assert {ms_id: count for ms_id, count in looked_at if count} == {ids[0]: 1}
            assert {name for name, _ in world.collected} == {"s1", "s2", "s3"}

    run_virtual(main)


def test_a_young_etcd_costs_no_checkpoints() -> None:
    """However old their files are: etcd may have been lost, and they are what brings microservices back."""

    async def main(clock):
        async with World(clock) as world:
            world.orphans = {"lost"}
            young = ClusterDocument(counts_from=int(clock.wall() * 1e6) - 1)
            await world.admin.txn([], [Put(world.keys.cluster, encode(young))])
            await world.add("s1")
            await asyncio.sleep(COLLECT_EVERY_S + 1)
            assert world.collected == [("s1", {})]
            old = ClusterDocument(counts_from=int((clock.wall() - UNKNOWN_HORIZON_S) * 1e6))
            for document in (old, ClusterDocument()):  # the latter is of an earlier release
                world.collected.clear()
                await world.admin.txn([], [Put(world.keys.cluster, encode(document))])
                await asyncio.sleep(COLLECT_EVERY_S + 1)
                assert world.collected == [("s1", {"lost": -1})]

    run_virtual(main)
