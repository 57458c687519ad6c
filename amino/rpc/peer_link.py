"""The serving side of the peer link: the listener.

Owns accepting links, their number, pings, and handing replies from other threads to the loop. Leaves each link to
``server_link``.
Invariants: links stay within ``links_max``; many replies from other threads share one wake-up of the loop.
Failure behaviour: whatever happens on one link, the listener goes on; after ``aclose`` no link and no task is left.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from amino.aio.tasks import TaskOwner
from amino.errors import Invalid
from amino.rpc.address import format_address, parse_address
from amino.rpc.limits import LIMITS, LinkLimits
from amino.rpc.link import LinkCounters
from amino.rpc.server_link import PeerLink
from amino.rpc.tls import check_listen
from amino.wire.frames import NEVER_BEGUN

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from amino.rpc.handshake import NodeInfo
    from amino.rpc.port import Buffer, Handler
    from amino.rpc.tls import TlsConfig


FAREWELL_S = 0.1
"""Seconds for which a stopping server still answers what was sent before its callers heard of it."""


class PeerListener:
    """Accepts peer links (see ``port.Listener``); made by ``start``."""

    def __init__(
        self, handler: Handler, cluster: str, node_info: NodeInfo, limits: LinkLimits, *, insecure: bool = False
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.handler = handler
        self.cluster = cluster
        self.node_info = node_info
        self.limits = limits
        self.insecure = insecure
        self.counters = LinkCounters()
        self._links: set[PeerLink] = set()
        self._server: asyncio.Server | None = None
        self._address = ""
        self._tasks = TaskOwner("peer-listener")
        self._handed_over: deque[tuple[Callable[[list[Buffer]], None], list[Buffer]]] = deque()
        self._woken = False
        self._emptied = asyncio.Event()

    def __repr__(self) -> str:
        return f"PeerListener({self._address}, {len(self._links)} links)"

    @classmethod
    async def start(
        cls,
        address: str,
        handler: Handler,
        *,
        cluster: str,
        node_info: NodeInfo,
        tls: TlsConfig | None = None,
        limits: LinkLimits = LIMITS,
        insecure: bool = False,
    ) -> PeerListener:
        """Listen on ``address`` and hand requests to ``handler``.

        Args:
            address: ``host:port`` (port 0: any free one) or ``unix:/path``.
            handler: called on this loop per request; must not block.
            cluster: callers of another cluster are refused.
            node_info: who we are; change it later with ``announce``.
            tls: mutual TLS; without it only loopback is listened on.
            limits: of the links.
            insecure: listen beyond loopback without TLS all the same.

        Raises:
            Invalid: malformed address, unusable certificates, or beyond loopback without TLS.
            OSError: the address is taken or not ours.
        """
        check_listen(address, tls, insecure=insecure)
        context = tls.server_context() if tls is not None else None
        listener = cls(handler, cluster, node_info, limits, insecure=insecure)
        await listener._bind(address, context)
        listener._tasks.spawn(listener._watch(), "watch")
        return listener

    async def _bind(self, address: str, context: ssl.SSLContext | None) -> None:
        endpoint = parse_address(address)
        options: dict[str, Any] = {"ssl": context, "backlog": 1024}
        if context is not None:
            options["ssl_handshake_timeout"] = self.limits.hello_s
        if endpoint.path:
            self._server = await self.loop.create_unix_server(lambda: PeerLink(self), endpoint.path, **options)
            self._address = address
            return
        self._server = await self.loop.create_server(lambda: PeerLink(self), endpoint.host, endpoint.port, **options)
        self._address = format_address(endpoint.host, self._server.sockets[0].getsockname()[1])

    @property
    def address(self) -> str:
        """The address actually bound."""
        return self._address

    def announce(self, node_info: NodeInfo) -> None:
        """Tell later handshakes who we are now (the incarnation is known only after the port is bound)."""
        self.node_info = node_info

    def statistics(self) -> dict[str, Any]:
        """Links open, requests in flight, bytes held, and counts since the start."""
        counts = asdict(self.counters)
        counts["frames_out"] += sum(link.direct_frames for link in self._links)
        counts["bytes_out"] += sum(link.direct_bytes for link in self._links)
        return {
            "links": len(self._links),
            "in_flight": sum(link.in_flight for link in self._links),
            "unsent_bytes": sum(link.unsent_bytes for link in self._links),
            **counts,
        }

    def admit(self, link: PeerLink) -> bool:
        """Note a new link; False beyond ``links_max``."""
        full = len(self._links) >= self.limits.links_max
        self._links.add(link)
        return not full

    def forget(self, link: PeerLink) -> None:
        """Note that a link is gone."""
        if link in self._links:
            self._links.discard(link)
            self.counters.frames_out += link.direct_frames
            self.counters.bytes_out += link.direct_bytes
        if not self._links:
            self._emptied.set()

    @property
    def hands_over(self) -> bool:
        """Whether something waits to be done by the loop (from any thread)."""
        return bool(self._handed_over)

    def hand_over(
        self, act: Callable[[list[Buffer]], None], parts: list[Buffer], waiting_max: int | None = None
    ) -> bool:
        """Have the loop do ``act(parts)``, from any thread; many hand-overs share one wake-up.

        Returns:
            False, with nothing done, when ``waiting_max`` hand-overs wait already or the loop is closed.
        """
        handed_over = self._handed_over
        if waiting_max is not None and len(handed_over) >= waiting_max:
            return False
        handed_over.append((act, parts))
        if not self._woken:
            self._woken = True
            try:
                self.loop.call_soon_threadsafe(self._take_over)
            except RuntimeError:  # the loop is closed, and with it every link
                return False
        return True

    def _take_over(self) -> None:
        self._woken = False  # before taking: whoever appends after this wakes us again
        handed_over = self._handed_over
        corked: list[PeerLink] = []
        while handed_over:
            act, parts = handed_over.popleft()
            link: PeerLink = act.__self__  # type: ignore[attr-defined]
            if not link._corked:  # noqa: SLF001 - listener and links are one mechanism
                link._cork()  # noqa: SLF001
                corked.append(link)
            act(parts)
        for link in corked:
            link._uncork()  # noqa: SLF001

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self.limits.ping_s)
            for link in list(self._links):
                link.tick()

    async def aclose(self, grace_s: float = 0.0) -> None:
        """Stop accepting; close all links once idle, or after ``grace_s`` seconds. Idempotent.

        Callers are told to send no more requests; running ones are still answered within the grace, and so is what was
        on its way when they heard it (``FAREWELL_S``). What comes later still was never begun, as a link's last frame tells.
        """
        server, self._server = self._server, None
        if server is not None:
            server.close()
        stopping = Invalid(f"server {self.node_info.name!r} is stopping; call another")
        if self._links and grace_s > 0:
            for link in list(self._links):
                link.go_away(stopping)
            now = self.loop.time()
            deadline, farewell = now + grace_s, now + min(grace_s, FAREWELL_S)
            while self._links and self.loop.time() < deadline:
                if self.loop.time() >= farewell and not any(link.in_flight for link in self._links):
                    break
                await asyncio.sleep(0.005)  # an event would cost every reply
        for link in list(self._links):
            if not link.in_flight:
                link.go_away(stopping, NEVER_BEGUN)  # nothing is read any more: close follows at once
            link.close()
        if self._links:
            self._emptied.clear()
            try:
                async with asyncio.timeout(self.limits.linger_s):
                    await self._emptied.wait()
            except TimeoutError:
                for link in list(self._links):
                    link.abort("the server is stopping")
        if server is not None:
            await server.wait_closed()
        await self._tasks.aclose()
