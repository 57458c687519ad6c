"""The peer link's transport: the calling side, for event loops and for plain threads.

Owns the choice of links (per event loop one multiplexed link per address, shared by its tasks; for threads a pool of
blocking sockets), shared connecting, dropping lost servers, and subscriptions. Leaves the links to their modules.
Invariants: concurrent connects of one loop to one address share one attempt; after ``drop(address)`` no request to it
waits; a forked child starts without links.
Failure behaviour: as ``port.Transport`` says; a loop that ends without ``aclose`` closes its links as its tasks are
cancelled.
"""

from __future__ import annotations

import asyncio
import copy
import os
import threading
import weakref
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from amino.aio.clock import Clock, RealClock
from amino.aio.tasks import TaskOwner
from amino.errors import AminoError, NotExecuted
from amino.rpc.blocking import BlockingLinks
from amino.rpc.blocking_link import late
from amino.rpc.client_link import ClientLink, unreachable
from amino.rpc.handshake import NodeInfo
from amino.rpc.limits import LIMITS, LinkLimits
from amino.rpc.link import LinkCounters
from amino.rpc.tls import ClientTls

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from amino.rpc.port import Buffer, Peer, Reply
    from amino.rpc.tls import TlsConfig

_running_loop = asyncio._get_running_loop  # noqa: SLF001 - the documented fast look-up, without raising


class LoopLinks:
    """The links of one event loop."""

    def __init__(self, transport: PeerTransport, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.links: dict[str, ClientLink] = {}
        self._transport = transport
        self._open: set[ClientLink] = set()
        self._connecting: dict[str, asyncio.Task[ClientLink | AminoError]] = {}
        self._tasks = TaskOwner("peer-transport")
        self._watching = False

    @property
    def count(self) -> int:
        """Links open."""
        return len(self._open)

    async def obtain(self, address: str, deadline: float) -> ClientLink:
        """Return the loop's link to ``address``, connecting if there is none that takes requests.

        Raises:
            NotExecuted: not connected (``unreachable``), or not before ``deadline`` (``deadline``).
            Invalid: the handshake was refused (or ``PermissionDenied``).
        """
        link = self.links.get(address)
        if link is not None and link.usable:
            return link
        attempt = self._connecting.get(address)
        if attempt is None:
            attempt = self._tasks.spawn(self._attempt(address), f"connect {address}")
            self._connecting[address] = attempt
            attempt.add_done_callback(lambda _: self._connecting.pop(address, None))
        remaining = deadline - self._transport.clock.monotonic()
        done, _ = await asyncio.wait([attempt], timeout=max(0.0, remaining))
        if not done:
            raise NotExecuted(f"no link to {address} before the deadline; allow more time", reason="deadline")
        if attempt.cancelled():
            raise unreachable(address, "connecting was given up: it was declared lost, or this side is closing")
        outcome = attempt.result()
        if isinstance(outcome, AminoError):
            raise copy.copy(outcome)  # several callers may raise it, each with its own traceback
        return outcome

    async def _attempt(self, address: str) -> ClientLink | AminoError:
        """Connect for all who wait; the error is a result, because perhaps nobody waits any more."""
        try:
            link = await self.connect(address)
        except AminoError as error:
            return error
        self.links[address] = link
        return link

    async def connect(self, address: str) -> ClientLink:
        """Open another link to ``address``."""
        transport = self._transport
        if not self._watching:
            self._watching = True
            self._tasks.spawn(self._watch(), "watch")
        link = await ClientLink.connect(
            address,
            cluster=transport.cluster,
            node_info=transport.node_info,
            limits=transport.limits,
            counters=transport.counters,
            clock=transport.clock,
            tls=transport.tls,
            insecure=transport.insecure,
        )
        self._open.add(link)
        link.on_lost = self._forget
        if not link.is_open:
            self._open.discard(link)
        return link

    def _forget(self, link: ClientLink) -> None:
        self._open.discard(link)
        if self.links.get(link.address) is link:
            del self.links[link.address]

    async def _watch(self) -> None:
        """Ping silent links; when the loop ends (its tasks are cancelled) close them all."""
        try:
            while True:
                await asyncio.sleep(self._transport.limits.ping_s)
                for link in list(self._open):
                    link.tick()
        finally:
            self.abort_all("the event loop ended")

    def drop(self, address: str, reason: str) -> None:
        """Close the links to ``address`` (on the loop)."""
        attempt = self._connecting.get(address)
        if attempt is not None:
            attempt.cancel()
        for link in [link for link in self._open if link.address == address]:
            link.abort(reason)

    def abort_all(self, reason: str) -> None:
        """Close all links (on the loop)."""
        for link in list(self._open):
            link.abort(reason)

    async def aclose(self) -> None:
        """Close all links and end the tasks (on the loop)."""
        self.abort_all("the transport was closed")
        await self._tasks.aclose()
        self.abort_all("the transport was closed")
        await asyncio.sleep(0)  # let the loop finish closing the sockets


class PeerSubscription:
    """A running subscription (see ``port.Subscription``)."""

    def __init__(self, link: ClientLink, reply: Reply) -> None:
        self.reply = reply
        self._link = link

    async def aclose(self) -> None:
        """End it. Idempotent."""
        self._link.on_push = None
        self._link.abort("the subscription was closed")


class PeerTransport:
    """The calling side of the peer link (see ``port.Transport``). One per process.

    Args:
        client_id: this process's client id.
        cluster: servers of another cluster are refused.
        role: ``server`` or ``client``.
        name: the kernel server's name, empty for clients.
        incarnation: of the kernel server; change it later with ``announce``.
        tls: mutual TLS; plain text without.
        clock: where deadlines are read.
        limits: of the links.
        insecure: whether the network is declared safe (see ``handshake.judge``).

    Raises:
        Invalid: unusable certificates.
    """

    def __init__(
        self,
        client_id: str,
        cluster: str,
        role: str = "client",
        name: str = "",
        incarnation: int = 0,
        tls: TlsConfig | None = None,
        clock: Clock | None = None,
        *,
        limits: LinkLimits = LIMITS,
        insecure: bool = False,
    ) -> None:
        self.node_info = NodeInfo(client_id, role, name, incarnation)
        self.cluster = cluster
        self.limits = limits
        self.insecure = insecure
        self.clock: Clock = clock if clock is not None else RealClock()
        self._now = self.clock.monotonic
        self.tls: ClientTls | None = ClientTls(tls) if tls is not None else None
        self.counters = LinkCounters()
        self._lock = threading.Lock()
        self._closed = False
        self._loops: dict[asyncio.AbstractEventLoop, LoopLinks] = {}
        self._blocking = self._new_blocking()
        self._abandoned: list[Any] = []
        _transports.add(self)

    def __repr__(self) -> str:
        return f"PeerTransport({self.node_info.client_id}, {self.statistics()['links']} links)"

    def _new_blocking(self) -> BlockingLinks:
        return BlockingLinks(self.cluster, self.limits, self.clock, self.tls, insecure=self.insecure)

    def announce(self, *, client_id: str | None = None, incarnation: int | None = None) -> None:
        """Tell later handshakes who we are now (after a fork, or once the server has its incarnation)."""
        if client_id is not None:
            self.node_info = replace(self.node_info, client_id=client_id)
        if incarnation is not None:
            self.node_info = replace(self.node_info, incarnation=incarnation)

    def statistics(self) -> dict[str, Any]:
        """Links open, and counts since the start (of event-loop links)."""
        loops = list(self._loops.values())
        return {
            "links": sum(links.count for links in loops) + self._blocking.links,
            "blocking_links": self._blocking.links,
            **asdict(self.counters),
        }

    async def request(
        self, address: str, kind: int, head: bytes, segments: Sequence[Buffer] = (), *, timeout_s: float
    ) -> Reply:
        """Send one request and wait for its answer; on a loop or, blocking, in a thread (see ``port.Transport``)."""
        loop = _running_loop()
        if timeout_s <= 0:
            raise late(address)
        if loop is None:
            if self._closed:
                self._check_open()
            return self._blocking.request(self.node_info, address, kind, head, segments, timeout_s)
        links = self._loops.get(loop) or self._links_of(loop)
        deadline = self._now() + timeout_s
        link = links.links.get(address)
        if link is None or not link.is_ready():
            link = await links.obtain(address, deadline)
            while link.congested:
                await link.writable(deadline)
        correlation, answer = link.send_request(kind, head, segments, deadline)
        try:
            return await answer
        except asyncio.CancelledError:
            link.abandon(correlation)
            raise

    def post(
        self,
        address: str,
        kind: int,
        head: bytes,
        segments: Sequence[Buffer],
        on_reply: Callable[[Reply], None],
        *,
        timeout_s: float,
    ) -> bool:
        """Send one request over an open link of this loop (see ``port.Transport``)."""
        loop = _running_loop()
        if loop is None:
            return False
        links = self._loops.get(loop)
        link = links.links.get(address) if links is not None else None
        if link is None or not link.is_ready():
            return False
        link.post(kind, head, segments, self._now() + timeout_s, on_reply)
        return True

    def _check_open(self) -> None:
        if self._closed:
            raise NotExecuted("the transport is closed; connect again", reason="unreachable")

    def _links_of(self, loop: asyncio.AbstractEventLoop) -> LoopLinks:
        self._check_open()
        with self._lock:
            for ended in [known for known in self._loops if known.is_closed()]:
                del self._loops[ended]
            return self._loops.setdefault(loop, LoopLinks(self, loop))

    async def peer(self, address: str, *, timeout_s: float) -> Peer:
        """Say who is at ``address``, connecting if no link is open (see ``port.Transport``)."""
        loop = _running_loop()
        if loop is None:
            self._check_open()
            return self._blocking.peer(self.node_info, address, timeout_s)
        links = self._loops.get(loop) or self._links_of(loop)
        return (await links.obtain(address, self.clock.monotonic() + timeout_s)).peer

    async def subscribe(
        self,
        address: str,
        kind: int,
        head: bytes,
        on_push: Callable[[int, bytes], None],
        on_end: Callable[[], None],
        *,
        timeout_s: float | None = None,
    ) -> PeerSubscription:
        """Send a request whose answer is followed by pushes, on a link of its own (see ``port.Transport``).

        Cancellation closes the link. ``timeout_s`` (default ``connect_s``) bounds the wait for the answer.
        """
        links = self._links_of(asyncio.get_running_loop())
        link = await links.connect(address)
        forget = link.on_lost

        def lost(gone: ClientLink) -> None:
            if forget is not None:
                forget(gone)
            if gone.on_push is not None:
                on_end()

        try:
            limit_s = timeout_s if timeout_s is not None else self.limits.connect_s
            deadline = self.clock.monotonic() + limit_s
            link.on_push = on_push
            _, answer = link.send_request(kind, head, (), deadline)
            reply = await answer
        except BaseException:
            link.on_push = None
            link.abort("subscribing failed")
            raise
        link.on_lost = lost
        if not link.is_open:
            lost(link)
        return PeerSubscription(link, reply)

    def drop(self, address: str, reason: str) -> None:
        """Declare the peer at ``address`` lost: close its links; requests in flight end at once. From any thread."""
        self._blocking.drop(address, reason)
        running = _running_loop()
        for loop, links in list(self._loops.items()):
            if loop is running:
                links.drop(address, reason)
            elif not loop.is_closed():
                _call_soon(loop, links.drop, address, reason)

    async def aclose(self) -> None:
        """Close all links, those of other loops soon. On a loop or in a thread. Idempotent."""
        self._closed = True
        self._blocking.close("the transport was closed")
        running = _running_loop()
        with self._lock:
            loops, self._loops = self._loops, {}
        for loop, links in loops.items():
            if loop is running:
                await links.aclose()
            elif not loop.is_closed():
                _call_soon(loop, lambda ours=links: ours.loop.create_task(ours.aclose()))

    def forked(self) -> None:
        """Start without links in a forked child; the parent's connections are left alone."""
        self._abandoned.append(self._loops)  # not collected: that would close the parent's sockets behind its back
        self._blocking.forked()
        self._lock = threading.Lock()
        self._loops = {}
        self._blocking = self._new_blocking()


def _call_soon(loop: asyncio.AbstractEventLoop, function: Callable[..., Any], *args: Any) -> None:
    try:
        loop.call_soon_threadsafe(function, *args)
    except RuntimeError:
        return  # the loop closed this moment, and its links with it


_transports: weakref.WeakSet[PeerTransport] = weakref.WeakSet()


def _after_fork() -> None:
    for transport in list(_transports):
        transport.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
