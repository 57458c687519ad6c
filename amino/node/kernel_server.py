"""One kernel server, composed of its parts over ports: the coordination store, a transport, a clock.

Owns which part gets which other part. Leaves processes, sockets and etcd to ``assembly``, simulation to ``amino.testing``.
Invariant: nothing here knows whether its ports are real; two kernel servers can live in one process.
Failure behaviour: ``start`` raises what prevents it and leaves nothing running; ``aclose`` ends everything, in the order in
which parts depend on each other.
"""

from __future__ import annotations

import asyncio
import logging
import random as random_module
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from amino import limits
from amino.aio.signal import Signal
from amino.aio.tasks import TaskOwner
from amino.aio.workers import InlineWorkers, Workers
from amino.checkpoint.blobs import StoredBlobs
from amino.checkpoint.replica_checkpoints import Domain
from amino.code.bundle import describe_class
from amino.contracts.services import ClearDeathsRequest, CordonRequest, DrainRequest, Kernel, Registry
from amino.coordination.election import Identity, SlotElection
from amino.coordination.guarded import GuardedWriter
from amino.dm.base import Trait
from amino.dm.chain import ComposedServerChain, compose_client
from amino.dm.registry import managers_of, provides, requires
from amino.errors import AminoError, CodeUnavailable, NotExecuted, Overloaded, PermissionDenied
from amino.ids import slot_of
from amino.kernel.confirm import Confirmer
from amino.kernel.dispatcher import Dispatcher
from amino.kernel.host import Host
from amino.node.cluster_document import SHUTTING_DOWN
from amino.oms.service import Oms
from amino.rpc.system import SystemDispatcher, call_system, proxy
from amino.stubs.addresses import AddressBook
from amino.stubs.cluster import Cluster
from amino.stubs.registry_client import RegistryClient
from amino.stubs.runtime import Runtime
from amino.telemetry import names
from amino.wire.frames import FrameKind

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from amino.aio.clock import Clock
    from amino.checkpoint.access import StoreAccess
    from amino.code.loader import CodeLoader
    from amino.contracts.calls import Call, Forward
    from amino.contracts.component import Checkpoints, ServerChain, ServerContext
    from amino.contracts.documents import DmSpec, MicroserviceRecord, MicroserviceSpec
    from amino.coordination.keys import Keys
    from amino.coordination.session import SessionView
    from amino.coordination.store import Store
    from amino.kernel.object import KernelObject
    from amino.node.flight_board import Board
    from amino.rpc.port import Inbound, Link, Peer, Transport
    from amino.stubs.runtime import ClientWorld
    from amino.telemetry.trace import Telemetry
    from amino.wire.codec import Buffer, FindClass

_log = logging.getLogger("amino.node")
_LEADERS_TOLD_S = 0.1
T = TypeVar("T")


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
        self._tasks = TaskOwner(f"server {settings.name}")
        self._calls = TaskOwner(f"calls of {settings.name}")
        self._shown: list[Callable[[], None]] = []
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
            kernels=_Kernels(self),
            peers=_Peers(ports.transport),
            chains=_Chains(),
            blobs=self._blobs,
            name=settings.name,
            random=random,
            telemetry=ports.telemetry,
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
            local=_Local(self),
            seed=settings.seed,
        )
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
        self.host = Host(parts=_Parts(self), surroundings=self._around, confirmer=self._confirmer, validity=session)
        self._workers = ports.workers or Workers(settings.threads_max)
        self.dispatcher = Dispatcher(
            find=self.host.find,
            surroundings=self._around,
            validity=session,
            workers=self._workers,
            tasks=self._calls,
            telemetry=ports.telemetry,
            in_flight_max=settings.in_flight_max,
            in_flight_per_object_max=settings.in_flight_per_object_max,
        )
        self.host.dispatcher = self.dispatcher
        self._system = SystemDispatcher(self._tasks, self._allow)
        self._system.register(
            "registry", self.registry, Registry, servers_only=False, forwarded=self.oms.registry.forwarded
        )
        self._system.register("kernel", self.host, Kernel, servers_only=True)
        self._members = _MemberPushes(self)
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
        self._show()

    def _show(self) -> None:
        """Begin to show what goes up and down."""
        metrics = self._ports.telemetry.metrics
        self._shown = [
            metrics.watch_session(self.name, self._session.remaining_s),
            metrics.watch_queue(names.QUEUE_SERVER, lambda: self.dispatcher.in_flight),
            metrics.watch_queue(names.QUEUE_THREADS, lambda: self._workers.busy),
        ]

    def handle(self, inbound: Inbound) -> None:
        """Answer one frame; the transport's handler."""
        if inbound.kind == FrameKind.CALL:
            self.dispatcher.handle(inbound)
        else:
            self._system.handle(inbound)

    async def drain(self) -> tuple[int, tuple[str, ...]]:
        """Move everything elsewhere; returns how many objects went and which are left."""
        if self.name not in self.oms.directory.cluster.cordoned:  # an operator's cordon stays theirs
            await self.registry.cordon(CordonRequest(self.name, why=SHUTTING_DOWN))
        reply = await self.registry.drain(DrainRequest(self.name, timeout_s=self._settings.drain_timeout_s))
        return reply.moved, reply.left

    async def aclose(self) -> None:
        """End everything. Idempotent."""
        for hide in self._shown:
            hide()
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


class _Local:
    """Implements ``stubs.runtime.Local``."""

    def __init__(self, owner: KernelServer) -> None:
        self._owner = owner
        self.server = owner.name
        self.incarnation = owner.incarnation

    async def serve_local(self, call: Call, epoch: int, number: int, segments: Sequence[Buffer]) -> Any:
        return await self._owner.dispatcher.serve_local(call, epoch, number, segments)

    def valid(self) -> bool:
        return self._owner._session.valid()  # noqa: SLF001 - a part of its owner


class _Kernels:
    """Implements ``contracts.services.KernelCaller``."""

    def __init__(self, owner: KernelServer) -> None:
        self._owner = owner

    def at(self, address: str) -> Kernel:
        if address == self._owner._settings.address:  # noqa: SLF001 - a part of its owner
            return self._owner.host
        transport = self._owner._ports.transport  # noqa: SLF001 - as above
        return proxy(transport, address, "kernel", Kernel, 60.0)  # type: ignore[type-abstract]


class _Peers:
    """Implements ``contracts.services.RegistryCaller``."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def forward(self, address: str, method: str, request: msgspec.Struct, timeout_s: float) -> Any:
        return await call_system(
            self._transport, address, "registry", Registry, method, request, timeout_s=timeout_s, forwarded=True
        )


class _Chains:
    """Implements ``oms.ports.Chains``."""

    def validate(self, spec: MicroserviceSpec) -> None:
        try:
            managers_of(spec.dms)
        except CodeUnavailable as error:
            _log.info("a chain names a manager that is not installed here: %s", error)  # another server may have it

    def recovers_from_checkpoint(self, spec: MicroserviceSpec) -> bool:
        return provides(spec.dms, Trait.CHECKPOINTS)

    def needs_store(self, spec: MicroserviceSpec) -> bool:
        return requires(spec.dms, Trait.STORE)

    def keeps_in_place(self, spec: MicroserviceSpec) -> str | None:  # noqa: ARG002 - no manager does so yet
        return None


class _Parts:
    """Implements ``kernel.host.Parts``."""

    def __init__(self, owner: KernelServer) -> None:
        self._owner = owner
        self._ports = owner._ports  # noqa: SLF001 - a part of its owner
        self._domain: Domain | None = None
        if self._ports.access is not None:
            self._domain = Domain(
                access=self._ports.access,
                store=self._ports.store,
                keys=self._ports.keys,
                loop=asyncio.get_running_loop(),
                session=owner._session,  # noqa: SLF001 - as above
                server=owner.name,
                clock=self._ports.clock,
                event=self._checkpoint_event,
                telemetry=self._ports.telemetry,
                random=owner._random,  # noqa: SLF001 - as above
            )

    async def load_class(self, spec: MicroserviceSpec) -> type:
        return await self._owner._loader.load(spec.cls, spec.code)  # noqa: SLF001 - as above

    def find_class(self, spec: MicroserviceSpec) -> FindClass | None:
        return self._owner._loader.find_class(spec.code) if spec.code else None  # noqa: SLF001 - as above

    def server_chain(self, spec: MicroserviceSpec, context: ServerContext) -> ServerChain:
        return ComposedServerChain(managers_of(spec.dms), context, self._ports.telemetry)

    def checkpoints(self, target: KernelObject) -> Checkpoints:
        if self._domain is None:
            raise CodeUnavailable(f"{self._owner.name} has no checkpoint store; start it with --store URL")
        return self._domain.of(target.microservice, target.path, target.replica, target.epoch)

    async def arguments(self, record: MicroserviceRecord) -> bytes:
        if not record.arguments_url:
            return record.arguments
        return await self._owner._blobs.get(record.arguments_url)  # noqa: SLF001 - as above

    async def run(self, function: Callable[[], T]) -> T:
        done: Signal[tuple[T | None, BaseException | None]] = Signal()

        def job() -> None:
            try:
                outcome: tuple[T | None, BaseException | None] = (function(), None)
            except BaseException as error:  # noqa: BLE001 - handed to whoever waits for it
                outcome = (None, error)
            done.set(outcome)

        if not self._owner._workers.submit(job):  # noqa: SLF001 - as above
            raise Overloaded(f"{self._owner.name}: every worker thread is busy; retry", reason="overloaded")
        result, problem = await done.wait()
        if problem is not None:
            raise problem
        return result  # type: ignore[return-value]

    def kernel_at(self, address: str) -> Kernel:
        return _Kernels(self._owner).at(address)

    def group_key(self, microservice: str, path: str) -> str:
        return self._ports.keys.group(slot_of(microservice), microservice, path)

    async def clear_deaths(self, microservice: str, path: str, replica: str, method: str) -> None:
        try:
            await self._owner.registry.clear_deaths(ClearDeathsRequest(microservice, path, replica, (method,)))
        except AminoError as error:  # counted deaths only come to matter with further ones
            _log.warning("deaths of %s in %s could not be cleared: %s", method, microservice, error)

    def event(self, kind: str, microservice: str, text: str) -> None:
        self._owner._loop.call_soon_threadsafe(  # noqa: SLF001 - as above
            self._owner.oms.events.add, kind, microservice, self._owner.name, text
        )

    def _checkpoint_event(self, kind: str, **fields: Any) -> None:
        self.event(kind, str(fields.get("microservice", "")), str(fields.get("text", "")))

    def stop_now(self, why: str) -> None:
        self._ports.stop_now(why)


class _MemberPushes:
    """Tells subscribers, and this server's own runtime, of every change of membership."""

    def __init__(self, owner: KernelServer) -> None:
        self._owner = owner
        self._links: dict[Link, None] = {}
        self._encode = msgspec.msgpack.Encoder().encode
        self._due: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self._owner.oms.directory.on_members(self._changed)
        self._owner.oms.directory.slots_cache.listen(lambda *_: self._soon())
        self._changed()

    def _soon(self) -> None:
        """Tell of new slot leaders, many at once: they are only hints."""
        if self._due is None:
            self._due = asyncio.get_running_loop().call_later(_LEADERS_TOLD_S, self._changed)

    def close(self) -> None:
        if self._due is not None:
            self._due.cancel()

    def _is_listed(self) -> bool:
        """Whether this server is in its own list: if not, the list is wrong or its session is over, and nobody should be told."""
        listed = self._owner.oms.directory.lives(self._owner.name, self._owner.incarnation)
        if not listed:
            self._owner.oms.directory.servers_cache.relist_soon()
        return listed

    def subscribe(self, link: Link) -> bytes:
        if not self._is_listed():
            raise NotExecuted(f"{self._owner.name} does not know who lives; ask another", reason="not-ready")
        self._links[link] = None
        link.on_close(lambda: self._links.pop(link, None))
        return self._encode(self._owner.oms.membership())

    def _changed(self) -> None:
        self.close()
        self._due = None
        if not self._is_listed():
            return
        membership = self._owner.oms.membership()
        self._owner._addresses.update(membership)  # noqa: SLF001 - a part of its owner
        message = self._encode(membership)
        for link in list(self._links):
            if not link.push(FrameKind.PUSH, message):
                self._links.pop(link, None)
