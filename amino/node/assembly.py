"""A kernel server of real parts: peer link, gRPC, etcd, checkpoint store.

Owns opening and closing what a kernel server stands on, and the time before it has a session. Leaves composing the server to
``kernel_server`` and the process to ``child``.
Invariants: ports are bound before the name is claimed; until the session is there, requests are told "not ready".
Failure behaviour: ``bind`` and ``serve`` raise what prevents them; ``fence`` lets no further byte out.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amino.checkpoint.access import StoreAccess
from amino.checkpoint.identity import announce, identify, mark, prove_shared
from amino.checkpoint.store import open_store as open_checkpoint_store
from amino.code.loader import CodeLoader
from amino.code.storage import CodeStorage
from amino.contracts.documents import ServerRecord, decode
from amino.coordination.keys import Keys
from amino.dashboard.site import Dashboard, Opening
from amino.errors import NotExecuted, StoreFailed
from amino.node.adapters import Beside
from amino.node.addresses import advertised
from amino.node.child import Addresses
from amino.node.connections import open_store
from amino.node.dashboard_source import DashboardSource
from amino.node.invoking import Invoking
from amino.node.kernel_server import KernelServer, Ports, Settings
from amino.rpc.grpc.server import GrpcServer
from amino.rpc.handshake import NodeInfo
from amino.rpc.peer_link import PeerListener
from amino.rpc.peer_transport import PeerTransport
from amino.rpc.tls import TlsConfig
from amino.wire.frames import Status, encode_error

if TYPE_CHECKING:
    from collections.abc import Callable

    from amino.aio.clock import Clock
    from amino.config import ServerConfig, TlsFiles
    from amino.coordination.session import SessionView
    from amino.coordination.store import Store
    from amino.node.flight_board import Board
    from amino.rpc.port import Inbound
    from amino.stubs.ports import Local
    from amino.telemetry.trace import Telemetry

_log = logging.getLogger("amino.node")
EXIT_FENCED = 4
GRACE_S = 1.0
"""Seconds that running requests have when a server ends in order."""
_ETCD_TIMEOUT_S = 2.0
PROOF_S = 3.0
_PROOF_RETRY_S = 0.2


class KernelNode:
    """Implements ``child.Node``.

    Args:
        stop_now: ends it at once, with the reason; by default that ends the process.
    """

    def __init__(
        self,
        config: ServerConfig,
        clock: Clock,
        board: Board,
        telemetry: Telemetry,
        *,
        stop_now: Callable[[str], None] | None = None,
    ) -> None:
        self._stop_now = stop_now or _stop_now
        self.loop = asyncio.get_running_loop()
        self._config = config
        self._clock = clock
        self._board = board
        self._telemetry = telemetry
        self._keys = Keys(config.cluster)
        self._tls = tls_of(config.tls)
        self._listener: PeerListener | None = None
        self._grpc: GrpcServer | None = None
        self._dashboard: Dashboard | None = None
        self._transport: PeerTransport | None = None
        self._store: Store | None = None
        self._access: StoreAccess | None = None
        self._store_id = ""
        self._not_shared = ""
        self._run = ServerRecord(config.name, "", pid=os.getpid(), started_at=clock.wall())
        self._server: KernelServer | None = None

    def __repr__(self) -> str:
        return f"KernelNode({self._config.name})"

    async def bind(self) -> Addresses:
        """Bind both ports and open the checkpoint store."""
        config = self._config
        client_id = f"{config.name}.{os.getpid()}"
        self._listener = await PeerListener.start(
            config.listen,
            self._handle,
            cluster=config.cluster,
            node_info=NodeInfo(client_id, "server", config.name),
            tls=self._tls,
            insecure=config.insecure,
        )
        self._transport = PeerTransport(
            client_id, config.cluster, "server", config.name, tls=self._tls, clock=self._clock, insecure=config.insecure
        )
        grpc_address = ""
        if config.grpc_listen:
            self._grpc = await GrpcServer.start(
                config.grpc_listen,
                registry=_Late(self, "registry"),
                kernel=_Late(self, "host"),
                invoker=Invoking(self._runtime),
                tls=self._tls,
                insecure=config.insecure,
                bind=lambda reference: self._runtime().bind(reference),
            )
            grpc_address = self._grpc.address
        if config.dashboard.listen:
            self._dashboard = await Dashboard.open(
                Opening(
                    config.dashboard.listen,
                    config.dashboard.token,
                    self._tls.browser_context() if self._tls is not None else None,
                    config.insecure,
                ),
                self._clock,
            )
        self._store = await open_store(
            config.etcd,
            request_timeout_s=max(config.session.request_timeout_s, _ETCD_TIMEOUT_S),
            clock=self._clock,
            telemetry=self._telemetry,
        )
        if config.store:
            await self._open_checkpoints(self._store)
        return Addresses(self._listener.address, grpc_address, self._store_id, self._run.started_at)

    async def _open_checkpoints(self, etcd: Store) -> None:
        """Open the checkpoint store, and use it only if it is the one that the other servers see."""
        config = self._config
        store = await asyncio.to_thread(
            lambda: open_checkpoint_store(config.store, cluster=config.cluster, options=config.store_options)
        )
        access = StoreAccess(store)
        store_id = await access.run(identify, store)
        await access.run(mark, store, self._run)
        try:
            await self._prove_shared(etcd, access, store_id)
        except StoreFailed as error:
            if error.details.get("kind") != "not-shared":
                raise
            _log.error("this server works without its checkpoint store: %s", error)
            self._not_shared = str(error)
            await access.aclose()
            return
        self._access, self._store_id = access, store_id

    async def _prove_shared(self, etcd: Store, access: StoreAccess, store_id: str) -> None:
        give_up = self._clock.monotonic() + PROOF_S  # a network file system may show new files late
        while True:
            records, _ = await etcd.list(self._keys.servers_prefix)
            servers = [decode(record.value, ServerRecord, record.key) for record in records]
            others = [server for server in servers if server.name != self._config.name]
            try:
                return await access.run(prove_shared, access.store, store_id, others)
            except StoreFailed as error:
                if error.details.get("kind") != "not-shared" or self._clock.monotonic() >= give_up:
                    raise
            await asyncio.sleep(_PROOF_RETRY_S)

    async def serve(self, incarnation: int, lease: int, session: SessionView) -> None:
        """Begin to serve under this session."""
        config = self._config
        assert self._listener is not None
        assert self._transport is not None
        self._listener.announce(NodeInfo(self._transport.node_info.client_id, "server", config.name, incarnation))
        self._transport.announce(incarnation=incarnation)
        assert self._store is not None
        storage = CodeStorage(self._store, self._keys, self._access, self._clock)
        cache = Path(tempfile.gettempdir()) / f"amino-code-{os.getuid() if hasattr(os, 'getuid') else 0}"
        server = KernelServer(
            Settings(
                cluster=config.cluster,
                name=config.name,
                address=advertised(self._listener.address, config.advertise),
                labels=dict(config.labels),
                hold_s=config.hold_s,
                dedup_horizon_s=config.dedup_horizon_s,
                drain_timeout_s=config.drain_timeout_s,
                threads_max=config.limits.threads_max,
                in_flight_max=config.limits.in_flight_per_server_max,
                in_flight_per_object_max=config.limits.in_flight_per_object_max,
            ),
            Ports(
                store=self._store,
                keys=self._keys,
                transport=self._transport,
                clock=self._clock,
                board=self._board,
                telemetry=self._telemetry,
                access=self._access,
                store_id=self._store_id,
                stop_now=self._stop_now,
            ),
            session,
            lease,
            CodeLoader(storage.fetch, cache),
        )
        await server.start()
        if self._access is not None:
            self._access.run_later(announce, self._access.store, self._run)
        if self._not_shared:
            server.oms.events.add("store-not-shared", "", config.name, self._not_shared)
        self._server = server
        if self._dashboard is not None:
            self._dashboard.show(DashboardSource(server))
        if self._grpc is not None:
            await self._grpc.set_serving(serving=True)

    def _handle(self, inbound: Inbound) -> None:
        server = self._server
        if server is not None:
            server.handle(inbound)
            return
        inbound.reply(Status.ERROR, encode_error(self._not_ready()))

    def _not_ready(self) -> NotExecuted:
        return NotExecuted(f"{self._config.name} has no session yet; ask another server, or retry", reason="not-ready")

    def _runtime(self) -> Any:
        if self._server is None:
            raise self._not_ready()
        return self._server.runtime

    def beside(self) -> Local:
        """Return what a client of this process calls directly, once it serves."""
        assert self._server is not None, "it serves"
        return Beside(self._server, self.loop)

    async def drain(self) -> tuple[int, tuple[str, ...]]:
        """Move everything elsewhere."""
        return await self._server.drain() if self._server is not None else (0, ())

    async def fence(self) -> None:
        """Close listeners and links at once."""
        await self._close_links(0.0)

    async def _close_links(self, grace_s: float) -> None:
        if self._grpc is not None:
            await self._grpc.aclose()
        if self._listener is not None:
            await self._listener.aclose(grace_s)
        if self._transport is not None:
            await self._transport.aclose()
        if self._dashboard is not None:  # last: it answers no calls
            await self._dashboard.aclose()

    async def aclose(self) -> None:
        """End in order. Idempotent."""
        if self._grpc is not None:
            await self._grpc.aclose()
        if self._dashboard is not None:
            await self._dashboard.aclose()
        if self._server is not None:
            server, self._server = self._server, None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(5.0):
                    await server.aclose()
        await self._close_links(GRACE_S)
        if self._access is not None:
            await self._access.aclose()
        if self._store is not None:
            await self._store.aclose()


class _Late:
    """A service of the kernel server that gRPC offers before there is one."""

    def __init__(self, node: KernelNode, name: str) -> None:
        self._node = node
        self._name = name

    def __getattr__(self, method: str) -> Any:
        if method.startswith("__"):
            raise AttributeError(method)

        async def call(*args: Any) -> Any:
            server = self._node._server  # noqa: SLF001 - a part of its owner
            if server is None:
                raise self._node._not_ready()  # noqa: SLF001 - as above
            return await getattr(getattr(server, self._name), method)(*args)

        return call


def _stop_now(why: str) -> None:
    _log.error("stopping at once: %s", why)
    logging.shutdown()
    os._exit(EXIT_FENCED)


def tls_of(files: TlsFiles | None) -> TlsConfig | None:
    """Return the peer link's TLS material, None for plain text."""
    return TlsConfig(files.ca, files.cert, files.key) if files is not None else None
