"""What both ends of an event-loop peer link have in common.

Owns writing (gathered per batch of frames read), the send buffer's bounds, pings and closing. Leaves handshakes,
requests and replies to ``peer_link`` (serving side) and ``client_link`` (calling side).
Invariants: frames leave in the order they were sent; bytes that a caller could still change are copied first; unsent
bytes stay within ``send_buffer_bytes_max``.
Failure behaviour: whatever goes wrong with a link closes it, with ``close_reason`` saying why; nothing is raised into
the event loop.
"""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from amino.wire.frames import FrameKind, FrameParser, OwnedBytes, encode_frame

if TYPE_CHECKING:
    from amino.rpc.direct import DirectSocket
    from amino.rpc.limits import LinkLimits
    from amino.wire.frames import Buffer, Frame

_PING = encode_frame(FrameKind.PING, 0, 0, b"")
_PONG = encode_frame(FrameKind.PONG, 0, 0, b"")
_GATHER_BYTES_MAX = 64 * 1024
"""Frames sent in one go are gathered up to this size, then written: more would only delay and hide congestion."""

_GATHER_FRAMES_MAX = 16
"""So many small frames are gathered at most: with more the two ends would work in turns and not at the same time."""

_NEVER_CHANGE = (bytes, OwnedBytes)


@dataclass(slots=True)
class LinkCounters:
    """What the links of one listener or transport have seen so far."""

    links_total: int = 0
    handshakes_refused: int = 0
    frames_refused: int = 0
    frames_in: int = 0
    frames_out: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    overloaded: int = 0
    late_replies: int = 0
    buffered: int = 0


def keep_alive(opened: Any) -> None:
    """Have the system notice a vanished machine behind an idle TCP connection, in about half a minute."""
    if opened is None or opened.family == getattr(socket, "AF_UNIX", None):
        return
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):
            opened.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def stable(parts: list[Buffer]) -> list[Buffer]:
    """Replace buffers that may change before they are on the wire by copies."""
    for i, part in enumerate(parts):
        if type(part) is not bytes and type(getattr(part, "obj", None)) not in _NEVER_CHANGE:
            parts[i] = bytes(part)
    return parts


class LinkProtocol(asyncio.Protocol):
    """One end of a link on an event loop. All methods run on that loop unless they say otherwise.

    Attributes:
        frame_bytes_max: largest frame the peer accepts, and we.
        close_reason: why it is closed, empty while it is open. left_by_peer: whether that was not our doing.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, limits: LinkLimits, counters: LinkCounters, parser: FrameParser
    ) -> None:
        self._loop = loop
        self._limits = limits
        self._counters = counters
        self._parser = parser
        self._transport: asyncio.Transport | None = None
        self._direct: DirectSocket | None = None
        self._outgoing: list[Buffer] = []
        self._gathered = 0
        self._buffered = 0
        self._corked = False
        self._congested = False
        self._discarding = False
        self._heard = True
        self._misses = 0
        self._unsent_before = 0
        self._closed = False
        self.frame_bytes_max = limits.frame_bytes_max
        self.close_reason = ""
        self.left_by_peer = False

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open"
        return f"{type(self).__name__}({state}, {self.unsent_bytes} bytes unsent)"

    @property
    def is_open(self) -> bool:
        """Whether it can still carry frames. From any thread."""
        return not self._closed and not self._discarding

    @property
    def unsent_bytes(self) -> int:
        """Bytes accepted for sending that the operating system has not taken yet."""
        return 0 if self._transport is None or self._closed else self._transport.get_write_buffer_size()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=self._limits.send_pause_bytes)
        keep_alive(transport.get_extra_info("socket"))
        self._counters.links_total += 1

    def connection_lost(self, exc: Exception | None) -> None:
        """Note that the connection is gone."""
        if self._closed:
            return
        self._closed = True
        self._outgoing = []
        self._counters.buffered -= self._buffered
        self._buffered = 0
        if not self.close_reason:
            self.left_by_peer = True
            self.close_reason = f"the connection broke: {exc}" if exc else "the peer closed the connection"
        self._on_lost()

    def data_received(self, data: bytes) -> None:
        """Parse and act on the frames; what several of them cause to be sent leaves in one write."""
        self._heard = True
        counters = self._counters
        counters.bytes_in += len(data)
        if self._discarding:
            return
        frames = self._parser.feed(data)
        if len(frames) == 1:
            counters.frames_in += 1
            self._on_frames(frames)
        elif frames:
            counters.frames_in += len(frames)
            self._corked = True
            stay_corked = False
            try:
                stay_corked = self._on_frames(frames)
            finally:
                if not stay_corked:
                    self._uncork()
        if self._parser.unsettled or self._buffered:
            self._settle()

    def _settle(self) -> None:
        """Note what is left of a batch: the beginning of a frame, or bytes that are none."""
        counters = self._counters
        buffered = self._parser.buffered
        if buffered != self._buffered:
            counters.buffered += buffered - self._buffered
            self._buffered = buffered
            if counters.buffered > self._limits.receive_buffer_bytes_max and buffered:
                self._on_flood()
        if self._parser.failure is not None and not self._discarding:
            counters.frames_refused += 1
            self._on_garbage()

    def pause_writing(self) -> None:
        """Too much is unsent: note it."""
        self._congested = True

    def resume_writing(self) -> None:
        """The send buffer has drained."""
        self._congested = False

    def _on_frames(self, frames: list[Frame]) -> bool:
        """Act on frames; returns whether what is sent goes on being gathered until someone calls ``_uncork``."""
        raise NotImplementedError

    def _on_garbage(self) -> None:
        raise NotImplementedError

    def _on_flood(self) -> None:
        """Act when the incomplete frames of all links together exceed their bound with this one."""
        limit = self._limits.receive_buffer_bytes_max
        self.abort(f"incomplete frames take more than {limit} bytes; send less at once")

    def _on_lost(self) -> None:
        raise NotImplementedError

    def _send(self, parts: list[Buffer]) -> None:
        """Send one frame; ``parts`` must not change any more."""
        transport = self._transport
        if transport is None or self._closed:
            return
        self._counters.frames_out += 1
        if self._corked:
            self._outgoing += parts
            self._gathered += sum(map(len, parts)) if len(parts) > 1 else len(parts[0])
            if len(self._outgoing) >= _GATHER_FRAMES_MAX or self._gathered > _GATHER_BYTES_MAX:
                self._flush_at_once(transport)
            return
        self._write(transport, parts)

    def _cork(self) -> None:
        """Gather what is sent from now on until ``_uncork``."""
        self._corked = True

    def _uncork(self) -> None:
        self._corked = False
        if self._outgoing:
            self._flush()

    def _flush_at_once(self, transport: asyncio.Transport) -> None:
        """Write what is gathered now, not when the loop comes to it (as uvloop does): the peer works while we go on."""
        transport.set_write_buffer_limits(high=0)
        self._flush()
        transport.set_write_buffer_limits(high=self._limits.send_pause_bytes)

    def _flush(self) -> None:
        outgoing = self._outgoing
        self._outgoing = []
        self._gathered = 0
        if self._transport is not None and not self._closed:
            self._write(self._transport, outgoing)

    def _write(self, transport: asyncio.Transport, parts: list[Buffer]) -> None:
        if len(parts) == 1:
            self._counters.bytes_out += len(parts[0])
        else:
            total = sum(map(len, parts))
            self._counters.bytes_out += total
            if total <= _GATHER_BYTES_MAX:
                parts = [b"".join(parts)]
        if self._direct is not None:
            self._direct.write(parts)
        else:
            for part in parts:  # not writelines: in Python 3.12 and 3.13 it does not notice a full send buffer
                transport.write(part)
        if self._congested and transport.get_write_buffer_size() > self._limits.send_buffer_bytes_max:
            self.abort(f"the peer does not read: more than {self._limits.send_buffer_bytes_max} bytes are unsent")

    def _answer_ping(self, kind: int) -> None:
        if kind == FrameKind.PING:
            self._send(_PONG)

    def tick(self) -> None:
        """Called every ``ping_s``: ping a silent peer, give up a dead or stuck one."""
        if self._closed or self._transport is None:
            return
        if self._congested:  # a stuck peer cannot be heard either: judge it by whether it takes bytes
            unsent = self._transport.get_write_buffer_size()
            stuck = unsent >= self._unsent_before and not self._heard
            self._unsent_before = unsent
        else:
            stuck = not self._heard
        self._heard = False
        if not stuck:
            self._misses = 0
            return
        self._misses += 1
        if self._misses > self._limits.ping_misses_max:
            self.abort(f"no sign of life from the peer for {self._limits.ping_s * self._limits.ping_misses_max:g} s")
        elif not self._congested:
            self._send(_PING)

    def abort(self, reason: str) -> None:
        """Close at once; unsent bytes are lost. Idempotent."""
        if self._closed:
            return
        if not self.close_reason:
            self.close_reason = reason
        if self._transport is not None:
            self._transport.abort()
        self.connection_lost(None)

    def _dismiss(self, parts: list[Buffer], reason: str) -> None:
        """Send a last frame, give the peer ``linger_s`` to read it, and close. Its bytes are discarded meanwhile.

        Closing at once would reset the connection while the peer is still sending, and destroy the last frame.
        """
        transport = self._transport
        if transport is None or self._closed or self._discarding:
            return
        self._send(parts)
        self._uncork()
        self._discarding = True
        self.close_reason = reason
        self._loop.call_later(self._limits.linger_s, self.abort, reason)
        if transport.can_write_eof():
            transport.write_eof()
        else:
            transport.close()

    def fact(self, name: str) -> Any:
        """Return what the transport knows under ``name`` (``peername``, ``ssl_object``)."""
        return None if self._transport is None else self._transport.get_extra_info(name)
