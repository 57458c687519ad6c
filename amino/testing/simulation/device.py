"""One simulated device: a client process that hosts replicas, with the real life of a device on simulated parts.

Owns the process, its client and what can be done to it. Leaves sessions, leaving and new incarnations to ``node.device_life``, the
kernel server to ``kernel``.
Invariants: as of a real one: client and kernel server live and die together; nobody watches the process, so one that is killed
is lost when its session has run out.
Failure behaviour: as of a real one; a device that cannot join is tried again, as its user would.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from typing import TYPE_CHECKING

from amino.errors import AminoError, CoordinationUnavailable
from amino.node.adapters import Beside
from amino.node.child import Addresses
from amino.node.device import Device
from amino.node.device_life import DeviceLife, Parts
from amino.testing.simulation.client import SimulatedClient
from amino.testing.simulation.kernel import Kernel, SimulatedHost

if TYPE_CHECKING:
    from collections.abc import Callable

    from amino.coordination.memory import MemoryStore
    from amino.coordination.session import SessionView
    from amino.stubs.ports import Local
    from amino.testing.simulation.cluster import SimulatedCluster

DRAIN_S = 5.0
CLOSE_S = 5.0
RETRY_S = 0.5


class SimulatedDevice(SimulatedHost):
    """A device of a ``SimulatedCluster``, off until it is started, and what can be done to it.

    Attributes:
        client: its present client, None before the first start. on_started: called with each new one.
    """

    store_id = ""

    def __init__(self, cluster: SimulatedCluster, name: str) -> None:
        super().__init__(cluster, name, {"device": name})
        self.client: SimulatedClient | None = None
        self.on_started: list[Callable[[SimulatedClient], None]] = []
        self._numbers = itertools.count(1)
        self._life: DeviceLife | None = None
        self._stop: Callable[[str], None] = lambda _: None

    @property
    def is_on(self) -> bool:
        """Whether its process is there."""
        return self.client is not None and not self.client.process.dead

    def start(self) -> None:
        """Start the program: a new client, which joins as a device. Does nothing while it is on."""
        if self.is_on:
            return
        client = self.client = SimulatedClient(self.cluster, f"{self.name}.{next(self._numbers)}")
        client.spawn(self._live(client), "device")
        for told in self.on_started:
            told(client)

    def leave(self) -> None:
        """Have the program end in order: it hands its replicas over first."""
        if self.client is not None and self._life is not None:
            self.client.process.call_soon(self._life.leave_nowait, True)

    def kill(self, *, silent: bool = False) -> None:
        """Kill the program. ``silent``: its machine is gone, too, and its peers hear nothing."""
        if self.client is None or not self.is_on:
            return
        self.client.process.kill()
        for store in self.stores:
            store.abandon()
        self.stores.clear()
        for node in (self.client.name, self.name):
            self.cluster.network.kill(node, silent=silent)

    def freeze(self) -> None:
        """Stop the program, as SIGSTOP does."""
        if self.client is not None and self.client.process.running:
            self.client.freeze()
            self.cluster.network.freeze(self.name)

    def thaw(self) -> None:
        """Let it run on."""
        if self.client is not None and self.client.process.frozen:
            self.client.thaw()
            self.cluster.network.thaw(self.name)

    def kernel_stops(self, why: str) -> None:
        """Its present incarnation is over."""
        self._stop(why)

    async def _live(self, client: SimulatedClient) -> None:
        said = Device(
            name=self.name,
            labels={"host": self.name},
            session_ttl_s=self.cluster.ttl_s,
            drain_timeout_s=DRAIN_S,
        )
        config = said.config(self.cluster.name, None, insecure=False)

        async def open_store() -> MemoryStore:
            return self.new_store(f"{self.name} session", config.session.request_timeout_s)

        def node(stop_now: Callable[[str], None]) -> _Node:
            self._stop = stop_now
            self.kernel = Kernel(self, next(self._numbers), client.process)
            return _Node(self, self.kernel)

        while True:
            parts = Parts(self.clock, open_store, node)
            self._life = DeviceLife(config, parts, client.runtime.live_beside, lambda: None)
            try:
                await self._life.run()
                break
            except AminoError:
                await asyncio.sleep(RETRY_S)
        self.cluster.later(0.0, self.kill)


class _Node:
    """Implements ``device_life.DeviceNode``."""

    def __init__(self, device: SimulatedDevice, kernel: Kernel) -> None:
        self.loop: asyncio.AbstractEventLoop = device.cluster.loop
        self._device = device
        self._kernel = kernel

    async def bind(self) -> Addresses:
        await self._kernel.start(lambda: None)
        return Addresses(self._device.address, started_at=self._device.clock.wall())

    async def serve(self, incarnation: int, lease: int, session: SessionView) -> None:
        await self._kernel.serve(incarnation, lease, lambda: None, session)
        if self._kernel.server is None:
            raise CoordinationUnavailable("etcd did not answer")

    def beside(self) -> Local:
        assert self._kernel.server is not None, "it serves"
        return Beside(self._kernel.server, self.loop)

    async def drain(self) -> tuple[int, tuple[str, ...]]:
        server = self._kernel.server
        return await server.drain() if server is not None else (0, ())

    async def fence(self) -> None:
        await self._kernel.close_links()

    async def aclose(self) -> None:
        server, self._kernel.server = self._kernel.server, None
        if server is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_S):
                    await server.aclose()
        await self._kernel.close_links()
        await self._kernel.store.aclose()
        if self._kernel.store in self._device.stores:
            self._device.stores.remove(self._kernel.store)
