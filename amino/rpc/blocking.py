"""The calling side of the peer link for plain threads: pools of blocking connections.

Owns the pools and the replacement of connections that went stale. Leaves one connection to ``blocking_link`` and the
choice between this and event-loop links to ``peer_transport``.
Invariants: a connection is used by one thread at a time; only sound connections return to the pool (invariant 5); a
pool has at most ``blocking_links_max``; the caller's time-out covers waiting for one, too.
Failure behaviour: as ``port.Transport`` says; a connection that the peer closed while idle is found and replaced.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from amino.errors import NotExecuted
from amino.rpc.blocking_link import BlockingLink, StaleLinkError
from amino.rpc.client_link import unreachable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from amino.aio.clock import Clock
    from amino.rpc.handshake import NodeInfo
    from amino.rpc.limits import LinkLimits
    from amino.rpc.port import Buffer, Peer, Reply
    from amino.rpc.tls import ClientTls


class BlockingPool:
    """The blocking links to one address."""

    def __init__(self, address: str, limits: LinkLimits, clock: Clock) -> None:
        self.address = address
        self._limits = limits
        self._clock = clock
        self._lock = threading.Lock()
        self._freed = threading.Condition(self._lock)  # entered as a lock: a condition costs two Python calls more
        self._idle: list[BlockingLink] = []
        self._all: set[BlockingLink] = set()
        self._generation = 0
        self._waiting = 0

    def __repr__(self) -> str:
        return f"BlockingPool({self.address}, {len(self._all)} links, {len(self._idle)} idle)"

    @property
    def links(self) -> int:
        """Links open or opening."""
        return len(self._all)

    @property
    def waiting(self) -> int:
        """Threads that wait for a free link."""
        return self._waiting

    def take(self, deadline: float, now: float) -> BlockingLink:
        """Return a link for this thread alone: the one used last, or a new one, which is not connected yet.

        Args:
            deadline: how long to wait for one, on the clock. now: what the clock says.

        Raises:
            NotExecuted: none became free before ``deadline``, or the address was dropped meanwhile.
        """
        with self._lock:
            generation = self._generation
            while True:
                while self._idle:
                    link = self._idle.pop()
                    if not link.is_stale(now):
                        return link
                    self._all.discard(link)
                    link.close()
                if len(self._all) < self._limits.blocking_links_max:
                    link = BlockingLink(self.address, self._limits, self._clock)
                    self._all.add(link)
                    return link
                remaining = deadline - now
                self._waiting += 1
                freed_in_time = remaining > 0 and self._freed.wait(remaining)
                self._waiting -= 1
                now = self._clock.monotonic()
                if not freed_in_time:
                    raise NotExecuted(
                        f"all {self._limits.blocking_links_max} blocking links to {self.address} stayed busy; "
                        "call from fewer threads or allow more time",
                        reason="deadline",
                    )
                if generation != self._generation:
                    raise unreachable(self.address, "the server was declared lost")

    def give_back(self, link: BlockingLink) -> None:
        """Return a link; one that is not reusable is closed and forgotten."""
        with self._lock:
            if link.reusable and not link.drop_reason and link in self._all:
                link.idle_since = self._clock.monotonic()
                link.used = True
                self._idle.append(link)
            else:
                self._all.discard(link)
                link.close()
            if self._waiting:
                self._freed.notify()

    def drop(self, reason: str) -> None:
        """End all requests in flight and close all links."""
        with self._lock:
            self._generation += 1
            links, self._all = self._all, set()
            idle, self._idle = self._idle, []
            self._freed.notify_all()
        for link in links:
            link.drop(reason)
        for link in idle:
            link.close()

    def forked(self) -> None:
        """Let go of the parent's connections in a forked child."""
        for link in self._all:
            link.abandon()


class BlockingLinks:
    """Blocking requests to any address; used by many threads at once."""

    def __init__(
        self, cluster: str, limits: LinkLimits, clock: Clock, tls: ClientTls | None, *, insecure: bool
    ) -> None:
        self._cluster = cluster
        self._limits = limits
        self._clock = clock
        self._tls = tls
        self._insecure = insecure
        self._lock = threading.Lock()
        self._pools: dict[str, BlockingPool] = {}
        self._now = clock.monotonic

    @property
    def links(self) -> int:
        """Links open or opening."""
        return sum(pool.links for pool in list(self._pools.values()))

    def _pool(self, address: str) -> BlockingPool:
        with self._lock:
            return self._pools.setdefault(address, BlockingPool(address, self._limits, self._clock))

    def request(
        self,
        node_info: NodeInfo,
        address: str,
        kind: int,
        head: bytes,
        segments: Sequence[Buffer],
        timeout_s: float,
    ) -> Reply:
        """Send a request and block until its answer; raises as ``Transport.request``."""
        now = self._now()
        deadline = now + timeout_s
        pool = self._pools.get(address) or self._pool(address)
        while True:
            link = pool.take(deadline, now)
            fresh = not link.used
            try:
                if fresh:
                    link.connect(self._cluster, node_info, deadline, self._tls, insecure=self._insecure)
                return link.exchange(kind, head, segments, deadline)
            except StaleLinkError as problem:
                if fresh:
                    raise unreachable(address, problem) from problem
                now = self._now()
            finally:
                pool.give_back(link)

    def peer(self, node_info: NodeInfo, address: str, timeout_s: float) -> Peer:
        """Say who is at ``address``; raises as ``Transport.peer``."""
        now = self._now()
        deadline = now + timeout_s
        pool = self._pools.get(address) or self._pool(address)
        link = pool.take(deadline, now)
        try:
            if not link.used:
                link.connect(self._cluster, node_info, deadline, self._tls, insecure=self._insecure)
            return link.peer
        finally:
            pool.give_back(link)

    def drop(self, address: str, reason: str) -> None:
        """Close all links to ``address``; requests in flight end at once."""
        pool = self._pools.get(address)
        if pool is not None:
            pool.drop(reason)

    def forked(self) -> None:
        """Let go of the parent's connections in a forked child; takes no lock: the parent may have held it."""
        for pool in list(self._pools.values()):
            pool.forked()

    def close(self, reason: str) -> None:
        """Close all links."""
        for pool in list(self._pools.values()):
            pool.drop(reason)
