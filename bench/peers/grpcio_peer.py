"""Peer: grpcio, unary calls on grpc.aio with bytes as messages (no protobuf cost)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from bench.stats import rate_async, sequential_async

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.peers.port import Client

_OPTIONS = [("grpc.max_receive_message_length", 16 << 20), ("grpc.max_send_message_length", 16 << 20)]


class _Client:
    def __init__(self, address: str) -> None:
        import grpc

        self._runner = asyncio.Runner()

        async def connect() -> tuple[Any, Any]:
            channel = grpc.aio.insecure_channel(address, options=_OPTIONS)
            await channel.channel_ready()
            return channel, channel.unary_unary("/bench.Echo/Call")

        self._channel, self._call = self._runner.run(connect())

    def null(self, seconds: float) -> list[float]:
        return self.echo(b"", seconds)

    def echo(self, payload: bytes, seconds: float) -> list[float]:
        return self._runner.run(sequential_async(lambda: self._call(payload), seconds))

    def in_flight(self, number: int, seconds: float) -> float:
        return self._runner.run(rate_async(lambda: self._call(b""), number, seconds))

    def close(self) -> None:
        self._runner.run(self._channel.close())
        self._runner.close()


class Grpcio:
    """grpc.aio at both ends."""

    name = "grpcio"
    requires = ("grpc",)
    placed = True

    def serve(self, announce: Callable[[str], None]) -> None:
        """Run the server until killed."""
        import grpc

        async def call(request: bytes, _context: Any) -> bytes:
            return request

        async def main() -> None:
            server = grpc.aio.server(options=_OPTIONS)
            handlers = {"Call": grpc.unary_unary_rpc_method_handler(call)}
            server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench.Echo", handlers),))
            port = server.add_insecure_port("127.0.0.1:0")
            await server.start()
            announce(f"127.0.0.1:{port}")
            await server.wait_for_termination()

        asyncio.run(main())

    def connect(self, address: str) -> Client:
        """Connect to the server."""
        return _Client(address)


PEER = Grpcio()
