"""One kernel server, composed of its parts over ports: the coordination store, a transport, a clock.

Owns which part gets which other part. Leaves processes, sockets and etcd to ``assembly``, simulation to ``amino.testing``.
Invariant: nothing here knows whether its ports are real; two kernel servers can live in one process.
Failure behaviour: ``start`` raises what prevents it and leaves nothing running; ``aclose`` ends everything, in the order in
which parts depend on each other.
"""

from __future__ import annotations

import asyncio
import random as random_module
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from amino import limits
from amino.aio.tasks import TaskOwner
from amino.aio.workers import InlineWorkers, Workers
from amino.checkpoint.blobs import StoredBlobs
from amino.code.bundle import describe_class
from amino.contracts.services import DrainRequest, Kernel, Registry
from amino.coordination.election import Identity, SlotElection
from amino.coordination.guarded import GuardedWriter
from amino.dm.chain import compose_client
from amino.dm.registry import managers_of
from amino.dm.transactions.distributed import DistributedTransaction
from amino.errors import PermissionDenied
from amino.ids import slot_of
from amino.kernel.confirm import Confirmer
from amino.kernel.dispatcher import Dispatcher
from amino.kernel.groups import Groups
from amino.kernel.host import Host
from amino.kernel.plain import PlainMaker
from amino.kernel.pressure import Pressure
from amino.node.absences import Absences
from amino.node.adapters import Chains, Kernels, KnownMembers, LocalServer, Messenger, Peers
from amino.node.cluster_document import SHUTTING_DOWN
from amino.node.gauges import Gauges
from amino.node.member_pushes import MemberPushes
from amino.node.memory import available_memory
from amino.node.parts import Parts
from amino.oms.service import Oms
from amino.rpc.system import SystemDispatcher
from amino.stubs.addresses import AddressBook
from amino.stubs.cluster import Cluster
from amino.stubs.registry_client import RegistryClient
from amino.stubs.runtime import Runtime
from amino.wire.frames import FrameKind

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from amino.aio.clock import Clock
    from amino.checkpoint.access import StoreAccess
    from amino.code.loader import CodeLoader
    from amino.contracts.calls import Forward
    from amino.contracts.documents import DmSpec
    from amino.coordination.keys import Keys
    from amino.coordination.session import SessionView
    from amino.coordination.store import Store
    from amino.node.flight_board import Board
    from amino.rpc.port import Inbound, Peer, Transport
    from amino.stubs.client_world import ClientWorld
    from amino.telemetry.trace import Telemetry

_CALL = int(FrameKind.CALL)


_UNHEARD_S = 2.0
_LOOK_AGAIN_S = 0.02


@dataclass(slots=True)
class Settings:
    """What tells one kernel server from another."""

    cluster: str
    name: str
    address: str
    labels: dict[str, str] = field(default_factory=dict)
    hold_s: float = limits.HOLD_S
    dedup_horizon_s: float = limits.DEDUP_HORIZON_S
    drain_timeout_s: float = 60.0
    threads_max: int = limits.THREADS_MAX
    in_flight_max: int = limits.IN_FLIGHT_PER_SERVER_MAX
    in_flight_per_object_max: int = limits.IN_FLIGHT_PER_OBJECT_MAX
    seed: int | None = None


@dataclass(slots=True)
class Ports:
    """What a kernel server stands on."""

    store: Store
    keys: Keys
    transport: Transport
    clock: Clock
    board: Board
    telemetry: Telemetry
    access: StoreAccess | None
    store_id: str
    stop_now: Callable[[str], None]
    workers: Workers | InlineWorkers | None = None  # threads of its own by default


@dataclass(slots=True)
class _Around:
    """Implements ``kernel.object.Surroundings``."""

    clock: Clock
    board: Board
    runtime: Any
    server: str
    incarnation: int
    labels: dict[str, str]
    hold_s: float
    dedup_horizon_s: float


class KernelServer:
    """A kernel server under one session. ``handle`` takes its frames.

    Args:
        session: validity of this incarnation. lease: its lease, for slot keys.
        loader: loads classes.
    """

    def __init__(self, settings: Settings, ports: Ports, session: SessionView, lease: int, loader: CodeLoader) -> None:
        self._settings = settings
        self._ports = ports
        self._session = session
        self._loader = loader
        self._loop = asyncio.get_running_loop()
        self._gauges: Gauges | None = None
        self._tasks = TaskOwner(f"server {settings.name}")
        self._calls = TaskOwner(f"calls of {settings.name}")
        random = random_module.Random(settings.seed)
        self._random = random if settings.seed is not None else None
        store, keys, clock = ports.store, ports.keys, ports.clock
        identity = Identity(settings.name, session.incarnation, lease)
        self._writer = GuardedWriter(store)
        self._blobs = StoredBlobs(ports.access)
        self.oms = Oms(
            store=store,
            keys=keys,
            clock=clock,
            writer=self._writer,
            kernels=Kernels(self),
            peers=Peers(ports.transport),
            chains=Chains(),
            blobs=self._blobs,
            name=settings.name,
            random=random,
            telemetry=ports.telemetry,
            valid=session.valid,
        )
        self.registry: Registry = self.oms.registry
        self._addresses = AddressBook([settings.address], lambda address: ports.transport.drop(address, "it is lost"))
        self.runtime = Runtime(
            client_id=f"{settings.name}.{session.incarnation}",
            transport=ports.transport,
            addresses=self._addresses,
            registry=RegistryClient(ports.transport, self._addresses, clock, (self.registry, self._loop)),
            compose=compose,
            describe_class=describe_class,
            clock=clock,
            telemetry=ports.telemetry,
            local=LocalServer(self),
            transaction=DistributedTransaction,
            seed=settings.seed,
        )
        self.runtime.background = lambda: self._loop
        Cluster(self.runtime)
        self._around = _Around(
            clock,
            ports.board,
            self.runtime,
            settings.name,
            session.incarnation,
            settings.labels,
            settings.hold_s,
            settings.dedup_horizon_s,
        )
        self._confirmer = Confirmer(
            store,
            self._writer,
            server_key=keys.server(settings.name),
            incarnation=session.incarnation,
            slot_key=keys.slot,
            nothing=keys.nothing,
            valid=session.valid,
        )
        self._groups = Groups(
            me=(settings.name, session.incarnation),
            members=KnownMembers(self),
            confirmer=self._confirmer,
            kernel_at=Kernels(self).at,
            post=Kernels(self).post,
            group_key=lambda microservice, path: keys.group(slot_of(microservice), microservice, path),
            valid=session.valid,
            clock=clock,
            tasks=self._tasks,
        )
        self.oms.directory.on_group(self._groups.changed)
        self.oms.directory.on_loss(self._groups.lost)
        parts = Parts(self)
        self._absences = Absences(self)
        self.host = Host(
            parts=parts,
            surroundings=self._around,
            confirmer=self._confirmer,
            validity=session,
            groups=self._groups,
        )
        self.oms.make_with(PlainMaker(self.host, self._confirmer, parts.loaded_class, parts.group_key))
        self._workers = ports.workers or Workers(settings.threads_max)
        self.dispatcher = Dispatcher(
            find=self._absences.find,
            surroundings=self._around,
            validity=session,
            workers=self._workers,
            tasks=self._calls,
            telemetry=ports.telemetry,
            in_flight_max=settings.in_flight_max,
            in_flight_per_object_max=settings.in_flight_per_object_max,
        )
        self.host.dispatcher = self.dispatcher
        self.oms.leader.shards.messenger = Messenger(self.runtime)
        self._system = SystemDispatcher(self._tasks, self._allow, ports.telemetry)
        self._system.register(
            "registry", self.registry, Registry, servers_only=False, forwarded=self.oms.registry.forwarded
        )
        self._system.register("kernel", self.host, Kernel, servers_only=True)
        self._members = MemberPushes(self)
        self._system.register_subscription("membership", self._members.subscribe)
        self._election = SlotElection(
            store,
            keys,
            identity,
            self.oms.directory.servers_cache,
            self.oms.directory.slots_cache,
            eligible=self.oms.may_lead,
            on_gained=self.oms.slot_gained,
            on_lost=self.oms.slot_lost,
            clock=clock,
            aside=self.oms.reach.aside,
        )
        self.oms.lead_with(self._election)

    def __repr__(self) -> str:
        return f"KernelServer({self._settings.name}, incarnation {self._session.incarnation}, {self.host!r})"

    @property
    def name(self) -> str:
        """Its name."""
        return self._settings.name

    @property
    def incarnation(self) -> int:
        """Its incarnation."""
        return self._session.incarnation

    async def start(self) -> None:
        """Begin to serve. Raises ``CoordinationUnavailable`` when etcd does not answer."""
        await self.oms.start()
        self._members.start()
        await self._election.start()
        self._tasks.spawn(Pressure(self.host.objects, available_memory, self._memory_short).run(), "pressure")
        telemetry = self._ports.telemetry
        if telemetry.metering:
            self._gauges = Gauges(self, telemetry.metrics)
            self._gauges.show()
            self._tasks.spawn(self._gauges.look_at_etcd(self._ports.store), "size of etcd")

    def _memory_short(self, share: float) -> None:
        self.oms.events.add("memory-short", server=self.name, text=f"{100 * share:.1f} % of its memory is available")

    @property
    def session(self) -> SessionView:
        """Its session."""
        return self._session

    @property
    def led(self) -> frozenset[int]:
        """The slots that it leads."""
        return self._election.led

    @property
    def busy_threads(self) -> int:
        """How many worker threads run a method."""
        return self._workers.busy

    def handle(self, inbound: Inbound) -> None:
        """Answer one frame; the transport's handler."""
        if inbound.kind == _CALL:
            self.dispatcher.handle(inbound)
        else:
            self._system.handle(inbound)

    async def drain(self) -> tuple[int, tuple[str, ...]]:
        """Move everything elsewhere; returns how many objects went and which are left."""
        clock, moved = self._ports.clock, 0
        until = clock.monotonic() + self._settings.drain_timeout_s
        patience = clock.monotonic() + _UNHEARD_S
        while True:
            request = DrainRequest(
                self.name, timeout_s=max(0.0, until - clock.monotonic()), why=SHUTTING_DOWN, leave=True
            )
            reply = await self.registry.drain(request)
            moved += reply.moved
            now = clock.monotonic()
            if reply.moved:
                patience = now + _UNHEARD_S
            if reply.left or not self.host.objects() or now >= min(until, patience):
                return moved, reply.left
            await asyncio.sleep(
                _LOOK_AGAIN_S
            )  # it has objects whose documents it has not heard of yet, or is about to drop

    async def aclose(self) -> None:
        """End everything. Idempotent."""
        if self._gauges is not None:
            self._gauges.hide()
        self._members.close()
        await self._election.aclose()
        await self.oms.aclose()
        await self._calls.aclose()
        await self.host.aclose()
        await self._tasks.aclose()
        self._workers.close()

    def _allow(self, peer: Peer, service: str, method: str, request: msgspec.Struct) -> None:
        """Refuse what a peer may not ask: code and pickles from those who may not run code here."""
        if peer.role == "server" or peer.trusted:
            if method == "push_code" and peer.role != "server" and not self.oms.directory.cluster.allow_bundles:
                raise PermissionDenied(
                    "this cluster takes no code from clients (allow_bundles is off); install the class on the servers"
                )
            return
        arguments = getattr(request, "arguments", b"")
        if method == "push_code" or arguments[:1] == b"\x02":
            raise PermissionDenied(
                f"{service}.{method}: code and pickled arguments are taken from trusted peers only; "
                "use mutual TLS, or plain data and a class that the servers have"
            )


def compose(dms: Sequence[DmSpec], world: ClientWorld, innermost: Forward) -> Forward:
    """Compose the client side of a chain; managers that are not installed here cannot be skipped."""
    return compose_client(managers_of(dms), world, innermost, world.telemetry)
