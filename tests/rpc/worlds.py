"""Worlds in which the transport port's conformance suite runs: each adapter, event loop and way of calling.

Owns starting listeners and transports and checking that nothing of them is left. Leaves the promises to the tests.
"""

from __future__ import annotations

import asyncio
import functools
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import uvloop

from amino.aio.mode import drive
from amino.rpc.handshake import NodeInfo
from amino.rpc.limits import LinkLimits
from amino.rpc.memory import MemoryNetwork
from amino.rpc.peer_link import PeerListener
from amino.rpc.peer_transport import PeerTransport
from amino.rpc.port import Handler, Inbound, Reply

T = TypeVar("T")
CALL = 4
LIMITS = LinkLimits(
    frame_bytes_max=2 * 1024 * 1024,
    in_flight_max=64,
    hello_s=0.3,
    connect_s=0.5,
    linger_s=0.3,
    send_buffer_bytes_max=16 * 1024 * 1024,
)


def echo(inbound: Inbound) -> None:
    """Answer a request with itself."""
    inbound.reply(0, inbound.head, inbound.segments)


class BlockingCaller:
    """A peer transport whose requests block threads, seen from the test's loop."""

    def __init__(self, transport: PeerTransport) -> None:
        self.transport = transport

    async def request(
        self, address: str, kind: int, head: bytes, segments: Sequence[Any] = (), *, timeout_s: float
    ) -> Reply:
        call = functools.partial(self.transport.request, address, kind, head, segments, timeout_s=timeout_s)
        return await asyncio.to_thread(lambda: drive(call()))

    async def peer(self, address: str, *, timeout_s: float) -> Any:
        return await asyncio.to_thread(lambda: drive(self.transport.peer(address, timeout_s=timeout_s)))

    def drop(self, address: str, reason: str) -> None:
        self.transport.drop(address, reason)

    def announce(self, **changes: Any) -> None:
        self.transport.announce(**changes)

    async def aclose(self) -> None:
        await asyncio.to_thread(lambda: drive(self.transport.aclose()))


class World:
    """One adapter with one way of calling.

    Args:
        name: ``memory``, or ``peer`` with ``asyncio``, ``uvloop``, ``unix`` or ``blocking``.
        limits: of all links.
    """

    def __init__(self, name: str, limits: LinkLimits = LIMITS) -> None:
        self.name = name
        self.limits = limits
        self.is_memory = name == "memory"
        self.is_blocking = name == "peer-blocking"
        self._folder = tempfile.TemporaryDirectory() if name == "peer-unix" else None
        self._network: MemoryNetwork | None = None
        self._open: list[Any] = []

    def run(self, case: Callable[[], Awaitable[None]]) -> None:
        """Run ``case`` on a fresh loop; everything it started is closed, and no task may be left."""

        async def guarded() -> None:
            self._network = MemoryNetwork(1, limits=self.limits)
            asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(100))
            try:
                async with asyncio.timeout(30):
                    await case()
            finally:
                for one in reversed(self._open):
                    await one.aclose()
            left = asyncio.all_tasks() - {asyncio.current_task()}
            assert not left, f"tasks left behind: {left}"

        factory = uvloop.new_event_loop if self.name in ("peer-uvloop", "peer-blocking") else None
        try:
            with asyncio.Runner(loop_factory=factory) as runner:
                runner.run(guarded())
        finally:
            if self._folder is not None:
                self._folder.cleanup()

    async def listen(self, handler: Handler = echo, name: str = "s1", incarnation: int = 7) -> Any:
        """Start a listener of the kernel server ``name``."""
        node = NodeInfo(f"process-of-{name}", "server", name, incarnation)
        if self.is_memory:
            assert self._network is not None
            listener: Any = self._network.listen(f"{name}:7400", handler, node)
        else:
            address = "127.0.0.1:0"
            if self._folder is not None:
                address = f"unix:{Path(self._folder.name) / name}"
            listener = await PeerListener.start(
                address, handler, cluster="simulated", node_info=node, limits=self.limits
            )
        self._open.append(listener)
        return listener

    def transport(self, cluster: str = "simulated", client_id: str = "caller") -> Any:
        """Return a transport of the client ``client_id``."""
        if self.is_memory:
            assert self._network is not None
            transport: Any = self._network.transport(NodeInfo(client_id), cluster=cluster)
        else:
            transport = PeerTransport(client_id, cluster, limits=self.limits)
            if self.is_blocking:
                transport = BlockingCaller(transport)
        self._open.append(transport)
        return transport

    def closing(self, one: T) -> T:
        """Close ``one`` when the test ends, however it ends."""
        self._open.append(one)
        return one

    async def nobody(self) -> str:
        """Return an address where nobody listens."""
        listener = await self.listen(name="gone")
        await listener.aclose()
        return str(listener.address)


def in_world(case: Callable[[World], Awaitable[None]]) -> Callable[[World], None]:
    """Make an ``async def`` test of a world a plain test that runs in it."""

    @functools.wraps(case)
    def run(world: World) -> None:
        world.run(lambda: case(world))

    return run


async def until(condition: Callable[[], bool], timeout_s: float = 5.0) -> None:
    """Wait until ``condition`` holds, looking after each round of the loop."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - conditions of any object have no event
            await asyncio.sleep(0.001)
