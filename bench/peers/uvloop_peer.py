"""Peer: raw echo on uvloop; the baseline of the null call."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.peers import echo

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.peers.port import Client


class UvloopEcho:
    """Length-prefixed echo on asyncio protocols, run by uvloop."""

    name = "uvloop"
    requires = ("uvloop",)
    placed = True

    def serve(self, announce: Callable[[str], None]) -> None:
        """Run the echo server until killed."""
        import uvloop

        echo.serve(announce, uvloop.new_event_loop)

    def connect(self, address: str) -> Client:
        """Connect to the echo server."""
        import uvloop

        return echo.EchoClient(address, uvloop.new_event_loop)


PEER = UvloopEcho()
