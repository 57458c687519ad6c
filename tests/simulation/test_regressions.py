"""What simulations have found, each as a scenario of its own."""

import asyncio
import contextlib

import pytest

import amino
from amino.contracts.documents import GroupDocument, decode
from amino.contracts.services import GroupLocation, Location, PauseRequest, home_of
from amino.dm import (
    DHT,
    AtLeastOnceRPC,
    ConsensusRSM,
    ExplicitCheckpoint,
    ExplicitMigration,
    PeriodicCheckpoint,
    SerializableRPC,
)
from amino.errors import Conflict, CoordinationUnavailable, OutcomeUnknown, StateLost, StoreFailed
from amino.rpc.handshake import NodeInfo
from amino.testing.simulation import simulate
from amino.testing.simulation.checks import Watchtower
from amino.wire.frames import FrameKind
from tests.simulation.services import Counter, Visits

SPEC = amino.spec(Counter, name="hits", dms=[AtLeastOnceRPC(), PeriodicCheckpoint(every=1), SerializableRPC()])


def test_a_client_calls_a_live_server_again_once_a_stale_list_is_corrected():
    """Seed 2 of the first sample: a server with a stale list told a client that another was lost, and it believed it for good."""

    async def main(cluster):
        client = cluster.client()
        counter = await amino.aio(client.cluster.new)(SPEC)
        await amino.aio(counter.add)()
        (host,) = [server for server in cluster.servers.values() if len(server.kernel.server.host)]
        key = cluster.keys.server(host.name)
        for server in cluster.servers.values():
            directory = server.kernel.server.oms.directory
            record = directory.servers_cache.get(key)
            server.kernel.process.run(directory._server_changed, key, None, record)
        await cluster.until(lambda: client.runtime.addresses.is_lost(host.name, host.kernel.incarnation), 2.0)
        for server in cluster.servers.values():
            directory = server.kernel.server.oms.directory
            record = directory.servers_cache.get(key)
            server.kernel.process.run(directory._server_changed, key, record, None)
        with amino.deadline(3.0):
            assert await amino.aio(counter.add)() == 2
        assert not client.runtime.addresses.is_lost(host.name, host.kernel.incarnation)

    simulate(main, 2)


def test_a_machine_that_came_back_resets_connections_it_does_not_know():
    """A frame on a connection of a process that is gone is answered by a reset once its machine is up again."""

    async def main(cluster):
        transport = cluster.network.transport(NodeInfo("probe", "client"))
        machine = cluster.servers["s1"]
        peer = await transport.peer(machine.address, timeout_s=1.0)
        assert peer.name == "s1"
        machine.crash_machine(silent=True)
        await asyncio.sleep(5.0)
        machine.start()
        await cluster.wait_serving(30.0, "s1")
        at = cluster.loop.now
        with pytest.raises(OutcomeUnknown):
            await transport.request(machine.address, FrameKind.SYSTEM, b"", timeout_s=20.0)
        await transport.aclose()
        return cluster.loop.now - at

    assert simulate(main, 3) < 1.0


class _Late:
    """A session that is valid, only that the reply of the next call has to wait."""

    def __init__(self, real):
        self.real = real
        self.asked = 0
        self.waiting = asyncio.Event()
        self.go_on = asyncio.Event()

    def valid(self):
        self.asked += 1
        return self.asked != 2 and self.real.valid()

    async def wait_valid(self, hold_s):
        self.waiting.set()
        await self.go_on.wait()
        return self.real.valid()


def test_a_reply_that_waited_for_the_session_is_not_released_after_a_move():
    """Seed 29 of the 500: a reply held while the session was in doubt left the source after the move had been carried out."""

    async def main(cluster):
        tower = Watchtower(cluster)
        client = cluster.client()
        counter = await amino.aio(client.cluster.new)(SPEC)
        (host,) = [server for server in cluster.servers.values() if len(server.kernel.server.host)]
        dispatcher = host.kernel.server.dispatcher
        late = dispatcher._validity = _Late(dispatcher._validity)
        call = client.spawn(amino.aio(counter.add)())
        await late.waiting.wait()
        moved_to = await amino.aio(cluster.client("administrator").cluster.move)("hits")
        assert moved_to != host.name
        late.go_on.set()
        assert await call == 1
        assert await amino.aio(counter.get)() == 1
        assert tower.findings == []

    simulate(main, 29)


def test_what_a_move_carries_is_not_taken_for_checkpointed():
    """Seed 180 of the 500: calls that ran without a checkpoint were answered after a move, and lost with the next server."""

    async def main(cluster):
        client = cluster.client()
        counter = await amino.aio(client.cluster.new)(SPEC)
        (host,) = [server for server in cluster.servers.values() if len(server.kernel.server.host)]
        runtime, target = client.runtime, counter._amino_target

        def add(attempt):
            caller = ("someone", 1, 1, attempt, 0.0)
            return runtime.invoke_for(target, "add", (), {}, timeout_s=5.0, caller=caller, traceparent=None)

        host.kernel.access.down = True
        with pytest.raises(StoreFailed):
            await add(0)
        moved_to = await amino.aio(client.cluster.move)("hits")
        assert await add(1) == 1  # acknowledged: it must not be lost from now on
        cluster.servers[moved_to].crash()
        assert await amino.aio(counter.get)() == 1

    simulate(main, 180)


def test_a_name_is_free_for_everyone_once_its_deletion_is_acknowledged():
    """Seed 226 of the 500: get_or_create through another server returned what had just been deleted."""

    async def main(cluster):
        clients = [cluster.client(f"c{number}") for number in range(3)]
        for client, server in zip(clients, cluster.servers.values(), strict=True):
            client.runtime.addresses.prefer(server.address)
        for server in cluster.servers.values():
            store = server.kernel.store
            store.faults.watch_delay_s = lambda: 0.5  # all servers hear late of the deletion
        first = await amino.aio(clients[0].cluster.get_or_create)(SPEC)
        for client in clients:
            assert await amino.aio(client.cluster.get_or_create)(SPEC) == first
        await amino.aio(clients[0].cluster.delete)(first)
        again = await asyncio.gather(*(amino.aio(client.cluster.get_or_create)(SPEC) for client in clients))
        assert len(set(again)) == 1
        assert again[0] != first
        assert await amino.aio(again[0].add)() == 1

    simulate(main, 226)


def test_a_server_that_does_not_see_itself_tells_nobody_who_lives():
    """Seed 8 of the sample: a server took itself for lost and told its clients, who left it and never heard the correction."""

    async def main(cluster):
        client = cluster.client()
        counter = await amino.aio(client.cluster.new)(SPEC)
        (host,) = [server for server in cluster.servers.values() if len(server.kernel.server.host)]
        directory, key = host.kernel.server.oms.directory, cluster.keys.server(host.name)
        record = directory.servers_cache.get(key)
        host.kernel.process.run(directory._server_changed, key, None, record)
        await asyncio.sleep(1.0)
        assert not client.runtime.addresses.is_lost(host.name, host.kernel.incarnation)
        with amino.deadline(1.0):
            assert await amino.aio(counter.add)() == 1

    simulate(main, 8)


def test_a_sharded_microservice_whose_shards_are_all_lost_says_so():
    """Seed 4 of dht-replicated: with every shard lost, calls were told that it was being placed, for ever."""

    async def main(cluster):
        client = cluster.client()
        spec = amino.spec(Visits, name="visits", dms=[DHT(shards=2)])
        visits = await amino.aio(client.cluster.new)(spec)
        assert await amino.aio(visits.count)("here") == 1
        for server in cluster.servers.values():
            server.crash()
        await cluster.wait_serving()
        with amino.deadline(10.0), pytest.raises(StateLost):
            await amino.aio(visits.count)("here")
        with amino.deadline(10.0), pytest.raises(StateLost):
            await amino.aio(cluster.client("another").cluster.bind(visits).known)()

    simulate(main, 4)


def test_shards_made_again_have_names_that_were_never_used():
    """Seed 1 of live-change: shards made after a change to one object and back had the paths and epochs of earlier ones."""

    async def main(cluster):
        client = cluster.client()
        change = amino.aio(client.cluster.apply)
        visits = await amino.aio(client.cluster.new)(amino.spec(Visits, name="visits", dms=[DHT(shards=3)]))
        seen = set()
        for _ in range(2):
            found = await amino.aio(client.cluster.describe)("visits")
            paths = {path for path in found.groups if path != "/"}
            assert not seen & paths
            seen |= paths
            await change(amino.spec(Visits, name="visits"))
            await change(amino.spec(Visits, name="visits", dms=[DHT(shards=3)]))
        assert await amino.aio(visits.count)("here") == 1

    simulate(main, 1)


def test_a_handle_is_given_on_a_loop_after_the_object_was_lost_from_sight():
    """Seed 45 of explicit-checkpoint: amino.control raised RuntimeError on a loop once a failover had undone the location."""

    async def main(cluster):
        client = cluster.client()
        spec = amino.spec(Counter, name="hits", dms=[AtLeastOnceRPC(), ExplicitCheckpoint()])
        counter = await amino.aio(client.cluster.new)(spec)
        await amino.aio(counter.add)()
        counter._amino_target.location = None
        assert await amino.aio(amino.control(counter, ExplicitCheckpoint).checkpoint)() == 1
        unknown = cluster.client("another").cluster.bind(counter)
        with pytest.raises(amino.Invalid, match="await a method of it first"):
            amino.control(unknown, ExplicitCheckpoint)

    simulate(main, 45)


def test_moving_by_a_handle_ends_at_the_deadline():
    """Seed 11 of migrating: ExplicitMigration took 10 s under a deadline of 8 s."""

    async def main(cluster):
        client = cluster.client()
        spec = amino.spec(Counter, name="hits", dms=[ExplicitMigration()])
        counter = await amino.aio(client.cluster.new)(spec)
        control = amino.control(counter, ExplicitMigration)
        (other, *_) = [name for name, server in cluster.servers.items() if not len(server.kernel.server.host)]
        cluster.etcd.stop_serving()
        at = cluster.loop.now
        with amino.deadline(2.0), pytest.raises(amino.AminoError):
            await amino.aio(control.migrate_to)(other)
        cluster.etcd.resume_serving()
        return cluster.loop.now - at

    assert simulate(main, 11) < 2.5


def test_a_move_to_a_server_that_is_lost_at_once_is_of_unknown_outcome():
    """Seed 26 of migrating: the answer to a move named no server any more, and the caller got an IndexError."""
    location = Location("ms", SPEC.document, {"/": GroupLocation(2, ())})
    with pytest.raises(OutcomeUnknown, match="is lost already"):
        home_of(location)


def test_scaling_while_the_cluster_is_paused_ends_at_its_time_out():
    """Seed 5 of dht-replicated: the slot leader asked itself for ever, without a pause, whether the shards were there yet."""

    async def main(cluster):
        client = cluster.client()
        visits = await amino.aio(client.cluster.new)(amino.spec(Visits, name="visits", dms=[DHT(shards=1)]))
        await client.runtime.registry.call("pause", PauseRequest(paused=True), timeout_s=5.0)
        steps = cluster.loop.steps
        with pytest.raises(OutcomeUnknown):
            await amino.aio(client.cluster.scale)(visits, shards=2, timeout_s=3.0)
        assert cluster.loop.steps - steps < 5000
        await client.runtime.registry.call("pause", PauseRequest(paused=False), timeout_s=5.0)
        await amino.aio(client.cluster.scale)(visits, shards=2, timeout_s=20.0)
        assert await amino.aio(visits.count)("here") == 1

    simulate(main, 5)


class _AnswerLost:
    """A writer whose first write is done, without an answer, when the session begins to be in doubt for two seconds."""

    def __init__(self, confirmer, loop):
        self.real, self.loop, self.until = confirmer._writer, loop, None
        confirmer._writer, confirmer._valid = self, lambda: self.until is None or loop.now >= self.until

    async def write(self, compares, then):
        result = await self.real.write(compares, then)
        if self.until is None:
            self.until = self.loop.now + 2.0
            raise CoordinationUnavailable("no answer")
        return result


def test_a_placement_of_unknown_outcome_is_settled_once_the_session_is_valid_again():
    """Seed 20 of dht-replicated: a server gave up a replica whose confirmation had landed, and lived: a group without a primary."""

    async def main(cluster):
        for server in cluster.servers.values():
            _AnswerLost(server.kernel.server._confirmer, cluster.loop)
        client = cluster.client()
        spec = amino.spec(Visits, name="visits", dms=[AtLeastOnceRPC(), DHT(shards=1), ConsensusRSM()])
        visits = await amino.aio(client.cluster.new)(spec)
        with amino.deadline(20.0):
            assert await amino.aio(visits.count)("here") == 1

    simulate(main, 20)


def test_a_replicated_group_goes_on_after_a_change_of_managers_was_given_up():
    """Seed 32 of live-change: the primary took the document of the change given up for its dismissal, and nobody served."""

    async def main(cluster):
        client = cluster.client()
        chain = [AtLeastOnceRPC(), ConsensusRSM()]
        counter = await amino.aio(client.cluster.new)(amino.spec(Counter, name="hits", dms=chain))
        assert await amino.aio(counter.add)() == 1
        for server in cluster.servers.values():
            server.kernel.access.down = True
        with pytest.raises(StoreFailed):
            await amino.aio(client.cluster.apply)(
                amino.spec(Counter, name="hits", dms=[*chain, PeriodicCheckpoint(every=1)])
            )
        with amino.deadline(5.0):
            assert await amino.aio(counter.add)() == 2
        replicas = (await amino.aio(client.cluster.describe)("hits")).groups["/"].replicas
        assert len([one for one in replicas if one.confirmed]) == 3

    simulate(main, 32)


def test_scaling_that_is_overtaken_ends():
    """Seed 1091 of dht-replicated: a slot leader waited without a pause for a number of shards that nobody wanted any more."""

    async def main(cluster):
        client = cluster.client()
        visits = await amino.aio(client.cluster.new)(amino.spec(Visits, name="visits", dms=[DHT(shards=1)]))
        scale = amino.aio(client.cluster.scale)
        ended = await asyncio.gather(
            *(scale(visits, shards=shards, timeout_s=20.0) for shards in (4, 2)), return_exceptions=True
        )
        assert {type(one) for one in ended} <= {type(None), Conflict}
        found = (await amino.aio(client.cluster.describe)("visits")).groups["/"]
        assert len(found.children) == found.wanted

    simulate(main, 1091)


def _lose_first_of(cluster, path):
    """Switch off the machine of a shard's only replica as soon as that is confirmed, once; returns what was switched off."""
    lost = []

    def committed(_revision, events):
        for event in events:
            key = event.record.key
            if lost or not event.record.value or not key.startswith(cluster.keys.groups_prefix):
                continue
            document = decode(event.record.value, GroupDocument, key)
            if cluster.keys.parse_group(key).path == path and document.constructed:
                lost.append(cluster.servers[document.replicas[0].server])
                lost[0].crash_machine()

    cluster.etcd.on_commit.append(committed)
    return lost


def test_a_shard_that_is_lost_before_it_has_a_key_is_made_again():
    """A shard added under ConsensusRSM lost its only replica before the second had joined, and the change never ended."""

    async def main(cluster):
        client = cluster.client()
        chain = [AtLeastOnceRPC(), DHT(shards=1), ConsensusRSM()]
        visits = await amino.aio(client.cluster.new)(amino.spec(Visits, name="visits", dms=chain))
        with amino.deadline(20.0):
            for number in range(20):
                await amino.aio(visits.count)(f"key{number}")
        lost = _lose_first_of(cluster, "/1")
        with contextlib.suppress(OutcomeUnknown):  # who was asked may be who is lost
            await amino.aio(client.cluster.scale)(visits, shards=2, timeout_s=10.0)
        await asyncio.sleep(10.0)
        assert len(lost) == 1
        found = (await amino.aio(client.cluster.describe)("visits")).groups
        assert set(found) == {"/", "/0", "/2"}  # names are never used again
        assert found["/"].children == ("0", "2")
        with amino.deadline(20.0):
            for number in range(20):
                assert await amino.aio(visits.count)(f"key{number}") == 2

    simulate(main, 40)


def test_a_subscriber_outlives_a_checkpoint_store_that_fails():
    """Reads wait for what is durable; one that is refused for a while is asked again, and the iteration goes on."""

    async def main(cluster):
        client, other = cluster.client(), cluster.client("other")
        spec = amino.spec(Herald, name="herald", dms=[AtLeastOnceRPC(), PeriodicCheckpoint(every=1)])
        herald = await amino.aio(client.cluster.new)(spec)
        (host,) = [server for server in cluster.servers.values() if len(server.kernel.server.host)]
        heard = []

        async def listen():
            async with other.cluster.subscribe(other.cluster.bind(herald), after="oldest") as events:
                async for event in events:
                    heard.append(event.payload)  # noqa: PERF401 - it never ends

        listening = other.spawn(listen(), "listen")
        await amino.aio(herald.tell)("first")
        host.kernel.access.down = True
        for _ in range(3):
            with pytest.raises(StoreFailed):
                await amino.aio(herald.tell)("second")
            await asyncio.sleep(6.0)
        host.kernel.access.down = False
        await amino.aio(herald.tell)("third")
        await asyncio.sleep(2.0)
        assert not listening.done()
        assert heard == ["first", *["second"] * 3, "third"]
        listening.cancel()

    simulate(main, 22)


class Herald:
    """Tells events."""

    def tell(self, what):
        """Tell."""
        amino.emit("told", what)


def test_a_broadcast_reaches_shards_that_its_caller_has_not_heard_of():
    """Seed 5081 of three loads: a server whose watch had lost an event hid a shard from clients for as long as that lasted."""

    async def main(cluster):
        client = cluster.client()
        visits = await amino.aio(client.cluster.new)(amino.spec(Visits, name="visits", dms=[DHT(shards=2)]))
        target = visits._amino_target
        pages = [str(number) for number in range(40)]
        for page in pages:
            await amino.aio(visits.count)(page)
        before = target.location
        await amino.aio(client.cluster.scale)(visits, shards=4)
        target.location = before
        assert await amino.aio(visits.known)() == len(pages)
        assert len(target.location.groups["/"].children) == 4

    simulate(main, 14)
