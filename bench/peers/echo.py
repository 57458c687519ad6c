"""A length-prefixed echo over TCP on asyncio protocols: the floor that the raw peers share.

Owns server and client of that echo. Leaves the choice of event loop to the peers.
Invariant: answers come in the order of the requests, so the oldest waiter gets the next one.
Failure behaviour: a lost connection fails all waiters.
"""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from typing import TYPE_CHECKING, cast

from bench.stats import rate_async, sequential_async

if TYPE_CHECKING:
    from collections.abc import Callable

NULL = b"x" * 100
LENGTH = struct.Struct("!I")


class _Frames(asyncio.Protocol):
    def __init__(self) -> None:
        self._data = bytearray()
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        buffered = self._data
        if not buffered and len(data) >= 4 and len(data) == 4 + LENGTH.unpack_from(data)[0]:
            self.frame(data[4:])  # the usual case: one whole frame
            return
        buffered += data
        at = 0
        while len(buffered) - at >= 4:
            size = LENGTH.unpack_from(buffered, at)[0]
            if len(buffered) - at - 4 < size:
                break
            with memoryview(buffered) as view:
                payload = bytes(view[at + 4 : at + 4 + size])
            self.frame(payload)
            at += 4 + size
        if at:
            del buffered[:at]

    def frame(self, payload: bytes) -> None:
        raise NotImplementedError


class _Echo(_Frames):
    def frame(self, payload: bytes) -> None:
        assert self.transport is not None
        self.transport.write(LENGTH.pack(len(payload)) + payload)


class _Caller(_Frames):
    def __init__(self) -> None:
        super().__init__()
        self._waiters: deque[asyncio.Future[bytes]] = deque()
        self._loop = asyncio.get_running_loop()

    def call(self, payload: bytes) -> asyncio.Future[bytes]:
        assert self.transport is not None
        waiter: asyncio.Future[bytes] = self._loop.create_future()
        self._waiters.append(waiter)
        self.transport.write(LENGTH.pack(len(payload)) + payload)
        return waiter

    def frame(self, payload: bytes) -> None:
        self._waiters.popleft().set_result(payload)

    def connection_lost(self, exc: Exception | None) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_exception(exc or ConnectionError("the echo server closed the connection"))


class EchoClient:
    """The calling side, on an event loop of its own."""

    def __init__(self, address: str, new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
        host, port = address.split(":")
        self._runner = asyncio.Runner(loop_factory=new_loop)

        async def connect() -> _Caller:
            _, caller = await asyncio.get_running_loop().create_connection(_Caller, host, int(port))
            return caller

        self._caller = self._runner.run(connect())

    def null(self, seconds: float) -> list[float]:
        """Echo 100 bytes, one at a time."""
        return self.echo(NULL, seconds)

    def echo(self, payload: bytes, seconds: float) -> list[float]:
        """Echo ``payload``, one at a time."""
        return self._runner.run(sequential_async(lambda: self._caller.call(payload), seconds))

    def in_flight(self, number: int, seconds: float) -> float:
        """Echo 100 bytes, ``number`` at a time on one connection."""
        return self._runner.run(rate_async(lambda: self._caller.call(NULL), number, seconds))

    def close(self) -> None:
        """Disconnect."""
        if self._caller.transport is not None:
            self._caller.transport.close()
        self._runner.close()


def serve(announce: Callable[[str], None], new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """Run the echo server until killed."""

    async def main() -> None:
        server = await asyncio.get_running_loop().create_server(_Echo, "127.0.0.1", 0)
        announce(f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
        await server.serve_forever()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())
