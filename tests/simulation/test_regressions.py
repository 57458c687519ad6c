"""What simulations have found, each as a scenario of its own."""

import asyncio

import pytest

import amino
from amino.dm import AtLeastOnceRPC, PeriodicCheckpoint, SerializableRPC
from amino.errors import OutcomeUnknown, StoreFailed
from amino.rpc.handshake import NodeInfo
from amino.testing.simulation import simulate
from amino.testing.simulation.checks import Watchtower
from amino.wire.frames import FrameKind
from tests.simulation.services import Counter

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
