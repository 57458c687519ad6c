"""What simulations have found of groups of shards and replicas, each as a scenario of its own."""

import asyncio

import amino
from amino.contracts.documents import GroupDocument, decode
from amino.contracts.services import CordonRequest
from amino.dm import DHT, AtLeastOnceRPC, ConsensusRSM
from amino.ids import ROOT, slot_of
from amino.oms import replica_machine
from amino.testing.simulation import simulate
from tests.simulation.services import Counter, Visits


def test_a_shard_that_leaves_is_gone_before_its_microservice_has_no_shards():
    """Seed 5999 of live-change: the group of a shard that had left, not removed yet, was nobody's after a change to one object."""

    async def main(cluster):
        client = cluster.client()
        chain = [AtLeastOnceRPC(), ConsensusRSM()]
        shards = amino.spec(Visits, name="visits", dms=[*chain[:1], DHT(shards=2), *chain[1:]])
        visits = await amino.aio(client.cluster.new)(shards)
        assert await amino.aio(visits.count)("here") == 1
        silent_until = cluster.loop.now + 5.0
        for server in cluster.servers.values():
            leader = server.kernel.server.oms.leader

            async def retire(ms_id, path, *args, really=leader.retire, **options):
                silent = path == "/1" and cluster.loop.now < silent_until
                return "its server does not answer" if silent else await really(ms_id, path, *args, **options)

            leader.retire = retire
        await amino.aio(client.cluster.apply)(amino.spec(Visits, name="visits", dms=chain))
        left = [record.key for record in cluster.etcd.list(f"{cluster.keys.root}groups/")[0]]
        assert [key for key in left if not key.endswith("/")] == []
        assert await amino.aio(visits.count)("here") == 2

    simulate(main, 5999)


async def _promote(cluster, microservice, server):
    """Have the slot's leader name the replica on ``server`` primary, as if the present one said that it is stuck."""
    kernels = [one.kernel for one in cluster.servers.values()]
    kernel = next(one for one in kernels if slot_of(microservice) in one.server.oms.reconciler.led)
    leader = kernel.server.oms.leader

    async def promote():
        async with leader.locks.hold(microservice):
            found = await leader.writes.read(microservice)
            document = found.document
            heir = next(one for one in document.replicas if one.server == server)
            former = replica_machine.replica_of(document, document.primary)
            document = replica_machine._doubting(replica_machine.promoted(document, heir), former)
            await leader.writes.replace(microservice, ROOT, found, document)

    await kernel.process.spawn(promote(), "promote")


def test_a_primary_that_returns_logs_what_ran_while_it_was_none():
    """Seed 5315 of replicated: a call ended at a primary just deposed; as primary again it refused writes and snapshots for ever."""

    async def main(cluster):
        client = cluster.client()
        spec = amino.spec(Counter, name="hits", dms=[AtLeastOnceRPC(), ConsensusRSM(append_timeout_s=5.0)])
        counter = await amino.aio(client.cluster.new)(spec)
        microservice = counter.__amino_reference__.microservice
        assert await amino.aio(counter.add)() == 1

        def document():
            return decode(cluster.etcd.get(key).value, GroupDocument, key)

        key = cluster.keys.group(slot_of(microservice), microservice, ROOT)
        await cluster.until(lambda: len(document().in_sync) == 3, 5.0)
        places = {one.id: one.server for one in document().replicas}
        first = places.pop(document().primary)
        slow = asyncio.create_task(counter.add_slowly(0.5))
        await asyncio.sleep(0.3)
        await _promote(cluster, microservice, min(places.values()))
        await asyncio.sleep(0.3)
        await _promote(cluster, microservice, first)
        with amino.deadline(20.0):
            assert await slow == 2
            assert await amino.aio(counter.add)() == 3
        await cluster.until(lambda: len(document().in_sync) == 3, 20.0)
        assert document().primary not in places

    simulate(main, 5315)


def test_replicas_leave_servers_that_are_restarted_one_after_the_other():
    """Nobody has room for a replacement: each waits until the one before is in sync again, and leaves in good order; no call fails."""

    async def main(cluster):
        connection = cluster.client().cluster
        spec = amino.spec(Counter, name="hits", dms=[AtLeastOnceRPC(), ConsensusRSM(replicas=3)])
        counter = await amino.aio(connection.new)(spec)
        microservice = counter.__amino_reference__.microservice
        key = cluster.keys.group(slot_of(microservice), microservice, ROOT)
        answers = []

        def document():
            return decode(cluster.etcd.get(key).value, GroupDocument, key)

        async def count():
            while True:
                answers.append(await amino.aio(counter.add)())
                await asyncio.sleep(0.01)

        await cluster.until(lambda: len(document().in_sync) == 3, 5.0)
        counting = asyncio.create_task(count())
        for name, server in [*cluster.servers.items()] * 2:
            ended = server.supervisor
            server.stop()
            await cluster.until(lambda ended=ended: ended.dead, 30.0)
            assert name not in [one.server for one in document().replicas], "it did not leave but was lost"
            assert len(document().in_sync) >= 2
            server.start()
            await amino.aio(connection.registry.cordon)(CordonRequest(name, cordon=False))  # as its supervisor does
            await cluster.until(
                lambda server=server, ended=ended: server.supervisor is not ended and server.serves, 30.0
            )
        counting.cancel()
        await asyncio.gather(counting, return_exceptions=True)
        assert len(answers) > 100
        assert answers == list(range(1, len(answers) + 1))

    simulate(main, 1)
