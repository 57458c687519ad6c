"""``SimulatedCluster``: kernel servers, supervisors, etcd, network and clients in one process, on virtual time.

Owns composing them over the memory adapters, and seeds: everything random in a simulation comes from one. Leaves what goes
wrong to ``faults`` or to the test.
Invariants: one seed and one test make one history, however often and wherever it runs; nothing survives ``aclose``.
Failure behaviour: as of a real cluster, hours of it in seconds.
"""

from __future__ import annotations

import asyncio
import contextvars
import random as random_module
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, Self, TypeVar

from amino.contracts.documents import ClusterDocument, encode
from amino.coordination.keys import Keys
from amino.coordination.memory import Faults
from amino.coordination.memory_etcd import MemoryEtcd
from amino.coordination.store import Event, Put
from amino.errors import ClusterUnavailable
from amino.rpc.memory import MemoryNetwork
from amino.telemetry.trace import Telemetry
from amino.testing.simulation.checkpoints import SimulatedCheckpoints
from amino.testing.simulation.client import SimulatedClient
from amino.testing.simulation.device import SimulatedDevice
from amino.testing.simulation.loop import VirtualClock, VirtualLoop, run_virtual
from amino.testing.simulation.server import SimulatedServer

if TYPE_CHECKING:
    from amino.rpc.port import Inbound
    from amino.testing.simulation.kernel import Kernel, SimulatedHost

T = TypeVar("T")
OnCommit = Callable[[int, tuple[Event, ...]], None]
OnCall = Callable[["Kernel", "Inbound"], None]


class WatchedEtcd(MemoryEtcd):
    """An etcd that tells of every change at the instant it is made: the truth that checks compare with."""

    def __init__(self, clock: VirtualClock, *, expiry_lag_s: float) -> None:
        super().__init__(clock, expiry_lag_s=expiry_lag_s)
        self.on_commit: list[OnCommit] = []

    def _commit(self, events: list[Event]) -> None:
        super()._commit(events)
        if events:
            for observer in self.on_commit:
                observer(self._revision, tuple(events))


class SimulatedCluster:
    """A whole cluster; make it within ``simulate``, or as an async context manager on a ``VirtualLoop``.

    Args:
        loop: the virtual loop it runs on.
        seed: of everything random.
        servers: how many, named ``s1`` and so on; or their labels by name.
        session_ttl_s: lease time of the servers' sessions.
        delay_s: shortest and longest journey of a frame between processes.
        etcd_delay_s: shortest and longest journey to etcd and back, each way.
        telemetry: of all servers and clients; its own clock is the machine's, what is told afterwards is in virtual time.

    Attributes:
        servers: the machines, by name. devices: as far as there are any. etcd, network, checkpoints: what they share; break them at will.
        on_reply: called with (kernel, request) whenever a reply to a call leaves a server. on_call: whenever a call arrives.
    """

    def __init__(
        self,
        loop: VirtualLoop,
        seed: int = 0,
        *,
        servers: int | Mapping[str, Mapping[str, str]] = 3,
        session_ttl_s: int = 3,
        delay_s: tuple[float, float] = (0.0001, 0.001),
        etcd_delay_s: tuple[float, float] = (0.0002, 0.002),
        telemetry: Telemetry | None = None,
    ) -> None:
        self.telemetry = telemetry or Telemetry.disabled()
        self.loop = loop
        self.seed = seed
        self.name = "simulated"
        self.keys = Keys(self.name)
        self.ttl_s = session_ttl_s
        self.clock = VirtualClock(loop)
        self.etcd = WatchedEtcd(self.clock, expiry_lag_s=0.4)
        self.network = MemoryNetwork(self.random_for("network").getrandbits(63), cluster=self.name, delay_s=delay_s)
        self.checkpoints = SimulatedCheckpoints(self.clock.wall)
        self.on_reply: list[OnCall] = []
        self.on_call: list[OnCall] = []
        self.clients: dict[str, SimulatedClient] = {}
        self.devices: dict[str, SimulatedDevice] = {}
        self._etcd_delay_s = etcd_delay_s
        named = {f"s{number}": {} for number in range(1, servers + 1)} if isinstance(servers, int) else servers
        self.servers = {name: SimulatedServer(self, name, dict(labels)) for name, labels in named.items()}

    def __repr__(self) -> str:
        return f"SimulatedCluster(seed {self.seed}, {self.loop.now:.3f} s, {list(self.servers.values())})"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    async def start(self, timeout_s: float = 30.0) -> None:
        """Start all servers and wait until they serve."""
        self.etcd.txn([], [Put(self.keys.cluster, encode(ClusterDocument(hash_seed=1)))], [])
        for server in self.servers.values():
            server.start()
        await self.wait_serving(timeout_s)

    async def wait_serving(self, timeout_s: float = 30.0, *names: str) -> None:
        """Wait until these servers (default: all) serve. Raises ``ClusterUnavailable`` if that takes too long."""
        wanted = names or tuple(self.servers)
        await self.until(lambda: all(self.servers[name].serves for name in wanted), timeout_s, "all servers serve")

    async def until(self, predicate: Callable[[], bool], timeout_s: float, what: str = "a condition holds") -> None:
        """Wait until ``predicate()`` holds. Raises ``ClusterUnavailable`` if it does not within ``timeout_s`` seconds."""
        end = self.loop.now + timeout_s
        while not predicate():
            if self.loop.now >= end:
                raise ClusterUnavailable(
                    f"after {timeout_s:g} simulated seconds it does not hold that {what}: {self!r}"
                )
            await asyncio.sleep(0.01)

    def client(self, name: str = "") -> SimulatedClient:
        """Return a client process of that name, made on first use."""
        name = name or f"client{len(self.clients) + 1}"
        found = self.clients.get(name)
        if found is None:
            found = self.clients[name] = SimulatedClient(self, name)
        return found

    def device(self, name: str) -> SimulatedDevice:
        """Return the device of that name, made on first use; it is off until it is started."""
        if name not in self.devices:
            self.devices[name] = SimulatedDevice(self, name)
        return self.devices[name]

    def hosts(self) -> dict[str, SimulatedHost]:
        """Return what should have a kernel process now: the servers, and the devices that are on."""
        return {**self.servers, **{name: device for name, device in self.devices.items() if device.is_on}}

    def random_for(self, purpose: str) -> random_module.Random:
        """Return a source of randomness that depends on the seed and the purpose only."""
        return random_module.Random(f"{self.seed}/{purpose}")

    def new_faults(self, name: str) -> Faults:
        """Return the ordinary delays between the process ``name`` and etcd."""
        random = self.random_for(f"etcd of {name}")
        low, high = self._etcd_delay_s

        def delay() -> float:
            return low + (high - low) * random.random()

        return Faults(request_delay_s=delay, answer_delay_s=delay, watch_delay_s=delay)

    def later(self, delay_s: float, act: Callable[[], object]) -> None:
        """Do ``act`` after ``delay_s`` seconds, whatever becomes of any process."""
        self.loop.call_later(delay_s, act, context=contextvars.Context())

    async def aclose(self) -> None:
        """Switch everything off."""
        for client in self.clients.values():
            client.kill()
        for device in self.devices.values():
            device.kill()
        for server in self.servers.values():
            server.crash_machine()


def simulate(main: Callable[[SimulatedCluster], Awaitable[T]], seed: int = 0, **options: Any) -> T:
    """Run ``main(cluster)`` with a started ``SimulatedCluster``, in virtual time, and end everything afterwards.

    Args:
        main: the test. seed: of the simulation. options: of ``SimulatedCluster``.
    """

    def whole(loop: VirtualLoop) -> Coroutine[Any, Any, T]:
        async def run() -> T:
            async with SimulatedCluster(loop, seed, **options) as cluster:
                return await main(cluster)

        return run()

    return run_virtual(whole)
