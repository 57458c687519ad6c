"""The calling side of the peer link on an event loop: one multiplexed connection.

Owns connecting, the handshake, correlation of replies, and deadlines of requests in flight. Leaves choosing links to
``peer_transport``.
Invariants: a correlation id is used once per link, so a late reply meets nobody (invariant 5); every request ends by
its deadline; requests in flight stay within ``in_flight_max``.
Failure behaviour: when the link is gone, requests in flight end at once as ``OutcomeUnknown``; a link that never opened
raises ``NotExecuted``, or the peer's own reason for refusing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from typing import TYPE_CHECKING

from amino.errors import AminoError, Invalid, NotExecuted, OutcomeUnknown, Overloaded
from amino.rpc.address import is_loopback, parse_address
from amino.rpc.handshake import NodeInfo, decode_hello, encode_hello, judge
from amino.rpc.link import LinkCounters, LinkProtocol, stable
from amino.rpc.port import Reply
from amino.rpc.tls import client_hello, explain, identity_of, is_tls, wants_tls
from amino.wire.frames import MAGIC, NEVER_BEGUN, FrameKind, FrameParser, decode_error, encode_frame

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from amino.aio.clock import Clock
    from amino.rpc.limits import LinkLimits
    from amino.rpc.port import Buffer, Peer
    from amino.rpc.tls import ClientTls
    from amino.wire.frames import Frame

_log = logging.getLogger("amino.rpc")
_REPLY = int(FrameKind.REPLY)
_PUSH = int(FrameKind.PUSH)
_FOREVER = float("inf")


PROBE_S = 1.0
"""Seconds for finding out why a server hung up."""


def unreachable(address: str, why: object) -> NotExecuted:
    """Return the error for a peer that cannot be connected to."""
    return NotExecuted(
        f"the server at {address} cannot be reached: {why}; check that it runs and the address is right",
        reason="unreachable",
        address=address,
    )


def hung_up(address: str, why: object, tls: ClientTls | None) -> AminoError:
    """Return the error for a peer that closed the connection before it said who it is."""
    if tls is not None:
        return tls.hung_up(address)
    return unreachable(address, f"{why} during the handshake, perhaps because it wants TLS")


async def _speaks_tls(address: str) -> bool:
    """Return whether the server that hung up on us answers to TLS."""
    endpoint = parse_address(address)
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(PROBE_S):
            if endpoint.path:
                reader, writer = await asyncio.open_unix_connection(endpoint.path)
            else:
                reader, writer = await asyncio.open_connection(endpoint.host, endpoint.port)
            try:
                writer.write(client_hello())
                return is_tls(await reader.read(2))
            finally:
                writer.close()
    return False


def unknown(address: str, why: str) -> OutcomeUnknown:
    """Return the error for a request that was sent and not answered."""
    return OutcomeUnknown(f"the request to {address} may or may not have run: {why}", address=address)


def _retrieve(future: asyncio.Future[Peer]) -> None:
    """Look at the outcome, which nobody else may do when connecting is given up."""
    if not future.cancelled():
        future.exception()


class _Posted:
    """Stands for the future of a request that nobody awaits: the answer is handed on where it was read."""

    __slots__ = ("_on_reply",)

    def __init__(self, on_reply: Callable[[Reply], None]) -> None:
        self._on_reply = on_reply

    def done(self) -> bool:
        return False

    def set_result(self, reply: Reply) -> None:
        try:
            self._on_reply(reply)
        except Exception:  # noqa: BLE001 - a bug of the one who posted must not end other requests of this link
            _log.exception("the answer to a posted request was not taken")

    def set_exception(self, error: AminoError) -> None:
        """No answer comes: nobody is told."""


class ClientLink(LinkProtocol):
    """One link to a server; made by ``connect``."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        address: str,
        cluster: str,
        hello: bytes,
        limits: LinkLimits,
        counters: LinkCounters,
        clock: Clock,
        tls: ClientTls | None = None,
        *,
        insecure: bool = False,
    ) -> None:
        super().__init__(loop, limits, counters, FrameParser(limits.frame_bytes_max))
        self.address = address
        self._cluster = cluster
        self._hello = hello
        self._insecure = insecure
        self._tls = tls
        self._now = clock.monotonic
        self._welcomed: asyncio.Future[Peer] = loop.create_future()
        self._welcomed.add_done_callback(_retrieve)
        self._peer: Peer | None = None
        self._correlation = 0
        self._pending: dict[int, tuple[asyncio.Future[Reply] | _Posted, float]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = _FOREVER
        self._writable: asyncio.Event = asyncio.Event()
        self._writable.set()
        self._leaving = False
        self._never_begun = False
        self.on_push: Callable[[int, bytes], None] | None = None
        self.on_lost: Callable[[ClientLink], None] | None = None

    @classmethod
    async def connect(
        cls,
        address: str,
        *,
        cluster: str,
        node_info: NodeInfo,
        limits: LinkLimits,
        counters: LinkCounters,
        clock: Clock,
        tls: ClientTls | None = None,
        insecure: bool = False,
    ) -> ClientLink:
        """Connect and shake hands, within ``connect_s``.

        Raises:
            NotExecuted: nobody there, or no answer in time.
            Invalid: the handshake was refused, with the reason of the side that refused (or ``PermissionDenied``).
        """
        endpoint = parse_address(address)
        loop = asyncio.get_running_loop()
        hello = encode_hello(node_info, cluster, limits.frame_bytes_max)
        link = cls(loop, address, cluster, hello, limits, counters, clock, tls, insecure=insecure)
        context = tls.context if tls is not None else None
        try:
            async with asyncio.timeout(limits.connect_s):
                if endpoint.path:
                    await loop.create_unix_connection(
                        lambda: link, endpoint.path, ssl=context, server_hostname="" if context else None
                    )
                else:
                    await loop.create_connection(
                        lambda: link, endpoint.host, endpoint.port, ssl=context, server_hostname="" if context else None
                    )
                try:
                    await link._welcomed
                except NotExecuted as error:
                    if tls is None and link.left_by_peer and await _speaks_tls(address):
                        raise wants_tls(address) from error
                    raise
        except TimeoutError as problem:
            link.abort("no handshake in time")
            raise unreachable(address, f"no answer within {limits.connect_s:g} s") from problem
        except ssl.SSLError as problem:
            link.abort("TLS failed")
            raise explain(problem, f"peer {address}") from problem
        except OSError as problem:
            raise unreachable(address, problem) from problem
        except BaseException:
            link.abort("connecting was given up")
            raise
        return link

    @property
    def usable(self) -> bool:
        """Whether it takes new requests."""
        return not (self._closed or self._leaving or self._discarding)

    def is_ready(self) -> bool:
        """Whether it takes new requests at once."""
        return not (self._closed or self._leaving or self._discarding or self._congested)

    @property
    def peer(self) -> Peer:
        """Who is at the other end."""
        assert self._peer is not None, "known once connect returned"
        return self._peer

    @property
    def in_flight(self) -> int:
        """Requests waiting for their answer."""
        return len(self._pending)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection and say who we are."""
        super().connection_made(transport)
        self._send(encode_frame(FrameKind.HELLO, 0, MAGIC, self._hello))

    def send_request(
        self, kind: int, head: bytes, segments: Sequence[Buffer], deadline: float
    ) -> tuple[int, asyncio.Future[Reply]]:
        """Send a request; returns its correlation id and the future of its answer.

        Args:
            kind: as ``Transport.request``.
            head: as there.
            segments: as there.
            deadline: on the clock; the future fails with ``OutcomeUnknown`` then.

        Raises:
            NotEncodable: too large for this link; nothing was sent.
            Overloaded: too many requests in flight; nothing was sent.
        """
        future: asyncio.Future[Reply] = self._loop.create_future()
        return self._request(kind, head, segments, deadline, future), future

    def post(
        self, kind: int, head: bytes, segments: Sequence[Buffer], deadline: float, on_reply: Callable[[Reply], None]
    ) -> None:
        """As ``send_request``; ``on_reply`` is called as soon as an answer is read, never if there is none."""
        self._request(kind, head, segments, deadline, _Posted(on_reply))

    def _request(
        self,
        kind: int,
        head: bytes,
        segments: Sequence[Buffer],
        deadline: float,
        waiting: asyncio.Future[Reply] | _Posted,
    ) -> int:
        pending = self._pending
        if len(pending) >= self._limits.in_flight_max:
            raise Overloaded(
                f"{len(pending)} requests to {self.address} are in flight, the most a link carries; "
                "wait for answers first",
                reason="overloaded",
            )
        correlation = self._correlation + 1
        parts = encode_frame(kind, 0, correlation, head, segments, self.frame_bytes_max)
        if segments:
            parts = stable(parts)
        self._correlation = correlation
        pending[correlation] = (waiting, deadline)
        if deadline < self._timer_at:
            self._arm(deadline)
        self._send(parts)
        return correlation

    def abandon(self, correlation: int) -> None:
        """Stop waiting for an answer; it is dropped if it comes."""
        self._pending.pop(correlation, None)

    async def writable(self, deadline: float) -> None:
        """Wait until the send buffer has room.

        Raises:
            NotExecuted: not before ``deadline``, or the link is gone; nothing was sent.
        """
        try:
            async with asyncio.timeout(max(0.0, deadline - self._now())):
                await self._writable.wait()
        except TimeoutError as problem:
            raise NotExecuted(
                f"the send buffer to {self.address} did not drain in time; send less at once or allow more time",
                reason="deadline",
            ) from problem
        if self._closed:
            raise unreachable(self.address, self.close_reason)

    @property
    def congested(self) -> bool:
        """Whether a sender should wait for ``writable`` first."""
        return self._congested

    def pause_writing(self) -> None:
        """Too much is unsent: senders wait."""
        super().pause_writing()
        self._writable.clear()

    def resume_writing(self) -> None:
        """Let senders go on."""
        super().resume_writing()
        self._writable.set()

    def _on_frames(self, frames: list[Frame]) -> bool:
        pending = self._pending
        for kind, flags, correlation, head, segments in frames:
            if kind == _REPLY:
                entry = pending.pop(correlation, None)
                if entry is not None and not entry[0].done():
                    entry[0].set_result(Reply(flags, head, segments))
                else:
                    self._counters.late_replies += 1
            elif kind == _PUSH:
                if self.on_push is not None:
                    self.on_push(flags, head)
            else:
                self._on_control(kind, flags, head)
        if self._leaving and not pending:
            self.abort(self.close_reason)
        if len(frames) == 1:
            return False
        self._loop.call_soon(self._uncork)  # several callers wake first: their next requests leave in one write
        return True

    def _on_control(self, kind: int, flags: int, head: bytes) -> None:
        if kind == FrameKind.WELCOME and self._peer is None:
            self._welcome(head)
        elif kind == FrameKind.REFUSED:
            self._refused(decode_error(head))
        elif kind == FrameKind.GOAWAY:
            self._leaving = True
            self.close_reason = decode_error(head).message
            self._never_begun = bool(flags & NEVER_BEGUN)
            if self._never_begun or not self._pending:
                self.abort(self.close_reason)
        else:
            self._answer_ping(kind)

    def _welcome(self, head: bytes) -> None:
        host = self.fact("peername")
        host = host[0] if isinstance(host, tuple) else ""
        try:
            welcome = decode_hello(head)
            self._peer = judge(
                welcome,
                self._cluster,
                loopback=not host or is_loopback(host),
                identity=identity_of(self.fact("ssl_object")),
                insecure=self._insecure,
                address=self.address,
            )
            if self._peer.role != "server":
                raise Invalid(f"the peer at {self.address} has the role {self._peer.role!r}; call a kernel server")
        except AminoError as error:
            self._refused(error)
            return
        self.frame_bytes_max = min(self._limits.frame_bytes_max, welcome.frame_bytes_max)
        if not self._welcomed.done():
            self._welcomed.set_result(self._peer)

    def _refused(self, error: AminoError) -> None:
        self._counters.handshakes_refused += 1
        if not self._welcomed.done():
            self._welcomed.set_exception(error)
        self.abort(error.message)

    def _on_garbage(self) -> None:
        error = self._parser.failure
        assert error is not None
        reason = f"the peer at {self.address} sent something else than the peer link protocol ({error.message})"
        if not self._welcomed.done():
            self._welcomed.set_exception(Invalid(f"{reason}; check the port, and whether it wants TLS"))
        self.abort(reason)

    def _on_lost(self) -> None:
        if not self._welcomed.done():
            self._welcomed.set_exception(hung_up(self.address, self.close_reason, self._tls))
        if self._timer is not None:
            self._timer.cancel()
        self._writable.set()
        pending, self._pending = self._pending, {}
        for future, _ in pending.values():
            if not future.done():
                ended = unreachable if self._never_begun else unknown
                future.set_exception(ended(self.address, self.close_reason))
        if self.on_lost is not None:
            self.on_lost(self)

    def _arm(self, deadline: float) -> None:
        """Keep one timer per link, for the earliest deadline: a timer per request would cost more than the request."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = deadline
        self._timer = self._loop.call_later(max(0.001, deadline - self._now()), self._expire)

    def _expire(self) -> None:
        now = self._now()
        self._timer, self._timer_at = None, _FOREVER
        late = [correlation for correlation, (_, deadline) in self._pending.items() if deadline <= now]
        for correlation in late:
            future, _ = self._pending.pop(correlation)
            if not future.done():
                future.set_exception(unknown(self.address, "no answer before the deadline"))
        if self._pending:
            self._arm(min(deadline for _, deadline in self._pending.values()))
