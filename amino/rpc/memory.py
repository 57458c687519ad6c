"""The transport port in memory, for simulation: a network of processes with seeded delays and faults.

Owns the simulated network, its faults and the serving side. Leaves the calling side to ``memory_caller``, journeys of
frames to ``memory_connection``, and time to the running event loop (a virtual one in simulations).
Invariants: one seed and one sequence of calls make one history; frames are encoded and parsed as on a real link, so
limits and copies are real; nothing here reads a clock but the loop's.
Failure behaviour: as ``port`` says. Nothing user-facing runs on this adapter.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import random
from typing import TYPE_CHECKING, Any

from amino.errors import AlreadyExists, AminoError, NotEncodable
from amino.rpc.client_link import unreachable
from amino.rpc.handshake import NodeInfo, decode_hello, encode_hello, judge
from amino.rpc.limits import LIMITS, LinkLimits
from amino.rpc.memory_caller import MemorySubscription, MemoryTransport
from amino.rpc.memory_connection import MemoryEnd
from amino.wire.frames import FrameKind, Status, encode_error, encode_frame

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from amino.rpc.port import Buffer, Handler, Peer
    from amino.wire.frames import Frame

_log = logging.getLogger("amino.rpc")
_REQUESTS = (int(FrameKind.CALL), int(FrameKind.SYSTEM))
_PUSHES_IN_TRANSIT_MAX = 10_000


class MemoryNetwork:
    """Simulated processes (nodes) and the network between them.

    A node's name is its kernel server's name, or its client id.

    Args:
        seed: of delays and faults.
        cluster: the cluster all listeners belong to.
        delay_s: shortest and longest journey of a frame.
        loss: share of frames that are lost, which breaks their connection after ``break_after_s``.
        reset: share of frames at which the connection is reset.
        break_after_s: how long a connection that is cut or lost a frame takes to break.
        limits: of the links.
    """

    def __init__(
        self,
        seed: int = 0,
        *,
        cluster: str = "simulated",
        delay_s: tuple[float, float] = (0.0001, 0.001),
        loss: float = 0.0,
        reset: float = 0.0,
        break_after_s: float = 2.0,
        limits: LinkLimits = LIMITS,
    ) -> None:
        self.random = random.Random(seed)
        self.cluster = cluster
        self.delay_s = delay_s
        self.loss = loss
        self.reset = reset
        self.break_after_s = break_after_s
        self.limits = limits
        self._listeners: dict[str, MemoryListener] = {}
        self._vanished: set[str] = set()
        self._transports: dict[str, list[MemoryTransport]] = {}
        self._ends: dict[MemoryEnd, None] = {}  # a dict keeps the order: histories must not depend on hashes
        self._cuts: set[tuple[str, str]] = set()
        self._frozen: dict[str, list[Callable[[], None]]] = {}
        self.context = contextvars.Context()
        """In which journeys end: frames travel on, whatever becomes of the process that sent them."""

    def __repr__(self) -> str:
        return f"MemoryNetwork({len(self._listeners)} listeners, {len(self._ends) // 2} connections)"

    @property
    def connections(self) -> int:
        """Ends of connections that are open."""
        return len(self._ends)

    def listen(self, address: str, handler: Handler, node_info: NodeInfo) -> MemoryListener:
        """Serve requests to ``address`` as the process ``node_info``.

        Raises:
            AlreadyExists: the address is taken.
        """
        if address in self._listeners:
            raise AlreadyExists(f"address {address!r} is in use on the simulated network; choose another")
        listener = MemoryListener(self, address, handler, node_info)
        self._listeners[address] = listener
        self._vanished.discard(address)
        return listener

    def transport(self, node_info: NodeInfo, *, cluster: str | None = None) -> MemoryTransport:
        """Return the calling side of the process ``node_info``."""
        transport = MemoryTransport(self, node_info, cluster if cluster is not None else self.cluster)
        self._transports.setdefault(transport.node, []).append(transport)
        return transport

    def cut(self, source: str, target: str) -> None:
        """Let nothing pass from node ``source`` to node ``target``; the other way stays open."""
        self._cuts.add((source, target))

    def heal(self, source: str | None = None, target: str | None = None) -> None:
        """Undo ``cut`` for one direction, or all; what was held arrives late if its connection still stands."""
        self._cuts = {pair for pair in self._cuts if source is not None and (source, target or pair[1]) != pair}
        for end in list(self._ends):
            end.heal()

    def is_cut(self, source: str, target: str) -> bool:
        """Whether frames from ``source`` to ``target`` are held."""
        return (source, target) in self._cuts

    def kill(self, node: str, *, silent: bool = False) -> None:
        """End a process: its listeners and connections are gone, what it had sent still arrives.

        Args:
            node: name of the process.
            silent: its machine is gone, too: peers hear nothing (no reset, no refusal).
        """
        self._frozen.pop(node, None)
        for transport in self._transports.pop(node, []):
            transport.die()
        for address, listener in list(self._listeners.items()):
            if listener.node == node:
                del self._listeners[address]
                if silent:
                    self._vanished.add(address)
        for end in [end for end in self._ends if end.node == node]:
            end.close(f"process {node} died", silent=silent)

    def is_up(self, node: str) -> bool:
        """Whether the process ``node`` listens (again)."""
        return any(listener.node == node for listener in self._listeners.values())

    def freeze(self, node: str) -> None:
        """Stop a process: what it sends and receives from now on waits for ``thaw``."""
        self._frozen.setdefault(node, [])

    def thaw(self, node: str) -> None:
        """Let a process run on: everything held for it happens now, in order."""
        for act in self._frozen.pop(node, []):
            act()

    def is_frozen(self, node: str) -> bool:
        """Whether the process is stopped."""
        return node in self._frozen

    def hold(self, node: str, act: Callable[[], None]) -> None:
        """Do ``act`` when the frozen ``node`` thaws."""
        self._frozen[node].append(act)

    def forget(self, end: MemoryEnd) -> None:
        """Note that an end is closed."""
        self._ends.pop(end, None)

    def remove(self, listener: MemoryListener) -> None:
        """Note that a listener stopped."""
        if self._listeners.get(listener.address) is listener:
            del self._listeners[listener.address]

    async def connect(
        self, node: str, hello: bytes, address: str, context: contextvars.Context
    ) -> tuple[MemoryEnd, Peer]:
        """Connect ``node`` to whoever listens at ``address``; takes a round trip, or ``connect_s`` if nobody answers.

        Raises:
            NotExecuted: nobody there.
            Invalid: refused.
        """
        listener = self._listeners.get(address)
        await asyncio.sleep(sum(self.random.uniform(*self.delay_s) for _ in range(2)))
        if listener is None and address not in self._vanished:
            raise unreachable(address, "connection refused")
        silence = listener is None or self.is_cut(node, listener.node) or self.is_cut(listener.node, node)
        if listener is None or silence or self.is_frozen(listener.node):
            await asyncio.sleep(self.limits.connect_s)
            raise unreachable(address, f"no answer within {self.limits.connect_s:g} s")
        if self._listeners.get(address) is not listener:
            raise unreachable(address, "the connection was reset")
        welcome = encode_hello(listener.node_info, self.cluster, self.limits.frame_bytes_max)
        theirs = judge(decode_hello(hello), self.cluster, loopback=True, identity=None, address=node)
        ours = judge(decode_hello(welcome), self.cluster, loopback=True, identity=None, address=address)
        near, far = MemoryEnd(self, node, context), MemoryEnd(self, listener.node, listener.context)
        near.other, far.other = far, near
        self._ends[near] = self._ends[far] = None
        listener.accept(far, theirs)
        return near, ours


class MemoryInbound:
    """One request (see ``port.Inbound``)."""

    def __init__(self, link: MemoryLink, kind: int, correlation: int, head: bytes, segments: list[memoryview]) -> None:
        self.link = link
        self.kind = kind
        self.head = head
        self.segments = segments
        self._correlation = correlation
        self._answered = False

    def reply(self, status: int, head: bytes, segments: Sequence[Buffer] = ()) -> None:
        """Answer, exactly once."""
        if self._answered:
            raise RuntimeError("a request was answered twice; answer each request once")
        self._answered = True
        limit = self.link.end.network.limits.frame_bytes_max
        try:
            parts = encode_frame(FrameKind.REPLY, status, self._correlation, head, segments, limit)
        except NotEncodable as error:
            parts = encode_frame(FrameKind.REPLY, Status.ERROR, self._correlation, encode_error(error))
        self.link.in_flight -= 1
        self.link.end.send(parts)


class MemoryLink:
    """A connection as the serving side sees it (see ``port.Link``)."""

    def __init__(self, listener: MemoryListener, end: MemoryEnd, peer: Peer) -> None:
        self.end = end
        self.in_flight = 0
        self._listener = listener
        self._peer = peer
        self._callbacks: list[Callable[[], None]] = []
        end.on_frame = self._on_frame
        end.on_lost = self._on_lost

    @property
    def peer(self) -> Peer:
        """Who is at the other end."""
        return self._peer

    @property
    def is_open(self) -> bool:
        """Whether it can still carry frames."""
        return self.end.open

    def push(self, kind: int, head: bytes, segments: Sequence[Buffer] = ()) -> bool:
        """Send a one-way message; False if the link is closed or too many are on their way."""
        if not self.end.open or self.end.in_transit >= _PUSHES_IN_TRANSIT_MAX:
            return False
        self.end.send(encode_frame(FrameKind.PUSH, kind, 0, head, segments, self.end.network.limits.frame_bytes_max))
        return True

    def on_close(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` once the link is gone."""
        if self.end.open:
            self._callbacks.append(callback)
        else:
            callback()

    def _on_frame(self, frame: Frame) -> None:
        kind, _, correlation, head, segments = frame
        if kind not in _REQUESTS:
            return
        self.in_flight += 1
        inbound = MemoryInbound(self, kind, correlation, head, segments)
        try:
            self._listener.handler(inbound)
        except Exception as problem:  # noqa: BLE001 - a handler's bug must not end other requests
            _log.error("the request handler raised", exc_info=problem)
            text = f"the server failed on this request ({type(problem).__name__}: {problem}); its log says where"
            inbound.reply(Status.ERROR, encode_error(AminoError(text)))

    def _on_lost(self) -> None:
        self._listener.links.pop(self, None)
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()


class MemoryListener:
    """The serving side of one process (see ``port.Listener``)."""

    def __init__(self, network: MemoryNetwork, address: str, handler: Handler, node_info: NodeInfo) -> None:
        self.node = node_info.name or node_info.client_id
        self.node_info = node_info
        self.handler = handler
        self.links: dict[MemoryLink, None] = {}
        self.context = contextvars.copy_context()
        """Of the process that listens: requests are handled in it."""
        self._network = network
        self._address = address
        self._links_total = 0

    @property
    def address(self) -> str:
        """Where it listens."""
        return self._address

    def announce(self, node_info: NodeInfo) -> None:
        """Tell later handshakes who we are now."""
        self.node_info = node_info

    def statistics(self) -> dict[str, Any]:
        """Links open, requests in flight."""
        return {
            "links": len(self.links),
            "in_flight": sum(link.in_flight for link in self.links),
            "links_total": self._links_total,
        }

    def accept(self, end: MemoryEnd, peer: Peer) -> None:
        """Take a connection."""
        self._links_total += 1
        self.links[MemoryLink(self, end, peer)] = None

    async def aclose(self, grace_s: float = 0.0) -> None:
        """Stop accepting; close all links once idle, or after ``grace_s`` seconds. Idempotent."""
        self._network.remove(self)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + grace_s
        while any(link.in_flight for link in self.links) and loop.time() < deadline:  # noqa: ASYNC110 - as peer_link
            await asyncio.sleep(0.005)
        for link in list(self.links):
            link.end.close("the server is stopping")


__all__ = ["MemoryInbound", "MemoryLink", "MemoryListener", "MemoryNetwork", "MemorySubscription", "MemoryTransport"]
