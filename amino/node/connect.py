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
import uuid
import weakref
from typing import TYPE_CHECKING

from amino.aio.clock import RealClock
from amino.aio.mode import drive, on_loop
from amino.code import bundle_modules
from amino.code.bundle import describe_class
from amino.contracts.services import Empty
from amino.dm.chain import compose_client
from amino.dm.registry import managers_of
from amino.node.following import Following
from amino.rpc.peer_transport import PeerTransport
from amino.stubs.addresses import AddressBook
from amino.stubs.cluster import Cluster
from amino.stubs.registry_client import RegistryClient
from amino.stubs.runtime import Runtime
from amino.telemetry.setup import from_environment

if TYPE_CHECKING:
    from collections.abc import Sequence

    from amino.contracts.calls import Forward
    from amino.contracts.documents import DmSpec
    from amino.rpc.tls import TlsConfig
    from amino.stubs.runtime import ClientWorld
    from amino.telemetry.trace import Telemetry


def connect(
    *addresses: str,
    cluster: str = "amino",
    tls: TlsConfig | None = None,
    timeout_s: float = 10.0,
    insecure: bool = False,
    telemetry: Telemetry | None = None,
) -> Cluster:
    """Connect to a cluster.

    Args:
        addresses: ``host:port`` of one kernel server or more; the others are learnt. Default ``127.0.0.1:7400``.
        cluster: its name; servers of another are refused.
        tls: mutual TLS; needed beyond loopback unless ``insecure``.
        timeout_s: seconds to reach the first server.
        telemetry: default: as the OpenTelemetry environment variables say.

    Returns:
        The cluster; a context manager. Blocks briefly, also on an event loop.

    Raises:
        ClusterUnavailable: no server answered in time. Invalid: an address or the cluster's name is wrong.
    """
    given = addresses or ("127.0.0.1:7400",)
    client = _Client(given, cluster, tls, insecure=insecure, telemetry=telemetry or from_environment("amino-client"))
    try:
        if on_loop():
            client.in_thread(timeout_s)
        else:
            drive(client.reach(timeout_s))
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
        )
        self.cluster = Cluster(self.runtime, self.close)
        self._follower = _Follower(self.transport, self.addresses)
        self._closed = False
        if hasattr(os, "register_at_fork"):  # for good: it must not keep a client that nobody uses any more
            os.register_at_fork(after_in_child=functools.partial(_forked, weakref.ref(self)))

    async def reach(self, timeout_s: float) -> None:
        """Learn the members from the first server that answers."""
        self.addresses.update(await self.registry.call("members", Empty(), timeout_s=timeout_s))
        self._follower.start()

    def in_thread(self, timeout_s: float) -> None:
        """As ``reach``, from a thread that runs an event loop."""
        failure: list[BaseException] = []

        def work() -> None:
            try:
                drive(self.reach(timeout_s))
            except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
                failure.append(error)

        thread = threading.Thread(target=work, name="amino-connect")
        thread.start()
        thread.join()
        if failure:
            raise failure[0]

    def forked(self) -> None:
        """Become another client: this is the child of the process that connected."""
        if self._closed:
            return
        client_id = _client_id()
        self.transport.announce(client_id=client_id)
        self.runtime.renew(client_id)
        self._follower = _Follower(self.transport, self.addresses)
        self._follower.start()

    def close(self) -> None:
        """Release everything. Idempotent."""
        self._closed = True
        self.runtime.close()
        self._follower.stop()
        if on_loop():
            thread = threading.Thread(target=lambda: drive(self._aclose()), name="amino-close")
            thread.start()
            thread.join()
        else:
            drive(self._aclose())

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
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._thread: threading.Thread | None = None
        self._stopping = False

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="amino-membership", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopping = True
        loop, task = self._loop, self._task
        if loop is not None and task is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(task.cancel)
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            asyncio.run(self._follow())

    async def _follow(self) -> None:
        self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        if self._stopping:  # told to before there was anything to cancel
            return
        await Following(self._transport, self._addresses).run()


def _compose(dms: Sequence[DmSpec], world: ClientWorld, innermost: Forward) -> Forward:
    return compose_client(managers_of(dms), world, innermost, world.telemetry)


def _client_id() -> str:
    return uuid.uuid4().hex[:16]
