"""What the peer link costs beside bare sockets, in one run: ``python -m bench.peerlink_probe [--json FILE]``.

Owns the probe behind ``docs/decisions/0003-peer-link.md``. Leaves the benchmarks with bars to their own modules.
The server is a process of its own with two ports: a bare uvloop echo of length-prefixed messages, and a peer listener
whose handler answers where the frame was read. Each measurement alternates with the others, round by round, so that
noise of the machine meets all of them; the median of the rounds' medians is reported.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import uvloop

from amino.aio.mode import drive
from amino.rpc.handshake import NodeInfo
from amino.rpc.peer_link import PeerListener
from amino.rpc.peer_transport import PeerTransport
from amino.wire.frames import FrameKind

CALL = int(FrameKind.CALL)
PAYLOAD = b"x" * 100
IN_FLIGHT = 64
BARS = {"async": 2.5, "blocking": 2.2, "per_second": 25_000}


class BareEcho(asyncio.Protocol):
    """Sends back whatever it reads."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection."""
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Take what arrived."""
        self.transport.write(data)


class BareClient(asyncio.Protocol):
    """One 100-byte message at a time, or many in flight, over the bare echo."""

    def __init__(self) -> None:
        self.waiting: list[asyncio.Future[None]] = []
        self.buffered = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection."""
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Take what arrived."""
        self.buffered += len(data)
        while self.buffered >= 104:
            self.buffered -= 104
            self.waiting.pop(0).set_result(None)

    def call(self) -> asyncio.Future[None]:
        """Send one message; the future is done when its echo is here."""
        future = asyncio.get_running_loop().create_future()
        self.waiting.append(future)
        self.transport.write(struct.pack("<I", 100) + PAYLOAD)
        return future


async def serve() -> None:
    loop = asyncio.get_running_loop()
    bare = await loop.create_server(BareEcho, "127.0.0.1", 0)
    listener = await PeerListener.start(
        "127.0.0.1:0",
        lambda inbound: inbound.reply(0, inbound.head, inbound.segments),
        cluster="probe",
        node_info=NodeInfo("probe-server", "server", "s1", 1),
    )
    print(json.dumps([bare.sockets[0].getsockname()[1], listener.address]), flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    await listener.aclose()
    bare.close()


def p50(call: Callable[[], object], count: int) -> float:
    times = []
    for _ in range(count):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e6


def bare_blocking(port: int, count: int) -> float:
    with socket.create_connection(("127.0.0.1", port)) as opened:
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        message = struct.pack("<I", 100) + PAYLOAD

        def call() -> None:
            opened.sendall(message)
            size = 0
            while size < 104:
                size += len(opened.recv(65536))

        p50(call, count // 5)
        return p50(call, count)


def link_blocking(address: str, count: int, payload: bytes = PAYLOAD) -> float:
    transport = PeerTransport("probe", "probe")
    segments = (payload,) if len(payload) > 1000 else ()
    head = b"" if segments else payload

    def call() -> None:
        drive(transport.request(address, CALL, head, segments, timeout_s=30))

    p50(call, count // 5)
    result = p50(call, count)
    drive(transport.aclose())
    return result


async def awaited(call: Callable[[], object], count: int) -> tuple[float, float]:
    """Return the p50 in microseconds of sequential calls, and calls per second with 64 in flight."""

    async def sequential(n: int) -> list[float]:
        times = []
        for _ in range(n):
            start = time.perf_counter()
            await call()
            times.append(time.perf_counter() - start)
        return times

    await sequential(count // 5)
    times = await sequential(count)
    each = count // 8
    start = time.perf_counter()
    await asyncio.gather(*(sequential(each) for _ in range(IN_FLIGHT)))
    rate = each * IN_FLIGHT / (time.perf_counter() - start)
    return statistics.median(times) * 1e6, rate


async def bare_async(port: int, count: int) -> tuple[float, float]:
    transport, client = await asyncio.get_running_loop().create_connection(BareClient, "127.0.0.1", port)
    result = await awaited(client.call, count)
    transport.close()
    await asyncio.sleep(0)
    return result


async def link_async(address: str, count: int) -> tuple[float, float]:
    transport = PeerTransport("probe", "probe")
    result = await awaited(lambda: transport.request(address, CALL, PAYLOAD, timeout_s=30), count)
    await transport.aclose()
    return result


def probe(rounds: int, count: int) -> dict[str, float]:
    server = subprocess.Popen(
        [sys.executable, "-m", "bench.peerlink_probe", "--serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        port, address = json.loads(server.stdout.readline())
        rows: dict[str, list[float]] = {}

        def note(name: str, value: float) -> None:
            rows.setdefault(name, []).append(value)

        for _ in range(rounds):
            note("bare_blocking_us", bare_blocking(port, count))
            note("link_blocking_us", link_blocking(address, count))
            for loops, run in (("uvloop", uvloop.run), ("asyncio", asyncio.run)):
                latency, rate = run(bare_async(port, count))
                note(f"bare_{loops}_us", latency)
                note(f"bare_{loops}_per_s", rate)
                latency, rate = run(link_async(address, count))
                note(f"link_{loops}_us", latency)
                note(f"link_{loops}_per_s", rate)
            note("link_blocking_1mib_us", link_blocking(address, 100, bytes(1 << 20)))
        result = {name: statistics.median(values) for name, values in rows.items()}
        result["ratio_blocking"] = result["link_blocking_us"] / result["bare_blocking_us"]
        result["ratio_async"] = result["link_uvloop_us"] / result["bare_uvloop_us"]
        return result
    finally:
        server.stdin.close()
        server.wait()
        server.stdout.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--count", type=int, default=3000)
    options = parser.parse_args()
    if options.serve:
        uvloop.run(serve())
        return
    result = probe(options.rounds, options.count)
    for name, value in result.items():
        print(f"{name:>24} {value:10.2f}")
    if options.json:
        options.json.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
