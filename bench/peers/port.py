"""What a peer is.

Owns the interface of a peer and the measuring of one. Leaves the peers to their modules.
Invariant: server and client are processes of their own on loopback, the client starts and ends the server.
Failure behaviour: whatever fails ends the measuring process with the error; ``run`` reports it as the reason.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from bench.placement import place_client, place_server
from bench.stats import p50, p99

if TYPE_CHECKING:
    from collections.abc import Callable

IN_FLIGHT = 64
KIB = b"x" * 1024
MIB = b"x" * (1024 * 1024)


@dataclass(slots=True)
class Measured:
    """Latencies in microseconds, rates in calls per second; None where a peer cannot do it or was not asked."""

    null_us: float | None = None
    null_p99_us: float | None = None
    in_flight_per_s: float | None = None
    kib_us: float | None = None
    mib_us: float | None = None


class Client(Protocol):
    """The calling side of a peer, connected."""

    def null(self, seconds: float) -> list[float]:
        """Call a method without arguments and result, one at a time; return the seconds each call took."""
        ...

    def echo(self, payload: bytes, seconds: float) -> list[float]:
        """As ``null``, with an argument that comes back."""
        ...

    def in_flight(self, number: int, seconds: float) -> float | None:
        """Keep ``number`` null calls in flight; return calls per second, None if it cannot."""
        ...

    def close(self) -> None:
        """Disconnect."""
        ...


class Peer(Protocol):
    """A system to compare with.

    Attributes:
        placed: whether client and server are put on a core each; not where the client starts many processes by itself.
    """

    name: str
    requires: tuple[str, ...]
    placed: bool

    def serve(self, announce: Callable[[str], None]) -> None:
        """Run the server until killed; call ``announce(address)`` once it accepts calls."""
        ...

    def connect(self, address: str) -> Client:
        """Connect to the server at ``address``; the empty address means that the peer starts its own."""
        ...


def measure(peer: Peer, seconds: float, *, payloads: bool = True) -> Measured:
    """Start the peer's server, measure for about four times ``seconds``, end the server."""
    command = [sys.executable, "-m", "bench.peers", peer.name, "serve"]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        address = server.stdout.readline().strip()
        if not address:
            raise RuntimeError(f"the server of {peer.name} ended before it was ready")
        if peer.placed:
            place_server(server.pid)
            place_client()
        client = peer.connect(address)
        try:
            took = client.null(seconds)
            measured = Measured(null_us=p50(took) * 1e6, null_p99_us=p99(took) * 1e6)
            measured.in_flight_per_s = client.in_flight(IN_FLIGHT, seconds)
            if payloads:
                measured.kib_us = p50(client.echo(KIB, seconds / 2)) * 1e6
                measured.mib_us = p50(client.echo(MIB, seconds / 2)) * 1e6
            return measured
        finally:
            client.close()
    finally:
        server.kill()
        server.wait()
        server.stdout.close()
        if server.stdin is not None:
            server.stdin.close()
