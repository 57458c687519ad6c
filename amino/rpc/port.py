"""The transport port: requests, replies and pushes between processes, as bytes.

Owns the promises both adapters (peer link, memory) keep. Leaves the content of heads and bodies to the layers above.
Invariants: a reply reaches the request it answers and no other (invariant 5); pushes of one link arrive in order.
Failure behaviour: ``NotExecuted`` when the request certainly was not sent, ``OutcomeUnknown`` when it may have been.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec

Buffer = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end of a link, as proved by the handshake.

    Args:
        client_id: the peer process's client id (a kernel server has one too).
        role: ``server`` or ``client``; from the certificate when TLS is on, else as stated.
        name: the kernel server's name, empty for clients.
        incarnation: of a kernel server, else 0.
        trusted: whether pickled objects are exchanged: same host, or mutual TLS.
        address: for logs.
    """

    client_id: str
    role: str = "client"
    name: str = ""
    incarnation: int = 0
    trusted: bool = True
    address: str = ""
    features: frozenset[str] = field(default_factory=frozenset)


class Link(Protocol):
    """A connection as the serving side sees it."""

    @property
    def peer(self) -> Peer:
        """Who is at the other end."""
        ...

    @property
    def is_open(self) -> bool:
        """Whether it can still carry frames."""
        ...

    def push(self, kind: int, head: bytes, segments: Sequence[Buffer] = ()) -> bool:
        """Send a one-way message; returns False if the link is closed or its send buffer is full. From any thread.

        Args:
            kind: 0 to 255, for the receiver to tell messages apart.
            head: opaque here.
            segments: payload.
        """
        ...

    def on_close(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` on the loop once the link is gone (at once if it is already)."""
        ...


class Inbound(Protocol):
    """One request as the serving side sees it. ``head`` and ``segments`` stay valid as long as they are kept."""

    @property
    def link(self) -> Link:
        """Where it came from."""
        ...

    @property
    def kind(self) -> int:
        """``FrameKind.CALL`` or ``FrameKind.SYSTEM``."""
        ...

    @property
    def head(self) -> bytes:
        """As sent."""
        ...

    @property
    def segments(self) -> list[memoryview]:
        """As sent, read-only."""
        ...

    def reply(self, status: int, head: bytes, segments: Sequence[Buffer] = ()) -> None:
        """Answer, exactly once, from any thread; after the link closed it does nothing.

        Segments that can change (anything but ``bytes``) are copied before this returns.
        """
        ...


Handler = Callable[[Inbound], None]
"""Runs on the loop where the frame was read; must not block; arranges for one ``reply``."""


class Reply(msgspec.Struct, eq=False):
    """An answer: ``status`` (see ``amino.wire.frames.Status``), head and payload segments."""

    status: int
    head: bytes
    segments: list[memoryview]


class Transport(Protocol):
    """The calling side. One per process; keeps at most a bounded number of links per address."""

    async def request(
        self, address: str, kind: int, head: bytes, segments: Sequence[Buffer] = (), *, timeout_s: float
    ) -> Reply:
        """Send one request and wait for its answer; works on loops and, blocking, in threads (``aio.mode``).

        Args:
            address: ``host:port`` of the peer.
            kind: ``FrameKind.CALL`` or ``FrameKind.SYSTEM``.
            head: opaque here.
            segments: payload; not to be changed by anyone until the answer is here.
            timeout_s: seconds for connecting, sending and waiting together.

        Raises:
            NotExecuted: not sent (``reason`` is ``unreachable`` or ``deadline``).
            OutcomeUnknown: sent, but the link broke, was dropped by ``drop``, or the time ran out.
            Invalid: the frame is larger than the limit, or the handshake was refused (wrong cluster, version, role);
                the error is the peer's own.
        """
        ...

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
        """As ``request``, where no waiting is needed before the request is sent; never waits.

        Args:
            on_reply: called on this loop with the answer as soon as it is read; never if none comes in time.

        Returns:
            Whether it was sent; False if no link is open here, or it has no room.
        """
        ...

    async def peer(self, address: str, *, timeout_s: float) -> Peer:
        """Say who is at ``address``, connecting if no link is open; whether it is trusted decides how to encode.

        Raises:
            NotExecuted: not reachable in time.
            Invalid: the handshake was refused; the error is the peer's own (or ``PermissionDenied``).
        """
        ...

    async def subscribe(
        self, address: str, kind: int, head: bytes, on_push: Callable[[int, bytes], None], on_end: Callable[[], None]
    ) -> Subscription:
        """Send a request whose answer is followed by pushes, on a link of its own; needs a loop.

        ``on_push(kind, head)`` is called on the loop per push in order, the first perhaps before this returns;
        ``on_end`` once when the link is gone, not after ``Subscription.aclose``. Raises as ``request``.
        """
        ...

    def drop(self, address: str, reason: str) -> None:
        """Declare the peer at ``address`` lost: close its links; requests in flight end at once. From any thread."""
        ...

    async def aclose(self) -> None:
        """Close all links. Idempotent."""
        ...


class Subscription(Protocol):
    """A running subscription."""

    reply: Reply

    async def aclose(self) -> None:
        """End it. Idempotent."""
        ...


class Listener(Protocol):
    """The serving side."""

    @property
    def address(self) -> str:
        """``host:port`` actually bound."""
        ...

    def statistics(self) -> dict[str, Any]:
        """Links open, frames refused, bytes in and out."""
        ...

    async def aclose(self, grace_s: float = 0.0) -> None:
        """Stop accepting; after ``grace_s`` seconds close all links. Idempotent."""
        ...
