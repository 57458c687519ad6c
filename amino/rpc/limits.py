"""The limits of a link: sizes, counts and times.

Owns ``LinkLimits``. Leaves enforcing them to the links. Invariant: the relations checked in ``__post_init__``.
Failure behaviour: a limit that breaks a relation is refused with ``Invalid`` when it is made.
"""

from __future__ import annotations

from dataclasses import dataclass

from amino.errors import Invalid
from amino.limits import (
    BLOCKING_LINKS_PER_ADDRESS_MAX,
    FRAME_BYTES_MAX,
    HANDSHAKE_BYTES_MAX,
    HANG_S,
    IN_FLIGHT_PER_LINK_MAX,
    LINKS_PER_SERVER_MAX,
    SEND_BUFFER_BYTES_MAX,
)


@dataclass(frozen=True, slots=True)
class LinkLimits:
    """Limits of every link of a listener or transport.

    Args:
        frame_bytes_max: largest frame sent or accepted; the smaller of both ends' counts.
        in_flight_max: unanswered requests per link; beyond it requests are refused with ``Overloaded``.
        links_max: links a listener accepts.
        blocking_links_max: blocking links a transport keeps per address, busy ones included.
        send_pause_bytes: above so many unsent bytes no more requests are read, and callers wait before sending.
        send_buffer_bytes_max: a link with more unsent bytes is cut: its peer does not read.
        receive_buffer_bytes_max: incomplete frames of all links of a listener together; the link that exceeds it is cut.
        hello_s: the handshake is complete in this time, or the link is closed.
        connect_s: connecting takes at most this, whatever the caller's time-out.
        ping_s: a link that heard nothing for so long sends a ping.
        ping_misses_max: unanswered pings after which the peer is taken for gone. The product is longer than
            ``HANG_S``: a peer whose user code keeps the interpreter lock is alive until its supervisor says otherwise.
        linger_s: how long a refused peer gets to read why.
    """

    frame_bytes_max: int = FRAME_BYTES_MAX
    in_flight_max: int = IN_FLIGHT_PER_LINK_MAX
    links_max: int = LINKS_PER_SERVER_MAX
    blocking_links_max: int = BLOCKING_LINKS_PER_ADDRESS_MAX
    send_pause_bytes: int = 4 * 1024 * 1024
    send_buffer_bytes_max: int = SEND_BUFFER_BYTES_MAX
    receive_buffer_bytes_max: int = 1024 * 1024 * 1024
    hello_s: float = 5.0
    connect_s: float = 2.0
    ping_s: float = 3.0
    ping_misses_max: int = 5
    linger_s: float = 1.0

    def __post_init__(self) -> None:
        if self.frame_bytes_max < HANDSHAKE_BYTES_MAX:
            raise Invalid(
                f"frame_bytes_max={self.frame_bytes_max} cannot hold a handshake; use {HANDSHAKE_BYTES_MAX} or more"
            )
        if self.send_buffer_bytes_max < self.frame_bytes_max + self.send_pause_bytes:
            raise Invalid("send_buffer_bytes_max must hold send_pause_bytes and one frame of frame_bytes_max; raise it")
        if self.receive_buffer_bytes_max < self.frame_bytes_max:
            raise Invalid("receive_buffer_bytes_max must hold one frame of frame_bytes_max; raise it")
        for name in ("in_flight_max", "links_max", "blocking_links_max", "ping_misses_max"):
            if getattr(self, name) < 1:
                raise Invalid(f"{name}={getattr(self, name)} must be 1 or more")
        for name in ("hello_s", "connect_s", "ping_s", "linger_s"):
            if not getattr(self, name) > 0:
                raise Invalid(f"{name}={getattr(self, name)} must be more than 0 seconds")


LIMITS = LinkLimits()

assert LIMITS.ping_s * LIMITS.ping_misses_max > HANG_S
