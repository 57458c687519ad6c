"""The calling side of the memory transport.

Owns correlation of replies, deadlines and connections of one simulated process. Leaves the network and its faults to
``memory.MemoryNetwork``.
Invariants: as ``port.Transport``; a killed process sends nothing more.
Failure behaviour: as ``port.Transport``.
"""

from __future__ import annotations

import asyncio
import contextvars
import copy
from typing import TYPE_CHECKING

from amino.aio.tasks import TaskOwner
from amino.errors import AminoError, NotExecuted, Overloaded
from amino.rpc.blocking_link import late
from amino.rpc.client_link import unknown, unreachable
from amino.rpc.handshake import NodeInfo, encode_hello
from amino.rpc.port import Reply
from amino.wire.frames import FrameKind, encode_frame

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from amino.rpc.limits import LinkLimits
    from amino.rpc.memory import MemoryNetwork
    from amino.rpc.memory_connection import MemoryEnd
    from amino.rpc.port import Buffer, Peer
    from amino.wire.frames import Frame


class _MemoryCaller:
    """A connection as the calling side sees it."""

    def __init__(self, address: str, end: MemoryEnd, peer: Peer) -> None:
        self.address = address
        self.end = end
        self.peer = peer
        self.on_push: Callable[[int, bytes], None] | None = None
        self.on_end: Callable[[], None] | None = None
        self._correlation = 0
        self._pending: dict[int, asyncio.Future[Reply]] = {}
        end.on_frame = self._on_frame
        end.on_lost = self._on_lost

    async def request(
        self, kind: int, head: bytes, segments: Sequence[Buffer], deadline: float, limits: LinkLimits
    ) -> Reply:
        if len(self._pending) >= limits.in_flight_max:
            raise Overloaded(f"{len(self._pending)} requests to {self.address} are in flight", reason="overloaded")
        correlation = self._correlation = self._correlation + 1
        parts = encode_frame(kind, 0, correlation, head, segments, limits.frame_bytes_max)
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Reply] = loop.create_future()
        self._pending[correlation] = answer
        timer = loop.call_at(deadline, self._expire, correlation)
        self.end.send(parts)
        try:
            return await answer
        finally:
            timer.cancel()
            self._pending.pop(correlation, None)

    def _expire(self, correlation: int) -> None:
        answer = self._pending.pop(correlation, None)
        if answer is not None and not answer.done():
            answer.set_exception(unknown(self.address, "no answer before the deadline"))

    def _on_frame(self, frame: Frame) -> None:
        kind, flags, correlation, head, segments = frame
        if kind == FrameKind.PUSH:
            if self.on_push is not None:
                self.on_push(flags, head)
            return
        answer = self._pending.pop(correlation, None)
        if answer is not None and not answer.done():
            answer.set_result(Reply(flags, head, segments))

    def _on_lost(self) -> None:
        pending, self._pending = self._pending, {}
        for answer in pending.values():
            if not answer.done():
                answer.set_exception(unknown(self.address, self.end.close_reason))
        if self.on_end is not None:
            self.on_end()


class MemorySubscription:
    """A running subscription (see ``port.Subscription``)."""

    def __init__(self, caller: _MemoryCaller, reply: Reply) -> None:
        self.reply = reply
        self._caller = caller

    async def aclose(self) -> None:
        """End it. Idempotent."""
        self._caller.on_push = self._caller.on_end = None
        self._caller.end.close("the subscription was closed")


class MemoryTransport:
    """The calling side of one simulated process (see ``port.Transport``); on event loops only."""

    def __init__(self, network: MemoryNetwork, node_info: NodeInfo, cluster: str) -> None:
        self.node = node_info.name or node_info.client_id
        self.node_info = node_info
        self._network = network
        self._cluster = cluster
        self._callers: dict[str, _MemoryCaller] = {}
        self._all: dict[_MemoryCaller, None] = {}
        self._connecting: dict[str, asyncio.Task[_MemoryCaller | AminoError]] = {}
        self._tasks = TaskOwner(f"memory-transport {self.node}")
        self._closed = False
        self._context = contextvars.copy_context()

    def announce(self, *, client_id: str | None = None, incarnation: int | None = None) -> None:
        """Tell later handshakes who we are now."""
        ours = self.node_info
        self.node_info = NodeInfo(
            client_id if client_id is not None else ours.client_id,
            ours.role,
            ours.name,
            incarnation if incarnation is not None else ours.incarnation,
            ours.features,
        )

    async def request(
        self, address: str, kind: int, head: bytes, segments: Sequence[Buffer] = (), *, timeout_s: float
    ) -> Reply:
        """Send one request and wait for its answer."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        caller = await self._obtain(address, timeout_s)
        return await caller.request(kind, head, segments, deadline, self._network.limits)

    def post(
        self,
        address: str,  # noqa: ARG002 - the port's form
        kind: int,  # noqa: ARG002
        head: bytes,  # noqa: ARG002
        segments: Sequence[Buffer],  # noqa: ARG002
        on_reply: Callable[[Reply], None],  # noqa: ARG002
        *,
        timeout_s: float,  # noqa: ARG002
    ) -> bool:
        """Return False: on the simulated network every request takes the ordinary way."""
        return False

    async def peer(self, address: str, *, timeout_s: float) -> Peer:
        """Say who is at ``address``."""
        return (await self._obtain(address, timeout_s)).peer

    async def subscribe(
        self,
        address: str,
        kind: int,
        head: bytes,
        on_push: Callable[[int, bytes], None],
        on_end: Callable[[], None],
        *,
        timeout_s: float | None = None,
    ) -> MemorySubscription:
        """Send a request whose answer is followed by pushes."""
        caller = await self._connect(address)
        caller.on_push = on_push
        limits = self._network.limits
        deadline = asyncio.get_running_loop().time() + (timeout_s if timeout_s is not None else limits.connect_s)
        try:
            reply = await caller.request(kind, head, (), deadline, limits)
        except BaseException:
            caller.on_push = None
            caller.end.close("subscribing failed")
            raise
        caller.on_end = on_end
        if not caller.end.open:
            on_end()
        return MemorySubscription(caller, reply)

    async def _obtain(self, address: str, timeout_s: float) -> _MemoryCaller:
        if timeout_s <= 0:
            raise late(address)
        if self._closed:
            raise unreachable(address, "the transport is closed")
        caller = self._callers.get(address)
        if caller is not None and caller.end.open:
            return caller
        attempt = self._connecting.get(address)
        if attempt is None:
            attempt = self._tasks.spawn(self._attempt(address), f"connect {address}")
            self._connecting[address] = attempt
            attempt.add_done_callback(lambda _: self._connecting.pop(address, None))
        done, _ = await asyncio.wait([attempt], timeout=timeout_s)
        if not done:
            raise NotExecuted(f"no link to {address} before the deadline; allow more time", reason="deadline")
        if attempt.cancelled():
            raise unreachable(address, "connecting was given up: it was declared lost, or this side is closing")
        outcome = attempt.result()
        if isinstance(outcome, AminoError):
            raise copy.copy(outcome)  # several callers may raise it, each with its own traceback
        return outcome

    async def _attempt(self, address: str) -> _MemoryCaller | AminoError:
        try:
            caller = await self._connect(address)
        except AminoError as error:
            return error
        self._callers[address] = caller
        return caller

    async def _connect(self, address: str) -> _MemoryCaller:
        hello = encode_hello(self.node_info, self._cluster, self._network.limits.frame_bytes_max)
        end, peer = await self._network.connect(self.node, hello, address, self._context)
        if self._closed:
            end.close("the process died")
            raise unreachable(address, "the transport is closed")
        caller = _MemoryCaller(address, end, peer)
        self._all = {known: None for known in self._all if known.end.open}
        self._all[caller] = None
        return caller

    def drop(self, address: str, reason: str) -> None:
        """Declare the peer at ``address`` lost: requests in flight end at once."""
        attempt = self._connecting.pop(address, None)
        if attempt is not None:
            attempt.cancel()
        for caller in list(self._all):
            if caller.address == address:
                caller.end.close(reason)

    def die(self) -> None:
        """Send nothing any more: the process was killed. Its connections are the network's to end."""
        self._closed = True

    async def aclose(self) -> None:
        """Close all links. Idempotent."""
        self._closed = True
        await self._tasks.aclose()
        for caller in list(self._all):
            caller.end.close("the transport was closed")
