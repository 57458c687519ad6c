"""Peer: raw echo on blocking sockets, a thread per connection at the server."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING

from bench.peers.echo import LENGTH, NULL
from bench.stats import rate_batches, sequential

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.peers.port import Client


def _read(connection: socket.socket, size: int) -> bytes:
    data = connection.recv(size)
    if len(data) == size:
        return data
    parts = bytearray(data)
    while len(parts) < size:
        data = connection.recv(size - len(parts))
        if not data:
            raise ConnectionError("the other end closed the connection")
        parts += data
    return bytes(parts)


def _answer(connection: socket.socket) -> None:
    try:
        while True:
            payload = _read(connection, LENGTH.unpack(_read(connection, 4))[0])
            connection.sendall(LENGTH.pack(len(payload)) + payload)
    except (ConnectionError, OSError):
        connection.close()


class _Client:
    def __init__(self, address: str) -> None:
        host, port = address.split(":")
        self._connection = socket.create_connection((host, int(port)))
        self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def _call(self, payload: bytes) -> None:
        self._connection.sendall(LENGTH.pack(len(payload)) + payload)
        _read(self._connection, LENGTH.unpack(_read(self._connection, 4))[0])

    def _batch(self, number: int) -> None:
        self._connection.sendall((LENGTH.pack(len(NULL)) + NULL) * number)
        _read(self._connection, (4 + len(NULL)) * number)

    def null(self, seconds: float) -> list[float]:
        return self.echo(NULL, seconds)

    def echo(self, payload: bytes, seconds: float) -> list[float]:
        return sequential(lambda: self._call(payload), seconds)

    def in_flight(self, number: int, seconds: float) -> float:
        return rate_batches(self._batch, number, seconds)

    def close(self) -> None:
        self._connection.close()


class BlockingEcho:
    """Length-prefixed echo on blocking sockets."""

    name = "blocking"
    requires: tuple[str, ...] = ()
    placed = True

    def serve(self, announce: Callable[[str], None]) -> None:
        """Run the echo server until killed."""
        listener = socket.create_server(("127.0.0.1", 0))
        announce(f"127.0.0.1:{listener.getsockname()[1]}")
        while True:
            connection, _ = listener.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=_answer, args=(connection,), daemon=True).start()

    def connect(self, address: str) -> Client:
        """Connect to the echo server."""
        return _Client(address)


PEER = BlockingEcho()
