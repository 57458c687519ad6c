"""One simulated client process, connected as ``amino.connect`` connects a real one.

Owns composing the client's parts over the memory transport and following membership. Leaves calls to ``stubs``.
Invariants: deterministic for a seed: ids and jitter come from it.
Failure behaviour: as of a real connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from amino.code.bundle import ClassCode
from amino.dm.transactions.distributed import DistributedTransaction
from amino.node.following import Following
from amino.node.kernel_server import compose
from amino.rpc.handshake import NodeInfo
from amino.stubs.addresses import AddressBook
from amino.stubs.cluster import Cluster
from amino.stubs.registry_client import RegistryClient
from amino.stubs.runtime import Runtime
from amino.testing.simulation.loop import VirtualClock

if TYPE_CHECKING:
    from amino.testing.simulation.cluster import SimulatedCluster

T = TypeVar("T")


def by_path(cls: type) -> ClassCode:
    """Name a class by its import path, as servers of a simulation load it."""
    return ClassCode(f"{cls.__module__}:{cls.__qualname__}")


class SimulatedClient:
    """A client process.

    Attributes:
        cluster: the connection, as ``amino.connect`` returns it.
        process: to be frozen, killed, or to run things in. frozen_s: how long it has stood still in its life.
    """

    def __init__(self, world: SimulatedCluster, name: str) -> None:
        self.name = name
        self.frozen_s = 0.0
        self._frozen_at = 0.0
        self.process = world.loop.process(name)
        self._world = world
        self._network = world.network
        clock = VirtualClock(world.loop)
        self._transport = self.process.run(world.network.transport, NodeInfo(name, "client"))
        self._addresses = AddressBook(
            [server.address for server in world.servers.values()],
            lambda address: self._transport.drop(address, "it left the cluster"),
        )
        self.runtime = Runtime(
            client_id=name,
            transport=self._transport,
            addresses=self._addresses,
            registry=RegistryClient(self._transport, self._addresses, clock),
            compose=compose,
            describe_class=by_path,
            clock=clock,
            telemetry=world.telemetry,
            transaction=DistributedTransaction,
            seed=world.random_for(f"client {name}").getrandbits(63),
        )
        self.cluster = Cluster(self.runtime)
        self.process.spawn(Following(self._transport, self._addresses).run(), "membership")

    def __repr__(self) -> str:
        return f"SimulatedClient({self.name}, {self.process.state.value})"

    def spawn(self, coroutine: Coroutine[Any, Any, T], name: str = "") -> asyncio.Task[T]:
        """Run ``coroutine`` as this process."""
        return self.process.spawn(coroutine, name)

    def freeze(self) -> None:
        """Stop the process."""
        if self.process.running:
            self._frozen_at = self._world.loop.now
            self.process.freeze()
            self._network.freeze(self.name)

    def thaw(self) -> None:
        """Let it run on."""
        if self.process.frozen:
            self.frozen_s += self._world.loop.now - self._frozen_at
            self.process.thaw()
            self._network.thaw(self.name)

    def kill(self) -> None:
        """End the process."""
        self.process.kill()
        self._network.kill(self.name)
