"""A simulated machine's ways to the world, and the kernel process that runs there, again and again.

Owns the life of a kernel process from its ports to its session. Leaves who holds that session to ``server`` (a supervisor) and
``device`` (the process itself), and everything above the ports to ``node.kernel_server``.
Invariant: nothing of a kernel process outlives it.
Failure behaviour: as of a real one.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from typing import TYPE_CHECKING, Any

from amino.aio.workers import InlineWorkers
from amino.coordination.deadline import LocalDeadline
from amino.coordination.memory import MemoryStore
from amino.coordination.session import SessionView
from amino.errors import CodeUnavailable, CoordinationUnavailable, NotExecuted
from amino.node.kernel_server import KernelServer, Ports, Settings
from amino.rpc.handshake import NodeInfo
from amino.testing.simulation.checkpoints import SimulatedAccess
from amino.testing.simulation.loop import VirtualClock
from amino.wire.frames import FrameKind, Status, encode_error

if TYPE_CHECKING:
    from collections.abc import Callable

    from amino.rpc.memory import MemoryTransport
    from amino.rpc.port import Inbound
    from amino.testing.simulation.cluster import SimulatedCluster
    from amino.testing.simulation.loop import Process

START_S = (0.05, 0.3)
KERNEL_REQUEST_TIMEOUT_S = 2.0


class SimulatedHost:
    """What a machine with a kernel process is: its name, clock and ways to etcd.

    Args:
        labels: of the server; ``host`` is its name.

    Attributes:
        kernel: the newest kernel process. store_id: of the checkpoint store that it sees. stores: its ways to etcd.
    """

    store_id = "simulated"

    def __init__(self, cluster: SimulatedCluster, name: str, labels: dict[str, str]) -> None:
        self.cluster = cluster
        self.name = name
        self.address = f"{name}:7400"
        self.labels = {"host": name, **labels}
        random = cluster.random_for(f"machine {name}")
        self.clock = VirtualClock(cluster.loop, random.uniform(0, 1_000_000))
        self.stores: list[MemoryStore] = []
        self.kernel: Kernel | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name}, {self.kernel!r})"

    @property
    def serves(self) -> bool:
        """Whether its kernel process runs and serves now."""
        return self.kernel is not None and self.kernel.serves

    def new_store(self, name: str, request_timeout_s: float) -> MemoryStore:
        """Return a way to etcd for one process of this machine."""
        store = MemoryStore(
            self.cluster.etcd,
            clock=self.clock,
            name=name,
            request_timeout_s=request_timeout_s,
            faults=self.cluster.new_faults(name),
        )
        self.stores.append(store)
        return store

    def kernel_stops(self, why: str) -> None:
        """The kernel process ends itself at once."""
        raise NotImplementedError

    def partition_etcd(self) -> None:
        """Cut the machine off etcd."""
        for store in self.stores:
            store.partition()

    def heal_etcd(self) -> None:
        """Let it reach etcd again."""
        for store in self.stores:
            store.heal()


class Board:
    """What a kernel process is running (see ``node.flight_board``), kept in memory."""

    def __init__(self) -> None:
        self._running: dict[int, tuple[str, str]] = {}
        self._cells = itertools.count()

    def enter(self, microservice: str, method: str) -> int:
        """Note that a method begins."""
        cell = next(self._cells)
        self._running[cell] = (microservice, method)
        return cell

    def leave(self, cell: int) -> None:
        """Note that it ended."""
        self._running.pop(cell, None)

    def suspects(self) -> tuple[tuple[str, str], ...]:
        """Return what is running now."""
        return tuple(sorted(set(self._running.values())))


class ByPath:
    """Loads classes by import path; bundles are tested elsewhere."""

    async def load(self, cls: str, code: str = "") -> type:
        """Return the class. Raises ``CodeUnavailable``."""
        found = self.loaded(cls, code)
        if found is None:
            raise CodeUnavailable(f"simulated servers load classes by import path only, and {cls!r} is none")
        return found

    def loaded(self, cls: str, code: str = "") -> type | None:
        """Return the class if there is one of that path."""
        import importlib

        module, _, qualname = cls.partition(":")
        found: Any = None
        with contextlib.suppress(ImportError):
            found = importlib.import_module(module)
            for part in qualname.split("."):
                found = getattr(found, part, None)
        return found if isinstance(found, type) and not code else None


class Kernel:
    """One run of a kernel process.

    Args:
        process: that it is part of; default: one of its own.
    """

    def __init__(self, server: SimulatedHost, number: int, process: Process | None = None) -> None:
        cluster = server.cluster
        self.number = number
        self.process: Process = process or cluster.loop.process(f"{server.name}#{number}")
        self.word = LocalDeadline()
        self.board = Board()
        self.store = server.new_store(f"{server.name}#{number}", KERNEL_REQUEST_TIMEOUT_S)
        self.access = SimulatedAccess(cluster.checkpoints, cluster.random_for(f"{server.name}#{number} store"))
        self.incarnation = 0
        self.server: KernelServer | None = None
        self.session: SessionView | None = None
        self._owner = server
        self._transport: MemoryTransport | None = None

    def __repr__(self) -> str:
        return f"Kernel({self._owner.name}#{self.number}, incarnation {self.incarnation}, {self.process.state.value})"

    @property
    def serves(self) -> bool:
        """Whether it runs and has a session that it serves under."""
        return self.server is not None and self.process.running

    async def start(self, ready: Callable[[], None]) -> None:
        """Be the process: bind, tell the supervisor, and wait for what it says."""
        owner = self._owner
        cluster = owner.cluster
        await asyncio.sleep(cluster.random_for(f"{owner.name}#{self.number} start").uniform(*START_S))
        info = NodeInfo(f"{owner.name}#{self.number}", "server", owner.name)
        self._listener = cluster.network.listen(owner.address, self._handle, info)
        self._transport = cluster.network.transport(info)
        ready()

    async def serve(
        self, incarnation: int, lease: int, on_served: Callable[[], None], session: SessionView | None = None
    ) -> None:
        """Begin to serve under a session, by default the one whose deadline ``word`` tells."""
        owner = self._owner
        cluster = owner.cluster
        assert self._transport is not None
        self.incarnation = incarnation
        self._listener.announce(NodeInfo(f"{owner.name}#{self.number}", "server", owner.name, incarnation))
        self._transport.announce(incarnation=incarnation)
        self.session = session = session or SessionView(self.word, owner.clock, incarnation)
        server = KernelServer(
            Settings(
                cluster=cluster.name,
                name=owner.name,
                address=owner.address,
                labels=owner.labels,
                seed=cluster.random_for(f"{owner.name}#{self.number}").getrandbits(63),
            ),
            Ports(
                store=self.store,
                keys=cluster.keys,
                transport=self._transport,
                clock=owner.clock,
                board=self.board,
                telemetry=cluster.telemetry,
                access=self.access,
                store_id=owner.store_id,
                stop_now=owner.kernel_stops,
                workers=InlineWorkers(),
            ),
            session,
            lease,
            ByPath(),  # type: ignore[arg-type] # loads what the real one loads by path
        )
        while True:
            try:
                await server.start()
                break
            except CoordinationUnavailable:
                await server.aclose()
                owner.kernel_stops("etcd did not answer")
                return
        self.server = server
        on_served()

    def _handle(self, inbound: Inbound) -> None:
        server = self.server
        if server is None:
            problem = NotExecuted(f"{self._owner.name} has no session yet; ask another", reason="not-ready")
            inbound.reply(Status.ERROR, encode_error(problem))
        elif inbound.kind == FrameKind.CALL:
            for observer in self._owner.cluster.on_call:
                observer(self, inbound)
            server.handle(Observed(inbound, self))
        else:
            server.handle(inbound)

    def replied(self, inbound: Inbound, status: int) -> None:
        """A reply leaves: tell those who watch."""
        if status != Status.ERROR:
            for observer in self._owner.cluster.on_reply:
                observer(self, inbound)

    @property
    def name(self) -> str:
        """The server's name."""
        return self._owner.name

    @property
    def valid(self) -> bool:
        """Whether its session is valid, read from where the supervisor publishes it."""
        return self.session is not None and self.session.valid()

    async def close_links(self) -> None:
        """Let nothing in or out any more."""
        await self._listener.aclose()
        if self._transport is not None:
            await self._transport.aclose()


class Observed:
    """An inbound call whose reply is watched (see ``rpc.port.Inbound``)."""

    __slots__ = ("_inbound", "_kernel", "head", "kind", "link", "segments")

    def __init__(self, inbound: Inbound, kernel: Kernel) -> None:
        self._inbound = inbound
        self._kernel = kernel
        self.link = inbound.link
        self.kind = inbound.kind
        self.head = inbound.head
        self.segments = inbound.segments

    def reply(self, status: int, head: bytes, segments: Any = ()) -> None:
        """See ``Inbound.reply``."""
        self._kernel.replied(self._inbound, status)
        self._inbound.reply(status, head, segments)
