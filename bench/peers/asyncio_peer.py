"""Peer: raw echo on asyncio's own event loop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from bench.peers import echo

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.peers.port import Client


class AsyncioEcho:
    """Length-prefixed echo on asyncio protocols."""

    name = "asyncio"
    requires: tuple[str, ...] = ()
    placed = True

    def serve(self, announce: Callable[[str], None]) -> None:
        """Run the echo server until killed."""
        echo.serve(announce, asyncio.new_event_loop)

    def connect(self, address: str) -> Client:
        """Connect to the echo server."""
        return echo.EchoClient(address, asyncio.new_event_loop)


PEER = AsyncioEcho()
