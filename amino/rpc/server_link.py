"""The serving side of one peer link: handshake, requests in, replies and pushes out.

Owns one accepted connection. Leaves accepting, and handing over from other threads, to ``peer_link.PeerListener``; what
requests mean to the handler.
Invariants: the handler runs on the loop where the frame was read; each request gets at most one reply; no request is
acted on while the peer does not read its replies; requests in flight stay within ``in_flight_max``.
Failure behaviour: bad bytes, bad handshakes and oversized frames are answered with an error that says why, counted, and
the link is closed; a handler that raises answers its request with an error.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import msgspec

from amino.errors import AminoError, Invalid, NotEncodable, Overloaded
from amino.limits import HANDSHAKE_BYTES_MAX
from amino.rpc.address import is_loopback
from amino.rpc.direct import DirectSocket
from amino.rpc.handshake import FEATURE_BLOCKING, decode_hello, encode_hello, judge
from amino.rpc.link import LinkProtocol, stable
from amino.rpc.tls import identity_of
from amino.wire.frames import MAGIC, FrameKind, FrameParser, Status, encode_error, encode_frame

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from amino.rpc.peer_link import PeerListener
    from amino.rpc.port import Buffer, Peer
    from amino.wire.frames import Frame

_log = logging.getLogger("amino.rpc")
_running_loop = asyncio._get_running_loop  # noqa: SLF001 - the documented fast look-up, without raising

_REQUESTS = (int(FrameKind.CALL), int(FrameKind.SYSTEM))
_REPLY = int(FrameKind.REPLY)
_PUSH = int(FrameKind.PUSH)
_PUSHES_WAITING_MAX = 10_000
_DIRECT_MAX = 4
"""Threads answer by themselves while a link has so few requests; replies to more are gathered by the loop."""


class PeerInbound(msgspec.Struct, eq=False):
    """One request of a peer link (see ``port.Inbound``)."""

    link: Any
    kind: int
    correlation: int
    head: bytes
    segments: list[memoryview]
    answered: bool = False

    def __repr__(self) -> str:
        return f"PeerInbound(kind={self.kind}, {len(self.head)} head bytes, answered={self.answered})"

    def reply(self, status: int, head: bytes, segments: Sequence[Buffer] = ()) -> None:
        """Answer, exactly once, from any thread."""
        if self.answered:
            raise RuntimeError("a request was answered twice; answer each request once")
        self.answered = True
        link: PeerLink = self.link
        try:
            parts = encode_frame(_REPLY, status, self.correlation, head, segments, link.frame_bytes_max)
        except NotEncodable as error:
            parts = encode_frame(_REPLY, Status.ERROR, self.correlation, encode_error(error))
        if segments:
            parts = stable(parts)
        if _running_loop() is link.loop:
            link.answer(parts)
        elif len(parts) > 1 or not link.answer_at_once(parts[0]):
            link.listener.hand_over(link.answer_and_share, parts)


class PeerLink(LinkProtocol):
    """One accepted link (see ``port.Link``).

    Attributes:
        peer: who is at the other end; set once requests arrive.
    """

    peer: Peer

    def __init__(self, listener: PeerListener) -> None:
        parser = FrameParser(HANDSHAKE_BYTES_MAX, hello_first=True)
        super().__init__(listener.loop, listener.limits, listener.counters, parser)
        self.listener = listener
        self.loop = listener.loop
        self._peer: Peer | None = None
        self._pinged = True
        self._in_flight = 0
        self._shares = True
        self._hello_timer: asyncio.TimerHandle | None = None
        self._backlog: list[Frame] = []
        self._callbacks: list[Callable[[], None]] = []

    @property
    def in_flight(self) -> int:
        """Requests not answered yet."""
        return self._in_flight - self.direct_frames

    @property
    def direct_frames(self) -> int:
        """Replies that threads have sent by themselves."""
        return 0 if self._direct is None else self._direct.sent_frames

    @property
    def direct_bytes(self) -> int:
        """Bytes of those replies."""
        return 0 if self._direct is None else self._direct.sent_bytes

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection; refuse it beyond ``links_max``."""
        super().connection_made(transport)
        self._hello_timer = self.loop.call_later(self._limits.hello_s, self._hello_missing)
        if not self.listener.admit(self):
            limit = self._limits.links_max
            self._refuse(Overloaded(f"this server has its {limit} links; connect to another, or raise links_max"))

    def _on_frames(self, frames: list[Frame]) -> bool:
        if self._peer is None:
            self._shake_hands(frames.pop(0)[3])
            if self._peer is None:
                return False
        if self._backlog:
            self._backlog += frames
        else:
            self._serve(frames)
        return False

    def _serve(self, frames: list[Frame]) -> None:
        """Act on frames, until so much is unsent that the rest must wait for the peer to read."""
        handler = self.listener.handler
        in_flight_max = self._limits.in_flight_max
        if self._direct is not None:
            in_flight_max += self._direct.sent_frames
        for n, (kind, _, correlation, head, segments) in enumerate(frames):
            if self._congested:
                self._backlog = frames[n:]
                return
            if kind in _REQUESTS:
                if self._in_flight >= in_flight_max:
                    self._overload(correlation)
                    continue
                self._in_flight += 1
                inbound = PeerInbound(self, kind, correlation, head, segments)
                try:
                    handler(inbound)
                except Exception as problem:  # noqa: BLE001 - a handler's bug must not end other requests of this link
                    self._bug(inbound, problem)
            else:
                self._answer_ping(kind)

    def _shake_hands(self, head: bytes) -> None:
        listener = self.listener
        host = self.fact("peername")
        host = host[0] if isinstance(host, tuple) else ""
        try:
            hello = decode_hello(head)
            identity = identity_of(self.fact("ssl_object"))
            self.peer = self._peer = judge(
                hello,
                listener.cluster,
                loopback=not host or is_loopback(host),
                identity=identity,
                insecure=listener.insecure,
                address=host,
            )
        except AminoError as error:
            self._refuse(error)
            return
        self._pinged = FEATURE_BLOCKING not in hello.features
        self.frame_bytes_max = min(self._limits.frame_bytes_max, hello.frame_bytes_max)
        self._parser.limit = self._limits.frame_bytes_max
        welcome = encode_hello(listener.node_info, listener.cluster, self._limits.frame_bytes_max)
        self._send(encode_frame(FrameKind.WELCOME, 0, MAGIC, welcome))

    def _refuse(self, error: AminoError) -> None:
        self._counters.handshakes_refused += 1
        _log.info("refused a link from %s: %s", self.fact("peername"), error.message)
        self._dismiss(encode_frame(FrameKind.REFUSED, 0, MAGIC, encode_error(error)), error.message)

    def _on_garbage(self) -> None:
        error = self._parser.failure
        assert error is not None
        if self._peer is None:
            self._refuse(error)
            return
        _log.warning("closing the link from %s: %s", self._peer.address, error.message)
        payload = encode_error(error)
        if self._parser.failed_correlation is not None:
            self._send(encode_frame(_REPLY, Status.ERROR, self._parser.failed_correlation, payload))
        self._dismiss(encode_frame(FrameKind.GOAWAY, 0, 0, payload), error.message)

    def _on_flood(self) -> None:
        limit = self._limits.receive_buffer_bytes_max
        error = Overloaded(
            f"incomplete frames take more than {limit} bytes here; send less at once", reason="overloaded"
        )
        _log.warning("closing the link from %s: %s", self.fact("peername"), error.message)
        self._counters.frames_refused += 1
        self._dismiss(encode_frame(FrameKind.GOAWAY, 0, 0, encode_error(error)), error.message)
        self._counters.buffered -= self._buffered
        self._buffered = 0
        self._parser = FrameParser(0)

    def _overload(self, correlation: int) -> None:
        self._counters.overloaded += 1
        limit = self._limits.in_flight_max
        error = Overloaded(f"this link has its {limit} requests in flight; wait for answers first", reason="overloaded")
        self._send(encode_frame(_REPLY, Status.ERROR, correlation, encode_error(error)))

    def _bug(self, inbound: PeerInbound, problem: Exception) -> None:
        _log.error("the request handler raised", exc_info=problem)
        if not inbound.answered:
            text = f"the server failed on this request ({type(problem).__name__}: {problem}); its log says where"
            inbound.reply(Status.ERROR, encode_error(AminoError(text)))

    def answer(self, parts: list[Buffer]) -> None:
        """Send one reply (on the loop)."""
        self._in_flight -= 1
        self._send(parts)

    def answer_and_share(self, parts: list[Buffer]) -> None:
        """As ``answer``, for a thread; its next replies may leave without the loop (on the loop)."""
        if self._direct is None and self._shares and self._transport is not None and self.is_open:
            try:
                self._direct = DirectSocket(self.loop, self._transport)
            except (OSError, NotImplementedError):
                self._shares = False
        self.answer(parts)

    def answer_at_once(self, data: Buffer) -> bool:
        """Send one reply from a worker thread; False if the loop must, because it cannot leave now or others wait before it."""
        direct = self._direct
        if (
            direct is None
            or not self.is_open
            or self._outgoing
            or self.listener.hands_over
            or self._in_flight - direct.sent_frames > _DIRECT_MAX
        ):
            return False
        return direct.send(data)

    def push(self, kind: int, head: bytes, segments: Sequence[Buffer] = ()) -> bool:
        """Send a one-way message from any thread; False if the link is closed or its send buffer is full."""
        if not self.is_open or self._congested:
            return False
        parts = encode_frame(_PUSH, kind, 0, head, segments, self.frame_bytes_max)
        if segments:
            parts = stable(parts)
        if _running_loop() is self.loop:
            self._send(parts)
            return True
        return self.listener.hand_over(self._send, parts, _PUSHES_WAITING_MAX)

    def on_close(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` on the loop once the link is gone."""
        if _running_loop() is self.loop:
            self._register(callback)
        else:
            self.loop.call_soon_threadsafe(self._register, callback)

    def _register(self, callback: Callable[[], None]) -> None:
        if self._closed:
            callback()
        else:
            self._callbacks.append(callback)

    def pause_writing(self) -> None:
        """Too much is unsent: read no more requests until the peer has taken it."""
        super().pause_writing()
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """Serve what waited, then go on reading."""
        super().resume_writing()
        backlog, self._backlog = self._backlog, []
        if backlog:
            self._cork()
            self._serve(backlog)
            self._uncork()
        if self._congested:
            return
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def tick(self) -> None:
        """Watch the peer; one that does not read while idle is judged only when it takes no bytes."""
        if self._peer is not None and (self._pinged or self._congested):
            super().tick()

    def _hello_missing(self) -> None:
        if self._peer is None and self.is_open:
            self._refuse(Invalid(f"no handshake within {self._limits.hello_s:g} s; connect with an Amino client"))

    def go_away(self, error: AminoError, flags: int = 0) -> None:
        """Tell the peer to send no more requests here; running ones are still answered.

        Args:
            error: why. flags: ``NEVER_BEGUN`` if nothing runs and nothing will be read any more.
        """
        if self._peer is not None and self.is_open:
            self._send(encode_frame(FrameKind.GOAWAY, flags, 0, encode_error(error)))

    def close(self) -> None:
        """Close once everything sent so far has left."""
        if self._transport is not None:
            self._transport.close()

    def _on_lost(self) -> None:
        if self._direct is not None:
            self._direct.close()
        self.listener.forget(self)
        self._backlog = []
        if self._hello_timer is not None:
            self._hello_timer.cancel()
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            try:
                callback()
            except Exception:  # noqa: BLE001 - each callback must run whatever the others do
                _log.exception("a link's close callback raised")
