"""What goes wrong in a simulated cluster, when: drawn from the seed.

Owns the catalogue of faults and their schedule; every fault ends by itself. Leaves how processes and networks fail to the
parts they fail in.
Invariants: the same seed causes the same trouble; after ``run`` all is healed and every machine is on.
Failure behaviour: operations of administrators that fail under faults are counted, not reported.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any

import amino
from amino.contracts.documents import ClusterDocument, decode
from amino.contracts.services import CordonRequest, DrainRequest, PauseRequest
from amino.coordination.memory import Fate, MemoryStore
from amino.coordination.store import Event
from amino.errors import AminoError

if TYPE_CHECKING:
    from amino.testing.simulation.cluster import SimulatedCluster
    from amino.testing.simulation.device import SimulatedDevice
    from amino.testing.simulation.server import SimulatedServer

PAUSE_S = (0.5, 5.0)
AT_ONCE_MAX = 2
LEAVES_WITHIN_S = 20.0
ADMINISTRATOR = "administrator"
Fault = Callable[[], Coroutine[Any, Any, None]]


class Nemesis:
    """Causes trouble.

    Attributes:
        caused: how often each fault was caused.
        kinds: the faults to choose from, with weights. pause_s: shortest and longest pause between two.
    """

    def __init__(self, cluster: SimulatedCluster) -> None:
        self.caused: Counter[str] = Counter()
        self.pause_s = PAUSE_S
        self._cluster = cluster
        self._random = cluster.random_for("faults")
        self._running: dict[asyncio.Task[None], None] = {}
        self.kinds: dict[Fault, int] = {
            self.crash_kernel: 4,
            self.crash_kernel_twice: 1,
            self.crash_supervisor: 2,
            self.lose_machine: 3,
            self.freeze_kernel: 3,
            self.freeze_machine: 4,
            self.freeze_supervisor: 1,
            self.freeze_client: 1,
            self.cut_network: 4,
            self.isolate_machine: 2,
            self.shaky_network: 2,
            self.partition_etcd: 4,
            self.lose_answers_of_etcd: 3,
            self.delay_writes: 3,
            self.slow_etcd: 2,
            self.etcd_without_majority: 2,
            self.etcd_leader_change: 2,
            self.compaction: 2,
            self.stale_members: 3,
            self.store_trouble: 2,
            self.torn_checkpoint: 2,
            self.move: 4,
            self.cordon: 1,
            self.drain: 1,
            self.pause: 1,
        }

    def allow(self, faults: Mapping[str, int]) -> None:
        """Cause these faults too, by name, with these weights."""
        for name, weight in faults.items():
            self.kinds[getattr(self, name)] = weight

    async def run(self, seconds: float) -> None:
        """Cause trouble for so long, then heal everything; returns when what was delayed has come as well."""
        end = self._cluster.loop.now + seconds
        faults, weights = list(self.kinds), list(self.kinds.values())
        while True:
            await asyncio.sleep(self._random.uniform(*self.pause_s))
            if self._cluster.loop.now >= end:
                break
            if len(self._running) >= AT_ONCE_MAX:
                continue
            fault = self._random.choices(faults, weights)[0]
            name = fault.__name__
            self.caused[name] += 1
            task: asyncio.Task[None] = asyncio.get_running_loop().create_task(fault(), name=name)
            self._running[task] = None
            task.add_done_callback(lambda ended: self._running.pop(ended, None))
        if self._running:
            await asyncio.wait(list(self._running))
        self.heal()
        while self._cluster.etcd.landing:  # noqa: ASYNC110 - the time is virtual
            await asyncio.sleep(0.1)

    async def reopen(self) -> None:
        """Undo pauses and cordons that took effect after their administrator had given up on them."""
        record = self._cluster.etcd.get(self._cluster.keys.cluster)
        assert record is not None
        document = decode(record.value, ClusterDocument)
        registry = self._cluster.client(ADMINISTRATOR).runtime.registry
        if document.paused:
            await self._administer(registry.call("pause", PauseRequest(paused=False), timeout_s=10.0))
        for server in document.cordoned:
            await self._administer(registry.call("cordon", CordonRequest(server, cordon=False), timeout_s=10.0))

    def heal(self) -> None:
        """End whatever goes wrong."""
        cluster = self._cluster
        cluster.network.loss = cluster.network.reset = 0.0
        cluster.network.heal()
        if not cluster.etcd.serving:
            cluster.etcd.resume_serving()
        for client in cluster.clients.values():
            client.thaw()
        for server in cluster.servers.values():
            server.thaw()
            server.heal_etcd()
            for store in server.stores:
                self._calm(store)
            if server.kernel is not None:
                server.kernel.access.calm()
            server.start()
        for device in cluster.devices.values():
            device.thaw()
            device.heal_etcd()
            for store in device.stores:
                self._calm(store)
            device.start()

    def _calm(self, store: MemoryStore) -> None:
        """End whatever goes wrong between a process and etcd, other faults included that are under way."""
        store.faults = self._cluster.new_faults(store.name)

    def _server(self) -> SimulatedServer:
        return self._random.choice(list(self._cluster.servers.values()))

    def _length(self) -> float:
        """Return how long a fault lasts: often shorter than a lease, often longer."""
        ttl_s = self._cluster.ttl_s
        return self._random.choice(
            (
                self._random.uniform(0.05, ttl_s / 2),
                self._random.uniform(ttl_s / 2, 1.2 * ttl_s),
                self._random.uniform(ttl_s, 3 * ttl_s),
            )
        )

    # --- processes --------------------------------------------------------------------------------------------------

    async def crash_kernel(self) -> None:
        """A kernel process dies."""
        self._server().crash()

    async def crash_kernel_twice(self) -> None:
        """It dies again right after its next start."""
        server = self._server()
        server.crash()
        await asyncio.sleep(self._random.uniform(0.1, 1.0))
        server.crash()

    async def crash_supervisor(self) -> None:
        """A supervisor dies, and is started again."""
        server = self._server()
        server.crash_supervisor()
        await asyncio.sleep(self._random.uniform(0.1, 3.0))
        server.start()

    async def lose_machine(self) -> None:
        """A machine is off for a while."""
        server = self._server()
        server.crash_machine(silent=self._random.random() < 0.7)
        await asyncio.sleep(self._length())
        server.start()

    async def freeze_kernel(self) -> None:
        """A kernel process stands still."""
        await self._freeze(supervisor=False, kernel=True)

    async def freeze_machine(self) -> None:
        """Both processes of a machine stand still."""
        await self._freeze(supervisor=True, kernel=True)

    async def freeze_supervisor(self) -> None:
        """A supervisor stands still; nobody renews the session."""
        await self._freeze(supervisor=True, kernel=False)

    async def _freeze(self, *, supervisor: bool, kernel: bool) -> None:
        server = self._server()
        server.freeze(supervisor=supervisor, kernel=kernel)
        await asyncio.sleep(self._length())
        server.thaw()

    async def freeze_client(self) -> None:
        """A client process stands still."""
        client = self._random.choice([c for c in self._cluster.clients.values() if c.name != ADMINISTRATOR])
        client.freeze()
        await asyncio.sleep(self._length())
        client.thaw()

    # --- network ----------------------------------------------------------------------------------------------------

    async def cut_network(self) -> None:
        """Nothing passes from one process to another, in one direction."""
        names = [*self._cluster.servers, *self._cluster.clients, *self._cluster.devices]
        source, target = self._random.sample(names, 2)
        self._cluster.network.cut(source, target)
        await asyncio.sleep(self._length())
        self._cluster.network.heal(source, target)

    async def isolate_machine(self) -> None:
        """Nobody reaches a machine, which reaches etcd."""
        server = self._server()
        others = [name for name in (*self._cluster.servers, *self._cluster.clients) if name != server.name]
        for other in others:
            self._cluster.network.cut(server.name, other)
            self._cluster.network.cut(other, server.name)
        await asyncio.sleep(self._length())
        for other in others:
            self._cluster.network.heal(server.name, other)
            self._cluster.network.heal(other, server.name)

    async def shaky_network(self) -> None:
        """Frames get lost and connections are reset."""
        network = self._cluster.network
        network.loss, network.reset = 0.002, 0.01
        await asyncio.sleep(self._length())
        network.loss = network.reset = 0.0

    # --- etcd -------------------------------------------------------------------------------------------------------

    def _stores(self, server: SimulatedServer) -> list[MemoryStore]:
        """Return the ways to etcd of all of a machine's processes, or of one."""
        if self._random.random() < 0.5 or not server.stores:
            return list(server.stores)
        return [self._random.choice(server.stores)]

    async def partition_etcd(self) -> None:
        """A machine, or one of its processes, does not reach etcd."""
        stores = self._stores(self._server())
        for store in stores:
            store.partition()
        await asyncio.sleep(self._length())
        for store in stores:
            store.heal()

    async def _spoil(self, fate: Callable[[bool], Fate]) -> None:
        stores = self._stores(self._server())
        for store in stores:
            store.faults.fate = fate
        await asyncio.sleep(self._length())
        for store in stores:
            self._calm(store)

    async def lose_answers_of_etcd(self) -> None:
        """Requests reach etcd, answers do not come back: all of them, or some."""
        share = self._random.choice((0.2, 0.5, 1.0))
        await self._spoil(lambda _: Fate.ANSWER_LOST if self._random.random() < share else Fate.ANSWERED)

    async def delay_writes(self) -> None:
        """Some writes time out and land later."""
        longest = self._random.choice((2.0, 6.0, 12.0))
        for server in self._cluster.servers.values():
            for store in server.stores:
                store.faults.land_later_s = lambda: self._random.uniform(0.1, longest)
        share = self._random.choice((0.1, 0.4))
        await self._spoil(
            lambda writes: Fate.LANDS_LATER if writes and self._random.random() < share else Fate.ANSWERED
        )

    async def slow_etcd(self) -> None:
        """Answers and watches of etcd take long at one machine."""
        stores = self._stores(self._server())
        slow_s = self._random.choice((0.05, 0.3, 0.8))
        for store in stores:
            store.faults.answer_delay_s = lambda: self._random.uniform(0.0, slow_s)
            store.faults.watch_delay_s = lambda: self._random.uniform(0.0, 5 * slow_s)
        await asyncio.sleep(self._length())
        for store in stores:
            self._calm(store)

    async def etcd_without_majority(self) -> None:
        """Nobody gets an answer from etcd; when it is back, all leases start again."""
        etcd = self._cluster.etcd
        if etcd.serving:
            etcd.stop_serving()
            await asyncio.sleep(self._length())
            etcd.resume_serving()

    async def etcd_leader_change(self) -> None:
        """Another member leads etcd, and extends all leases."""
        self._cluster.etcd.change_leader()

    async def compaction(self) -> None:
        """History is compacted while watches lose and repeat events."""
        stores = self._stores(self._server())
        for store in stores:
            store.faults.lose_event = self._sometimes(0.1)
            store.faults.duplicate_event = self._sometimes(0.2)
        await asyncio.sleep(self._length() / 2)
        self._cluster.etcd.compact(self._cluster.etcd.revision - self._random.randrange(3))
        await asyncio.sleep(self._length() / 2)
        for store in stores:
            self._calm(store)

    def _sometimes(self, share: float) -> Callable[[Event], bool]:
        return lambda _: self._random.random() < share

    async def stale_members(self) -> None:
        """One kernel server believes that a live server is gone, or does not hear of one that has come."""
        server, victim = self._server(), self._server()
        kernel = server.kernel
        if kernel is None or kernel.server is None or not kernel.process.running:
            return
        directory = kernel.server.oms.directory
        key = self._cluster.keys.server(victim.name)
        record = directory.servers_cache.get(key)
        kernel.store.faults.lose_event = lambda event: event.record.key == key
        if record is not None:
            kernel.process.run(directory._server_changed, key, None, record)  # noqa: SLF001 - the fault itself
        await asyncio.sleep(self._length())
        self._calm(kernel.store)
        while kernel.process.frozen:  # noqa: ASYNC110 - the time is virtual
            await asyncio.sleep(0.1)
        if kernel.process.running:
            now = directory.servers_cache.get(key)
            if now is not None:
                kernel.process.run(directory._server_changed, key, now, None)  # noqa: SLF001 - as above
            directory.servers_cache.relist_soon()

    # --- checkpoint store -------------------------------------------------------------------------------------------

    async def store_trouble(self) -> None:
        """The checkpoint store is slow or down, seen from one machine."""
        kernel = self._server().kernel
        if kernel is None:
            return
        if self._random.random() < 0.5:
            kernel.access.down = True
        else:
            kernel.access.slow_s = self._random.choice((0.2, 1.0, 20.0))
        await asyncio.sleep(self._length())
        kernel.access.calm()

    async def torn_checkpoint(self) -> None:
        """A kernel process dies in the middle of writing a checkpoint."""
        server = self._server()
        if server.kernel is not None:
            server.kernel.access.tear = lambda _: server.crash()

    async def torn_log(self) -> None:
        """A kernel process dies in the middle of writing a frame of an operation log, of which a part is stored."""
        server = self._server()
        if server.kernel is not None:
            server.kernel.access.tear_log = server.crash

    async def power_loss(self) -> None:
        """All machines and the checkpoint store lose power at once: what was written and not synced is lost, or spoilt."""
        servers = list(self._cluster.servers.values())
        for server in servers:
            server.crash_machine()
        self._cluster.checkpoints.lose_power(self._random)
        await asyncio.sleep(self._length())
        for server in servers:
            server.start()

    async def power_loss_in_write(self) -> None:
        """All machines lose power at the instant at which one of them writes a frame of an operation log."""
        servers, lost = list(self._cluster.servers.values()), asyncio.Event()

        def lose() -> None:
            for server in servers:
                server.crash_machine()
            self._cluster.checkpoints.lose_power(self._random)
            lost.set()

        kernels = [server.kernel for server in servers if server.kernel is not None]
        for kernel in kernels:
            kernel.access.tear_log = lose
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(lost.wait(), self._length())
        for kernel in kernels:
            kernel.access.tear_log = None
        if lost.is_set():
            await asyncio.sleep(self._length())
            for server in servers:
                server.start()

    # --- devices ----------------------------------------------------------------------------------------------------

    def _device(self) -> SimulatedDevice:
        return self._random.choice(list(self._cluster.devices.values()))

    async def kill_device(self) -> None:
        """A device is killed, and is started again."""
        device = self._device()
        device.kill(silent=self._random.random() < 0.5)
        await asyncio.sleep(self._length())
        device.start()

    async def freeze_device(self) -> None:
        """A device stands still."""
        device = self._device()
        device.freeze()
        await asyncio.sleep(self._length())
        device.thaw()

    async def partition_device(self) -> None:
        """A device does not reach etcd."""
        device = self._device()
        device.partition_etcd()
        await asyncio.sleep(self._length())
        device.heal_etcd()

    async def leave_device(self) -> None:
        """A device leaves in order, and joins again; one that does not get away is killed."""
        device = self._device()
        device.leave()
        for _ in range(int(LEAVES_WITHIN_S)):
            await asyncio.sleep(1.0)
            if not device.is_on:
                self.caused["left in order"] += 1
                break
        device.kill()
        await asyncio.sleep(self._length() / 2)
        device.start()

    # --- administrators ---------------------------------------------------------------------------------------------

    async def _administer(self, act: Awaitable[object]) -> None:
        try:
            await act
        except AminoError as error:
            self.caused[f"refused: {type(error).__name__}"] += 1

    async def move(self) -> None:
        """An administrator moves a microservice somewhere."""
        cluster = self._cluster.client(ADMINISTRATOR).cluster
        names = [record.key for record in self._cluster.etcd.list(self._cluster.keys.names_prefix)[0]]
        if names:
            name = self._cluster.keys.parse_name(self._random.choice(names))
            with amino.deadline(10.0):
                await self._administer(amino.aio(cluster.move)(name))

    async def cordon(self) -> None:
        """An administrator cordons a server for a while."""
        registry = self._cluster.client(ADMINISTRATOR).runtime.registry
        server = self._server().name
        await self._administer(registry.call("cordon", CordonRequest(server, cordon=True), timeout_s=10.0))
        await asyncio.sleep(self._length())
        for _ in range(100):
            try:
                await registry.call("cordon", CordonRequest(server, cordon=False), timeout_s=10.0)
                return
            except AminoError:
                await asyncio.sleep(0.5)

    async def drain(self) -> None:
        """An administrator drains a server."""
        registry = self._cluster.client(ADMINISTRATOR).runtime.registry
        server = self._server().name
        await self._administer(registry.call("drain", DrainRequest(server, timeout_s=5.0), timeout_s=10.0))
        for _ in range(100):
            try:
                await registry.call("cordon", CordonRequest(server, cordon=False), timeout_s=10.0)
                return
            except AminoError:
                await asyncio.sleep(0.5)

    async def pause(self) -> None:
        """Automatic recovery is off for a while."""
        registry = self._cluster.client(ADMINISTRATOR).runtime.registry
        await self._administer(registry.call("pause", PauseRequest(paused=True), timeout_s=10.0))
        await asyncio.sleep(self._length())
        for _ in range(100):
            try:
                await registry.call("pause", PauseRequest(paused=False), timeout_s=10.0)
                return
            except AminoError:
                await asyncio.sleep(0.5)
