"""``amino.connect``: a client process's connection to a cluster.

Owns composing the client's parts and following membership. Leaves calls to ``stubs``.
Invariants: a connection works from threads and event loops alike; after a fork the child has a client id and links of its
own.
Failure behaviour: ``ClusterUnavailable`` if no given address answers in time; later losses of servers are survived as long as
one is reachable.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import threading
import time
import uuid
import weakref
from typing import TYPE_CHECKING, Any

from amino.aio.clock import RealClock
from amino.aio.mode import drive, on_loop, sleep
from amino.code import bundle_modules
from amino.code.bundle import describe_class
from amino.contracts.services import Empty, Membership, Registry
from amino.dm.chain import compose_client
from amino.dm.registry import managers_of
from amino.dm.transactions.distributed import DistributedTransaction
from amino.errors import AminoError
from amino.node.device import EmbeddedServer
from amino.node.following import Following
from amino.rpc.peer_transport import PeerTransport
from amino.rpc.system import call_system
from amino.stubs.addresses import AddressBook
from amino.stubs.cluster import Cluster
from amino.stubs.registry_client import RegistryClient
from amino.stubs.runtime import Runtime
from amino.telemetry.setup import from_environment

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from amino.contracts.calls import Forward
    from amino.contracts.documents import DmSpec
    from amino.node.device import Device
    from amino.rpc.tls import TlsConfig
    from amino.stubs.client_world import ClientWorld
    from amino.telemetry.trace import Telemetry

_KNOWN_S = 2.0
_LOOK_AGAIN_S = 0.005


def connect(
    *addresses: str,
    cluster: str = "amino",
    tls: TlsConfig | None = None,
    timeout_s: float = 10.0,
    insecure: bool = False,
    telemetry: Telemetry | None = None,
    device: Device | None = None,
) -> Cluster:
    """Connect to a cluster, and with ``device`` join it as one.

    Args:
        addresses: ``host:port`` of one kernel server or more; the others are learnt. Default ``127.0.0.1:7400``.
        cluster: its name; servers of another are refused.
        tls: mutual TLS; needed beyond loopback unless ``insecure``.
        timeout_s: seconds to reach the first server.
        telemetry: default: as the OpenTelemetry environment variables say.
        device: makes this process host replicas too, until the connection is closed: closing hands them over first.

    Returns:
        The cluster; a context manager. Blocks briefly, also on an event loop.

    Raises:
        ClusterUnavailable: no server answered in time, or etcd did not answer the device. Invalid: an address, the cluster's
            name or the device's is wrong. AlreadyExists: a server or device of that name is alive.
    """
    given = addresses or ("127.0.0.1:7400",)
    client = _Client(given, cluster, tls, insecure=insecure, telemetry=telemetry or from_environment("amino-client"))
    try:
        _blocking(lambda: client.reach(timeout_s))
        if device is not None:
            client.embed(device, timeout_s)
    except BaseException:
        client.close()
        raise
    return client.cluster


class _Client:
    def __init__(
        self, addresses: Sequence[str], cluster: str, tls: TlsConfig | None, *, insecure: bool, telemetry: Telemetry
    ) -> None:
        clock = RealClock()
        bundle_modules.install()
        self._telemetry = telemetry
        self._tls, self._insecure = tls, insecure
        self._device: EmbeddedServer | None = None
        client_id = _client_id()
        self.transport = PeerTransport(client_id, cluster, tls=tls, clock=clock, insecure=insecure)
        self.addresses = AddressBook(addresses, lambda address: self.transport.drop(address, "it left the cluster"))
        self.registry = RegistryClient(self.transport, self.addresses, clock)
        self.runtime = Runtime(
            client_id=client_id,
            transport=self.transport,
            addresses=self.addresses,
            registry=self.registry,
            compose=_compose,
            describe_class=describe_class,
            clock=clock,
            telemetry=telemetry,
            transaction=DistributedTransaction,
        )
        self.cluster = Cluster(self.runtime, self.close)
        self._follower = _Follower(self.transport, self.addresses)
        self.runtime.background = lambda: self._follower.loop
        self._closed = False
        if hasattr(os, "register_at_fork"):  # for good: it must not keep a client that nobody uses any more
            os.register_at_fork(after_in_child=functools.partial(_forked, weakref.ref(self)))

    async def reach(self, timeout_s: float) -> None:
        """Learn the members from the first server that answers."""
        self.addresses.update(await self.registry.call("members", Empty(), timeout_s=timeout_s))
        self._follower.start()

    def embed(self, device: Device, timeout_s: float) -> None:
        """Join the cluster as ``device``."""
        config = device.config(self.transport.cluster, self._tls, insecure=self._insecure)
        self._device = EmbeddedServer(device, config, self._telemetry, self.runtime.live_beside)
        self._device.start(timeout_s)
        self.cluster.device = self._device
        until = time.monotonic() + _KNOWN_S
        _blocking(lambda: self._until_known(until))

    async def _until_known(self, until: float) -> None:
        """Wait until every server that answers knows of the device, so that what is made next may be placed on it."""
        assert self._device is not None
        for address in self.addresses.candidates():
            while time.monotonic() < until:
                try:
                    members: Membership = await call_system(
                        self.transport, address, "registry", Registry, "members", Empty(), timeout_s=_KNOWN_S
                    )
                except AminoError:
                    break
                self.addresses.update(members)
                if any(one.record.name == self._device.name for one in members.servers):
                    break
                await sleep(_LOOK_AGAIN_S)

    def forked(self) -> None:
        """Become another client: this is the child of the process that connected."""
        if self._closed:
            return
        self._device = self.cluster.device = None
        self.runtime.live_beside(None)
        client_id = _client_id()
        self.transport.announce(client_id=client_id)
        self.runtime.renew(client_id)
        self._follower = _Follower(self.transport, self.addresses)
        self._follower.start()

    def close(self) -> None:
        """Release everything. Idempotent."""
        self._closed = True
        if self._device is not None:
            self._device.close()
        self.runtime.close()
        self._follower.stop()
        _blocking(self._aclose)

    async def _aclose(self) -> None:
        await self.transport.aclose()
        await self._telemetry.aclose(2.0)


def _forked(client: weakref.ref[_Client]) -> None:
    alive = client()
    if alive is not None:
        alive.forked()


class _Follower:
    """Follows membership through any two servers, on a loop and thread of its own."""

    def __init__(self, transport: PeerTransport, addresses: AddressBook) -> None:
        self._transport = transport
        self._addresses = addresses
        self.loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._thread: threading.Thread | None = None
        self._stopping = False

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="amino-membership", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopping = True
        loop, task = self.loop, self._task
        if loop is not None and task is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(task.cancel)
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            asyncio.run(self._follow())

    async def _follow(self) -> None:
        self.loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        if self._stopping:  # told to before there was anything to cancel
            return
        await Following(self._transport, self._addresses).run()


def _blocking(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run ``work()`` to its end, in a thread of its own where this one runs an event loop. Raises what it raises."""
    if not on_loop():
        drive(work())
        return
    failure: list[BaseException] = []

    def run() -> None:
        try:
            drive(work())
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            failure.append(error)

    thread = threading.Thread(target=run, name="amino-connect")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]


def _compose(dms: Sequence[DmSpec], world: ClientWorld, innermost: Forward) -> Forward:
    return compose_client(managers_of(dms), world, innermost, world.telemetry)


def _client_id() -> str:
    return uuid.uuid4().hex[:16]
