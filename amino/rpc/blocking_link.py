"""One blocking connection of the peer link, used by one thread at a time.

Owns connecting, the handshake and one request at a time, on the caller's own thread: a hand-over to an event loop would
cost more than the call. Leaves pooling to ``blocking``.
Invariants: after an error the socket is closed, so a late reply meets nobody (invariant 5); no wait passes its
deadline; segments are on the wire when ``exchange`` returns, so they are not copied.
Failure behaviour: ``NotExecuted`` (or ``StaleLinkError``) while the request certainly has not left whole,
``OutcomeUnknown`` after.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import struct
import sys
import threading
from typing import TYPE_CHECKING

from amino.errors import AminoError, Invalid, NotExecuted
from amino.rpc.address import is_loopback, parse_address
from amino.rpc.client_link import PROBE_S, hung_up, unknown, unreachable
from amino.rpc.handshake import FEATURE_BLOCKING, NodeInfo, decode_hello, encode_hello, judge
from amino.rpc.link import keep_alive
from amino.rpc.port import Reply
from amino.rpc.tls import client_hello, explain, identity_of, is_tls, wants_tls
from amino.wire.frames import MAGIC, NEVER_BEGUN, FrameKind, FrameParser, OwnedBytes, decode_error, encode_frame

if TYPE_CHECKING:
    from collections.abc import Sequence

    from amino.aio.clock import Clock
    from amino.rpc.limits import LinkLimits
    from amino.rpc.port import Buffer, Peer
    from amino.rpc.tls import ClientTls
    from amino.wire.frames import Frame

_REPLY = int(FrameKind.REPLY)
_ANSWERS = (_REPLY, int(FrameKind.WELCOME), int(FrameKind.REFUSED))
_CHUNK_BYTES = 64 * 1024
_START_BYTES = 4096
"""A frame larger than a chunk is received in place if its first bytes are at least so many, as they are."""
_QUANTUM_S = 1.0
"""The kernel's receive time-out: longer waits wake up this often to look at their deadline."""
_PEEK_AFTER_S = 0.001
_IDLE_S_MAX = 120.0
_KERNEL_TIMEOUT = sys.platform in ("linux", "darwin")
_PEEK = socket.MSG_PEEK | getattr(socket, "MSG_DONTWAIT", 0)


class StaleLinkError(Exception):
    """The peer had closed this socket before the request left; the request certainly did not run."""


class BlockingLink:
    """One connection, used by one thread at a time."""

    __slots__ = (
        "_address",
        "_clock",
        "_correlation",
        "_frame_bytes_max",
        "_limits",
        "_lock",
        "_now",
        "_parser",
        "_peer",
        "_plain",
        "_secure",
        "_socket",
        "_timeout_set",
        "drop_reason",
        "idle_since",
        "reusable",
        "used",
    )

    def __init__(self, address: str, limits: LinkLimits, clock: Clock) -> None:
        self._address = address
        self._limits = limits
        self._clock = clock
        self._now = clock.monotonic
        self._socket: socket.socket | None = None
        self._secure: ssl.SSLSocket | None = None
        self._parser = FrameParser(limits.frame_bytes_max)
        self._lock = threading.Lock()
        self._correlation = 0
        self._timeout_set = -1.0
        self._plain = _KERNEL_TIMEOUT
        self._peer: Peer | None = None
        self._frame_bytes_max = limits.frame_bytes_max
        self.drop_reason = ""
        self.idle_since = 0.0
        self.reusable = True
        self.used = False

    def __repr__(self) -> str:
        return f"BlockingLink({self._address}, {'open' if self._socket is not None else 'closed'})"

    @property
    def peer(self) -> Peer:
        """Who is at the other end."""
        assert self._peer is not None, "known once connect returned"
        return self._peer

    def connect(
        self, cluster: str, node_info: NodeInfo, deadline: float, tls: ClientTls | None, *, insecure: bool
    ) -> None:
        """Connect and shake hands.

        Raises:
            NotExecuted: nobody there, or no answer in time.
            Invalid: the handshake was refused (or ``PermissionDenied``).
        """
        clock = self._clock
        remaining = deadline - clock.monotonic()
        if remaining <= 0:
            raise late(self._address)
        deadline = clock.monotonic() + min(remaining, self._limits.connect_s)
        try:
            self._open(deadline, tls.context if tls is not None else None)
            hello = encode_hello(node_info, cluster, self._limits.frame_bytes_max, FEATURE_BLOCKING)
            self._send_all(encode_frame(FrameKind.HELLO, 0, MAGIC, hello), deadline)
            kind, _, _, head, _ = self._receive(deadline)
        except ssl.SSLError as problem:
            self.close()
            raise explain(problem, f"peer {self._address}") from problem
        except TimeoutError as problem:
            self.close()
            raise unreachable(self._address, f"no answer within {self._limits.connect_s:g} s") from problem
        except OSError as problem:
            connected = self._socket is not None
            self.close()
            if self.drop_reason or not connected:
                raise unreachable(self._address, self.drop_reason or problem) from problem
            if tls is None and self._speaks_tls(deadline):
                raise wants_tls(self._address) from problem
            raise hung_up(self._address, problem, tls) from problem
        except BaseException:
            self.close()
            raise
        try:
            self._welcome(kind, head, cluster, insecure=insecure)
        except AminoError:
            self.close()
            raise

    def _speaks_tls(self, deadline: float) -> bool:
        """Return whether the server that hung up on us answers to TLS."""
        endpoint = parse_address(self._address)
        timeout_s = max(0.001, min(deadline - self._clock.monotonic(), PROBE_S))
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            if endpoint.path:
                probe = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
                probe.settimeout(timeout_s)
                probe.connect(endpoint.path)
            else:
                probe = stack.enter_context(socket.create_connection((endpoint.host, endpoint.port), timeout_s))
            probe.sendall(client_hello())
            return is_tls(probe.recv(2))
        return False

    def _open(self, deadline: float, context: ssl.SSLContext | None) -> None:
        endpoint = parse_address(self._address)
        timeout_s = max(0.001, deadline - self._clock.monotonic())
        if endpoint.path:
            opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._socket = opened
            opened.settimeout(timeout_s)
            opened.connect(endpoint.path)
        else:
            opened = socket.create_connection((endpoint.host, endpoint.port), timeout_s)
            self._socket = opened
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            keep_alive(opened)
        if context is not None:
            self._secure = context.wrap_socket(opened, server_hostname=None)
            self._socket = self._secure
        self._plain = _KERNEL_TIMEOUT and context is None
        if self._plain:
            opened.settimeout(None)
        if self.drop_reason:
            raise ConnectionAbortedError(self.drop_reason)

    def _welcome(self, kind: int, head: bytes, cluster: str, *, insecure: bool) -> None:
        if kind == FrameKind.REFUSED:
            raise decode_error(head)
        if kind != FrameKind.WELCOME:
            raise Invalid(f"the peer at {self._address} answered the handshake with frame kind {kind}; check the port")
        endpoint = parse_address(self._address)
        name = self._socket.getpeername() if self._socket is not None else ""
        welcome = decode_hello(head)
        self._peer = judge(
            welcome,
            cluster,
            loopback=bool(endpoint.path) or is_loopback(name[0]),
            identity=identity_of(self._secure),
            insecure=insecure,
            address=self._address,
        )
        if self._peer.role != "server":
            raise Invalid(f"the peer at {self._address} has the role {self._peer.role!r}; call a kernel server")
        self._frame_bytes_max = min(self._limits.frame_bytes_max, welcome.frame_bytes_max)

    def is_stale(self, now: float) -> bool:
        """Whether the peer has closed it, or said anything, while it was idle."""
        idle_s = now - self.idle_since
        if idle_s < _PEEK_AFTER_S:
            return False
        if idle_s > _IDLE_S_MAX or self._socket is None:
            return True
        if not self._plain:
            return bool(select.select([self._socket], [], [], 0)[0])
        try:
            self._socket.recv(1, _PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True
        return True

    def exchange(self, kind: int, head: bytes, segments: Sequence[Buffer], deadline: float) -> Reply:
        """Send a request and wait for its answer; on any error this link is closed.

        Raises:
            StaleLinkError: nothing was sent, because the peer had gone.
            NotExecuted: the request did not leave whole, or a server that stops says that it never began it.
            OutcomeUnknown: it left, and no answer came.
            NotEncodable: too large; nothing was sent and the link stays usable.
        """
        self._correlation = correlation = self._correlation + 1
        parts = encode_frame(kind, 0, correlation, head, segments, self._frame_bytes_max)
        try:
            self._send_all(parts, deadline)
        except BaseException as problem:
            self.close()
            if isinstance(problem, TimeoutError):
                raise late(self._address) from problem
            if isinstance(problem, OSError):
                if self.drop_reason:
                    raise unreachable(self._address, self.drop_reason) from problem
                raise StaleLinkError(str(problem)) from problem
            raise
        try:
            while True:
                kind, flags, answered, head, segments = self._receive(deadline)
                if kind == _REPLY:
                    if answered == correlation:
                        return Reply(flags, head, segments)
                    raise ConnectionAbortedError(f"the peer answered request {answered} instead of {correlation}")
        except BaseException as problem:
            self.close()
            if isinstance(problem, TimeoutError):
                raise unknown(self._address, "no answer before the deadline") from problem
            if isinstance(problem, OSError):
                raise unknown(self._address, self.drop_reason or str(problem)) from problem
            raise

    def _send_all(self, parts: list[Buffer], deadline: float) -> None:
        """Send the buffers, or raise.

        A frame of which only a part left is not executed: the peer acts on whole frames only, and this link is closed.
        """
        opened = self._socket
        if opened is None:
            raise ConnectionAbortedError(self.drop_reason or "the link is closed")
        if not self._plain:
            for part in parts:
                opened.settimeout(self._remaining(deadline))
                opened.sendall(part)
            return
        if self._timeout_set != _QUANTUM_S or deadline - self._now() < _QUANTUM_S:
            self._set_timeout(opened, deadline)
        try:
            sent = opened.send(parts[0]) if len(parts) == 1 else opened.sendmsg(parts)
        except BlockingIOError:
            sent = 0
        if sent == len(parts[0]) and len(parts) == 1:
            return
        while True:
            while parts and sent >= len(parts[0]):
                sent -= len(parts[0])
                parts = parts[1:]
            if not parts:
                return
            if sent:
                parts = [memoryview(parts[0])[sent:], *parts[1:]]
            self._set_timeout(opened, deadline)
            try:
                sent = opened.sendmsg(parts)
            except BlockingIOError:
                sent = 0

    def _receive(self, deadline: float) -> Frame:
        """Return the next frame that is an answer; the peer sends one at a time here, so nothing follows it."""
        parser = self._parser
        while True:
            data = self._read(deadline)
            wanted = parser.wanted(data) if len(data) >= _START_BYTES else 0
            frames = parser.feed(data if wanted <= _CHUNK_BYTES else self._read_rest(data, wanted, deadline))
            if parser.failure is not None:
                raise ConnectionAbortedError(
                    f"the peer sent something else than the peer link protocol ({parser.failure.message})"
                )
            for frame in frames:
                if frame[0] in _ANSWERS:
                    if frame is not frames[-1]:
                        self.reusable = False
                    return frame
                if frame[0] == FrameKind.GOAWAY:
                    self.reusable = False
                    if frame[1] & NEVER_BEGUN:
                        raise unreachable(self._address, decode_error(frame[3]).message)

    def _read(self, deadline: float) -> bytes:
        """Return what has come, at most ``_CHUNK_BYTES``."""
        opened = self._ready(deadline)
        while True:
            try:
                data = opened.recv(_CHUNK_BYTES)
            except BlockingIOError:
                opened = self._ready(deadline)
                continue
            if not data:
                raise self._ended()
            return data

    def _read_rest(self, start: bytes, wanted: int, deadline: float) -> OwnedBytes:
        """Read a large frame into one buffer of its size: its segments are then views, copied nowhere."""
        whole = OwnedBytes(wanted)
        filled = len(start)
        whole[:filled] = start
        with memoryview(whole) as view:
            while filled < wanted:
                opened = self._ready(deadline)
                try:
                    size = opened.recv_into(view[filled:])
                except BlockingIOError:
                    continue
                if not size:
                    raise self._ended()
                filled += size
        return whole

    def _ready(self, deadline: float) -> socket.socket:
        """Return the socket, set to wait no longer than until ``deadline``."""
        opened = self._socket
        if opened is None:
            raise ConnectionAbortedError(self.drop_reason or "the link is closed")
        if not self._plain:
            opened.settimeout(self._remaining(deadline))
        elif self._timeout_set != _QUANTUM_S or deadline - self._now() < _QUANTUM_S:
            self._set_timeout(opened, deadline)
        return opened

    def _ended(self) -> ConnectionResetError:
        return ConnectionResetError(self.drop_reason or "the peer closed the connection")

    def _remaining(self, deadline: float) -> float:
        remaining = deadline - self._now()
        if remaining <= 0:
            raise TimeoutError
        return remaining

    def _set_timeout(self, opened: socket.socket, deadline: float) -> None:
        """Have the kernel bound the next wait; one system call only when the bound changes."""
        remaining = deadline - self._now()
        if remaining <= 0:
            raise TimeoutError
        bound = min(remaining, _QUANTUM_S)
        if bound != self._timeout_set:
            value = struct.pack("ll", int(bound), max(1000, int(bound % 1 * 1e6)) if bound < 1 else 0)
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, value)
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, value)
            self._timeout_set = bound

    def drop(self, reason: str) -> None:
        """End the request in flight, from another thread; its own thread then closes the link."""
        self.drop_reason = self.drop_reason or reason
        with self._lock:  # its own thread may be closing: the descriptor must not be someone else's by now
            if self._socket is not None:
                with contextlib.suppress(OSError):  # not connected any more: its thread notices by itself
                    self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the socket. Idempotent."""
        self.reusable = False
        with self._lock:
            opened, self._socket = self._socket, None
            if opened is not None:
                opened.close()

    def abandon(self) -> None:
        """Close the inherited descriptor in a forked child; the parent's connection goes on."""
        if self._socket is not None:
            self._socket.close()


def late(address: str) -> NotExecuted:
    """Return the error for a deadline that passed before anything was sent."""
    return NotExecuted(f"the deadline passed before the request to {address} had left", reason="deadline")
