"""Replies that worker threads send by themselves: whole, in order, and counted."""

from __future__ import annotations

import asyncio
import socket
import threading

import pytest

from amino.rpc.direct import DirectSocket
from amino.rpc.port import Inbound
from tests.rpc.worlds import CALL, World, in_world, until


@pytest.fixture(params=["peer-asyncio", "peer-uvloop"])
def world(request: pytest.FixtureRequest) -> World:
    """The peer link on each event loop."""
    return World(request.param)


def from_a_thread(inbound: Inbound) -> None:
    """Answer a request with itself, from a thread, and wait for that."""
    thread = threading.Thread(target=lambda: inbound.reply(0, inbound.head, [b"from a thread"]))
    thread.start()
    thread.join()


@in_world
async def test_threads_answer_without_the_loop(world: World) -> None:
    """The first reply goes by the loop, the next ones leave in their threads, and the statistics know them all."""
    listener = await world.listen(from_a_thread)
    transport = world.transport()
    for n in range(5):
        reply = await transport.request(listener.address, CALL, b"%d" % n, timeout_s=5)
        assert reply.head == b"%d" % n
    statistics = listener.statistics()
    assert next(iter(listener._links)).direct_frames == 4
    assert statistics["in_flight"] == 0
    assert statistics["frames_out"] == 6  # the welcome is one
    await transport.aclose()
    await until(lambda: listener.statistics()["links"] == 0)
    assert listener.statistics()["frames_out"] == 6
    assert listener.statistics()["bytes_out"] == statistics["bytes_out"]


@in_world
async def test_replies_of_threads_and_of_the_loop_mix(world: World) -> None:
    """With many in flight, small and large, from threads and not, each request gets its own reply, whole."""
    threads: list[threading.Thread] = []

    def answer(inbound: Inbound) -> None:
        number = int(inbound.head)
        segments = [b"%d" % number * (100_000 if number % 7 == 0 else 10)]
        if number % 3 == 0:
            inbound.reply(0, inbound.head, segments)
            return
        threads.append(threading.Thread(target=inbound.reply, args=(0, inbound.head, segments)))
        threads[-1].start()

    listener = await world.listen(answer)
    transport = world.transport()

    async def calls(first: int) -> None:
        for number in range(first, first + 60):
            reply = await transport.request(listener.address, CALL, b"%d" % number, timeout_s=5)
            assert reply.head == b"%d" % number
            assert bytes(reply.segments[0]) == b"%d" % number * (100_000 if number % 7 == 0 else 10)

    await asyncio.gather(*(calls(first) for first in (0, 100, 200)))
    for thread in threads:
        thread.join()
    assert listener.statistics()["in_flight"] == 0


class Transport:
    """A transport over one end of a socket pair, which keeps what it is to write."""

    def __init__(self, opened: socket.socket) -> None:
        self.opened = opened
        self.written: list[bytes] = []
        self.waiting = 0

    def get_extra_info(self, name: str) -> object:
        """Return the socket."""
        return self.opened if name == "socket" else None

    def get_write_buffer_size(self) -> int:
        """Return what the test says."""
        return self.waiting

    def write(self, data: bytes) -> None:
        """Keep it."""
        self.written.append(bytes(data))


def test_what_does_not_fit_follows_before_anything_else() -> None:
    """Of a frame of which a part has left, the rest is the next thing written; meanwhile nothing is sent directly."""

    async def main() -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            transport = Transport(ours)
            direct = DirectSocket(asyncio.get_running_loop(), transport)
            frame = bytes(range(256)) * 4096
            assert direct.send(frame)
            assert not direct.send(b"later")
            direct.write([b"next"])
            assert len(transport.written) == 2
            assert transport.written[1] == b"next"
            ours.close()
            direct.close()
            received = b""
            while data := theirs.recv(1 << 16):
                received += data
            assert received + transport.written[0] == frame
            await asyncio.sleep(0)
            assert len(transport.written) == 2

    asyncio.run(main())


def test_nothing_overtakes_what_waits_or_is_sent_after_the_end() -> None:
    """While the transport has unsent bytes, and once it is closed, everything is left to the loop."""

    async def main() -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            transport = Transport(ours)
            direct = DirectSocket(asyncio.get_running_loop(), transport)
            transport.waiting = 1
            assert not direct.send(b"overtakes")
            transport.waiting = 0
            assert direct.send(b"goes")
            direct.close()
            direct.close()
            assert not direct.send(b"late")
            direct.write([b"late"])
            assert transport.written == []
            assert theirs.recv(100) == b"goes"

    asyncio.run(main())


def test_a_broken_connection_is_left_to_the_transport() -> None:
    """An error of the socket is no error of the thread that answers."""

    async def main() -> None:
        ours, theirs = socket.socketpair()
        with ours:
            direct = DirectSocket(asyncio.get_running_loop(), Transport(ours))
            theirs.close()
            assert not direct.send(b"nobody")
            direct.close()

    asyncio.run(main())
