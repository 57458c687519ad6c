"""A whole simulated cluster: calls, losses, and the same history for the same seed."""

import pytest

import amino
from amino.dm import AtLeastOnceRPC, ConsensusRSM, PeriodicCheckpoint, SerializableRPC
from amino.testing.simulation import simulate
from tests.simulation.services import Counter

SPEC = amino.spec(Counter, name="hits", dms=[AtLeastOnceRPC(), PeriodicCheckpoint(every=1), SerializableRPC()])


def host_of(cluster, name="hits"):
    """Return the simulated server that has the object, by the truth in etcd."""
    for server in cluster.servers.values():
        kernel = server.kernel
        if kernel is not None and kernel.serves and len(kernel.server.host):
            return server
    raise AssertionError(f"nobody has {name}")


def test_an_object_survives_the_crash_of_its_server():
    """A counter goes on after its kernel process was killed, well within a second, with nothing lost."""

    async def main(cluster):
        counter = await amino.aio(cluster.client().cluster.new)(SPEC, 40)
        assert await amino.aio(counter.add)() == 41
        host_of(cluster).crash()
        at = cluster.loop.now
        assert await amino.aio(counter.add)() == 42
        return cluster.loop.now - at

    assert simulate(main, 1) < 1.0


@pytest.mark.parametrize("which", ["only", "primary", "follower"])
def test_an_object_that_its_server_lost_is_back_at_once(which):
    """Whoever does not find it, a call or the group's primary, makes its server tell the slot leader, and it is made again."""

    async def main(cluster):
        spec = SPEC if which == "only" else amino.spec(Counter, dms=[AtLeastOnceRPC(), ConsensusRSM(replicas=3)])
        counter = await amino.aio(cluster.client().cluster.new)(spec)
        assert await amino.aio(counter.add)() == 1
        servers = {name: server.kernel.server for name, server in cluster.servers.items()}
        [place] = {place for server in servers.values() for place in server.host._objects}

        def document():
            return servers["s1"].oms.directory.group(*place).document

        def whole():
            replicas = document().replicas
            there = [servers[one.server].host._objects.get(place) for one in replicas if one.confirmed]
            return len(there) == len(replicas) == (1 if which == "only" else 3) and None not in there

        await cluster.until(whole, 5.0)
        lost = next(one for one in document().replicas if (one.id == document().primary) == (which == "primary"))
        await servers[lost.server].host._drop(place, destroy=False)
        at = cluster.loop.now
        assert await amino.aio(counter.add)() == 2
        answered_s = cluster.loop.now - at
        await cluster.until(lambda: whole() and lost.id not in {one.id for one in document().replicas}, 5.0)
        return answered_s, cluster.loop.now - at

    answered_s, repaired_s = simulate(main, 6)
    assert answered_s < 1.0
    assert repaired_s < 3.0


def test_an_object_survives_the_loss_of_its_machine():
    """A counter goes on after its machine vanished, within the lease and a second."""

    async def main(cluster):
        counter = await amino.aio(cluster.client().cluster.new)(SPEC)
        assert await amino.aio(counter.add)() == 1
        host_of(cluster).crash_machine()
        at = cluster.loop.now
        assert await amino.aio(counter.add)() == 2
        return cluster.loop.now - at

    assert 1.0 < simulate(main, 2) < 4.0


def test_a_thawed_machine_does_not_answer_for_what_it_lost():
    """A machine frozen for longer than its lease has dropped its objects when it runs on."""

    async def main(cluster):
        counter = await amino.aio(cluster.client().cluster.new)(SPEC)
        await amino.aio(counter.add)()
        frozen = host_of(cluster)
        before = frozen.kernel
        frozen.freeze()
        assert await amino.aio(counter.add)() == 2
        frozen.thaw()
        await cluster.until(lambda: frozen.serves and frozen.kernel is not before, 20.0)
        assert before.process.dead
        assert await amino.aio(counter.add)() == 3

    simulate(main, 3)


@pytest.mark.parametrize("seed", [4, 5])
def test_the_same_seed_gives_the_same_history(seed):
    """Two runs of one seed take the same steps, end at the same instant and leave the same revision."""

    async def main(cluster):
        counter = await amino.aio(cluster.client().cluster.new)(SPEC)
        for _ in range(20):
            await amino.aio(counter.add)()
        host_of(cluster).crash()
        await amino.aio(counter.add)()
        await cluster.wait_serving()
        return cluster.loop.now, cluster.loop.steps, cluster.etcd.revision

    assert simulate(main, seed) == simulate(main, seed)


def test_different_seeds_give_different_histories():
    """The seed decides delays and ids."""

    async def main(cluster):
        await amino.aio(cluster.client().cluster.new)(SPEC)
        return cluster.loop.now

    assert simulate(main, 6) != simulate(main, 7)
