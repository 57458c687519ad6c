"""Peer: rpyc 6, threaded server; asynchronous calls in flight on one connection."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

from bench.stats import rate_batches, sequential

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.peers.port import Client


class _Client:
    def __init__(self, address: str) -> None:
        import rpyc

        host, port = address.split(":")
        self._connection = rpyc.connect(host, int(port))
        channel = self._connection._channel  # noqa: SLF001 - rpyc has no public way to its socket
        channel.stream.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._null = self._connection.root.null
        self._echo = self._connection.root.echo
        self._null_async = rpyc.async_(self._null)

    def _batch(self, number: int) -> None:
        for result in [self._null_async() for _ in range(number)]:
            result.wait()

    def null(self, seconds: float) -> list[float]:
        return sequential(self._null, seconds)

    def echo(self, payload: bytes, seconds: float) -> list[float]:
        return sequential(lambda: self._echo(payload), seconds)

    def in_flight(self, number: int, seconds: float) -> float:
        return rate_batches(self._batch, number, seconds)

    def close(self) -> None:
        self._connection.close()


class Rpyc:
    """rpyc with its threaded server."""

    name = "rpyc"
    requires = ("rpyc",)
    placed = True

    def serve(self, announce: Callable[[str], None]) -> None:
        """Run the server until killed."""
        import rpyc
        from rpyc.utils.server import ThreadedServer

        class Service(rpyc.Service):  # type: ignore[misc]
            def exposed_null(self) -> None:
                return None

            def exposed_echo(self, payload: Any) -> Any:
                return payload

        server = ThreadedServer(Service(), hostname="127.0.0.1", port=0)
        server.listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # inherited by what it accepts
        announce(f"127.0.0.1:{server.port}")
        server.start()

    def connect(self, address: str) -> Client:
        """Connect to the server."""
        return _Client(address)


PEER = Rpyc()
