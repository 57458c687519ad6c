"""The serving side against peers that misbehave: every one is told why, counted, and costs little."""

from __future__ import annotations

import asyncio
import dataclasses
import socket
import struct
import threading

import msgspec
import pytest

from amino.errors import Invalid, Overloaded
from amino.rpc.address import parse_address
from amino.rpc.handshake import Hello, NodeInfo, encode_hello
from amino.rpc.limits import LinkLimits
from amino.rpc.peer_link import PeerListener
from amino.rpc.port import Inbound
from amino.wire.frames import MAGIC, NEVER_BEGUN, FrameKind, FrameParser, Status, decode_error, encode_frame
from tests.rpc.worlds import CALL, LIMITS, World, echo, in_world, until


@pytest.fixture(params=["peer-asyncio", "peer-uvloop"])
def world(request: pytest.FixtureRequest) -> World:
    """The peer link on each event loop."""
    return World(request.param)


class RawPeer:
    """Speaks bytes to a listener."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.parser = FrameParser()
        self.frames: list = []

    @classmethod
    async def connect(cls, world: World, address: str) -> RawPeer:
        endpoint = parse_address(address)
        return world.closing(cls(*await asyncio.open_connection(endpoint.host, endpoint.port)))

    @classmethod
    async def welcomed(cls, world: World, address: str, cluster: str = "simulated") -> RawPeer:
        raw = await cls.connect(world, address)
        raw.send(FrameKind.HELLO, MAGIC, encode_hello(NodeInfo("raw"), cluster, 1 << 20))
        assert (await raw.frame())[0] == FrameKind.WELCOME
        return raw

    def send(self, kind: int, correlation: int, head: bytes, segments: tuple = ()) -> None:
        self.writer.writelines(encode_frame(kind, 0, correlation, head, segments))

    async def frame(self) -> tuple:
        while not self.frames:
            data = await asyncio.wait_for(self.reader.read(1 << 16), 5)
            assert data, "the connection ended"
            self.frames += self.parser.feed(data)
        return self.frames.pop(0)

    async def ended(self) -> None:
        try:
            assert await asyncio.wait_for(self.reader.read(), 5) == b""
        except ConnectionResetError:
            return

    async def ended_after_pings(self) -> None:
        try:
            while data := await asyncio.wait_for(self.reader.read(4096), 5):
                assert {frame[0] for frame in self.parser.feed(data)} == {FrameKind.PING}
        except ConnectionResetError:
            return

    async def aclose(self) -> None:
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except ConnectionError:
            return


async def still_serves(world: World, address: str) -> None:
    """Check that the listener answers others."""
    assert (await world.transport().request(address, CALL, b"fine", timeout_s=5)).head == b"fine"


@in_world
async def test_the_reply_to_a_lone_request_leaves_at_once(world: World) -> None:
    """What a handler does after it has answered keeps no caller waiting, on either event loop."""
    opened = socket.socket()
    heard: list[bytes] = []

    def handle(inbound: Inbound) -> None:
        inbound.reply(Status.OK, b"done")
        heard.append(opened.recv(4096))  # blocks the loop; raises in time-out

    endpoint = parse_address((await world.listen(handle)).address)
    with opened:
        opened.connect((endpoint.host, endpoint.port))
        opened.setblocking(False)
        opened.sendall(
            b"".join(encode_frame(FrameKind.HELLO, 0, MAGIC, encode_hello(NodeInfo("raw"), "simulated", 5000)))
        )
        await asyncio.wait_for(asyncio.get_running_loop().sock_recv(opened, 4096), 5)
        opened.settimeout(5)
        opened.sendall(b"".join(encode_frame(CALL, 0, 7, b"x")))
        await until(lambda: bool(heard))
    assert FrameParser().feed(heard[0])[0][2:4] == (7, b"done")


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\nHost: example\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
        b"\xff" * 300,
        struct.pack("<IBBHQI", 100 * 1024 * 1024, FrameKind.CALL, 0, 0, 1, 5),
        b"".join(encode_frame(FrameKind.HELLO, 0, MAGIC, b"not msgpack")),
        b"".join(encode_frame(FrameKind.HELLO, 0, MAGIC, encode_hello(NodeInfo("x", "emperor"), "simulated", 5000))),
        b"".join(encode_frame(FrameKind.HELLO, 0, MAGIC, encode_hello(NodeInfo("x"), "other", 5000))),
    ],
    ids=["http", "tls", "ones", "100MiB", "unreadable", "role", "cluster"],
)
def test_garbage_instead_of_a_handshake_is_refused(world: World, garbage: bytes) -> None:
    """Whatever does not open with a good HELLO is told why, counted, and disconnected; others are served."""

    async def case() -> None:
        listener = await world.listen()
        raw = await RawPeer.connect(world, listener.address)
        raw.writer.write(garbage)
        kind, _, _, head, _ = await raw.frame()
        assert kind == FrameKind.REFUSED
        assert isinstance(decode_error(head), Invalid)
        await raw.ended()
        assert listener.statistics()["handshakes_refused"] == 1
        await still_serves(world, listener.address)

    world.run(case)


@in_world
async def test_a_version_without_overlap_is_refused(world: World) -> None:
    """A caller of a newer protocol is told both ranges."""
    listener = await world.listen()
    raw = await RawPeer.connect(world, listener.address)
    hello = msgspec.msgpack.encode(Hello("simulated", "future", version_min=7, version_max=9))
    raw.send(FrameKind.HELLO, MAGIC, hello)
    kind, _, _, head, _ = await raw.frame()
    assert kind == FrameKind.REFUSED
    assert "7 to 9" in decode_error(head).message


@in_world
async def test_silence_instead_of_a_handshake_is_ended(world: World) -> None:
    """A connection that says nothing, or half a HELLO, is closed after ``hello_s``."""
    listener = await world.listen()
    silent, half = await RawPeer.connect(world, listener.address), await RawPeer.connect(world, listener.address)
    half.writer.write(b"".join(encode_frame(FrameKind.HELLO, 0, MAGIC, b"x" * 100))[:40])
    for raw in (silent, half):
        kind, _, _, head, _ = await raw.frame()
        assert kind == FrameKind.REFUSED
        assert "no handshake within" in decode_error(head).message
    await until(lambda: listener.statistics()["links"] == 0)


@in_world
async def test_a_100_mib_request_is_answered_with_the_limit(world: World) -> None:
    """A frame over the limit is refused by its header: its sender reads why, although it is still sending."""
    listener = await world.listen()
    raw = await RawPeer.welcomed(world, listener.address)
    size = 100 * 1024 * 1024
    raw.writer.write(struct.pack("<IBBHQI", size, FrameKind.CALL, 0, 0, 9, size - 16))
    sending = asyncio.ensure_future(_pour(raw, 20 * 1024 * 1024))
    kind, status, correlation, head, _ = await raw.frame()
    assert (kind, status, correlation) == (FrameKind.REPLY, Status.ERROR, 9)
    assert str(size) in decode_error(head).message
    assert (await raw.frame())[0] == FrameKind.GOAWAY
    assert listener.statistics()["frames_refused"] == 1
    await still_serves(world, listener.address)
    await until(lambda: listener.statistics()["links"] == 1)
    await sending


async def _pour(raw: RawPeer, size: int) -> None:
    try:
        for _ in range(size // 65536):
            raw.writer.write(bytes(65536))
            await raw.writer.drain()
    except ConnectionError:
        return


@in_world
async def test_garbage_after_the_handshake_ends_the_link_with_a_reason(world: World) -> None:
    """A stream that turns to garbage gets a GOAWAY that says what was wrong; sound requests before it are answered."""
    listener = await world.listen()
    raw = await RawPeer.welcomed(world, listener.address)
    raw.send(CALL, 1, b"sound")
    raw.writer.write(b"\xfe" * 64)
    assert (await raw.frame())[3] == b"sound"
    kind, _, _, head, _ = await raw.frame()
    assert kind == FrameKind.GOAWAY
    assert decode_error(head).message
    await raw.ended()
    await still_serves(world, listener.address)


@in_world
async def test_unknown_uses_of_known_frames_are_ignored(world: World) -> None:
    """A REPLY, PUSH or CANCEL that nobody asked for does no harm, and a PING is answered."""
    listener = await world.listen()
    raw = await RawPeer.welcomed(world, listener.address)
    for kind in (FrameKind.REPLY, FrameKind.PUSH, FrameKind.CANCEL, FrameKind.HELLO, FrameKind.PING):
        raw.send(kind, 3, b"")
    assert (await raw.frame())[0] == FrameKind.PONG
    raw.send(CALL, 4, b"alive")
    assert (await raw.frame())[3] == b"alive"


def test_requests_over_the_bound_are_refused_at_once(world: World) -> None:
    """Beyond ``in_flight_max`` requests of a link are answered Overloaded, and it recovers."""

    async def case() -> None:
        seen: list[Inbound] = []
        listener = await world.listen(seen.append)
        raw = await RawPeer.welcomed(world, listener.address)
        for n in range(LIMITS.in_flight_max + 3):
            raw.send(CALL, n, b"")
        for n in range(3):
            _, status, correlation, head, _ = await raw.frame()
            assert (status, correlation) == (Status.ERROR, LIMITS.in_flight_max + n)
            assert isinstance(decode_error(head), Overloaded)
        assert len(seen) == LIMITS.in_flight_max
        seen[0].reply(0, b"done")
        raw.send(CALL, 1000, b"")
        assert (await raw.frame())[3] == b"done"
        await until(lambda: len(seen) == LIMITS.in_flight_max + 1)

    world.run(case)


def test_links_over_the_bound_are_refused() -> None:
    """Beyond ``links_max`` connections are refused with Overloaded, and accepted again once others have gone."""
    world = World("peer-asyncio", dataclasses.replace(LIMITS, links_max=2))

    async def case() -> None:
        listener = await world.listen()
        first, second = await RawPeer.welcomed(world, listener.address), await RawPeer.welcomed(world, listener.address)
        third = await RawPeer.connect(world, listener.address)
        kind, _, _, head, _ = await third.frame()
        assert kind == FrameKind.REFUSED
        assert isinstance(decode_error(head), Overloaded)
        for raw in (first, second, third):
            await raw.aclose()
        await until(lambda: listener.statistics()["links"] == 0)
        await still_serves(world, listener.address)

    world.run(case)


@in_world
async def test_a_peer_that_does_not_read_costs_bounded_memory(world: World) -> None:
    """When replies pile up no more requests are read; other links go on, and the slow one gets all once it reads."""

    def generous(inbound: Inbound) -> None:
        inbound.reply(0, inbound.head, [bytes(1 << 19)] if inbound.head == b"much" else [])

    listener = await world.listen(generous)
    raw = await RawPeer.welcomed(world, listener.address)
    raw.reader._limit = 1  # the test's own reader must not drain the socket
    total = 60
    for n in range(total):
        raw.send(CALL, n, b"much")
    link = next(iter(listener._links))
    await until(lambda: link._congested)
    await still_serves(world, listener.address)
    assert listener.statistics()["unsent_bytes"] <= LIMITS.send_pause_bytes + (1 << 20)
    for _ in range(total):
        assert (await raw.frame())[0] == FrameKind.REPLY


def test_a_peer_that_never_reads_is_cut() -> None:
    """A link whose unsent bytes exceed the bound is closed instead of growing without end."""
    limits = LinkLimits(frame_bytes_max=1 << 20, send_pause_bytes=1 << 16, send_buffer_bytes_max=3 << 20)
    world = World("peer-asyncio", limits)

    async def case() -> None:
        seen: list[Inbound] = []
        listener = await world.listen(seen.append)
        raw = await RawPeer.welcomed(world, listener.address)
        for n in range(64):
            raw.send(CALL, n, b"")
        await until(lambda: len(seen) == 64)
        pushed = [seen[0].link.push(1, b"", [bytes(1 << 19)]) for _ in range(64)]
        assert False in pushed
        for one in seen:
            one.reply(0, b"", [bytes(1 << 19)])
        assert not seen[0].link.is_open
        await until(lambda: listener.statistics()["links"] == 0)

    world.run(case)


def test_incomplete_frames_of_all_links_are_bounded() -> None:
    """Links that begin large frames and never end them cannot fill the memory: the one beyond the bound is cut."""
    limits = dataclasses.replace(LIMITS, receive_buffer_bytes_max=3 << 20)
    world = World("peer-asyncio", limits)

    async def case() -> None:
        listener = await world.listen()
        raws = [await RawPeer.welcomed(world, listener.address) for _ in range(3)]
        size = (2 << 20) - 100
        for raw in raws:
            raw.writer.write(struct.pack("<IBBHQI", size, FrameKind.CALL, 0, 0, 9, size - 16) + bytes(1_500_000))
            await raw.writer.drain()
        ends = [asyncio.ensure_future(raw.frame()) for raw in raws]
        done, waiting = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        kind, _, _, head, _ = done.pop().result()
        assert kind == FrameKind.GOAWAY
        assert isinstance(decode_error(head), Overloaded)
        assert 0 < listener.statistics()["buffered"] <= 3 << 20
        for end in waiting:
            end.cancel()
        await asyncio.wait(ends)
        await still_serves(world, listener.address)
        for raw in raws:
            await raw.aclose()
        await until(lambda: listener.statistics()["links"] == 1)
        assert listener.statistics()["buffered"] == 0

    world.run(case)


@in_world
async def test_replies_from_threads_share_wake_ups(world: World) -> None:
    """Replies given from other threads all arrive, each at its own request."""
    waiting: list[Inbound] = []
    listener = await world.listen(waiting.append)
    transport = world.transport()
    calls = [
        asyncio.ensure_future(transport.request(listener.address, CALL, b"%d" % n, timeout_s=5)) for n in range(60)
    ]
    await until(lambda: len(waiting) == 60)

    def answer(mine: list[Inbound]) -> None:
        for one in mine:
            one.reply(0, one.head, [b"from a thread"])

    threads = [threading.Thread(target=answer, args=(waiting[n::4],)) for n in range(4)]
    for thread in threads:
        thread.start()
    replies = await asyncio.gather(*calls)
    for thread in threads:
        thread.join()
    assert [reply.head for reply in replies] == [b"%d" % n for n in range(60)]


@in_world
async def test_a_segment_changed_after_the_reply_is_sent_as_it_was(world: World) -> None:
    """A mutable segment may be changed as soon as ``reply`` has returned."""
    state = bytearray(b"a" * 1_000_000)

    def snapshot(inbound: Inbound) -> None:
        inbound.reply(0, b"", [state])
        state[:] = b"b" * len(state)

    listener = await world.listen(snapshot)
    reply = await world.transport().request(listener.address, CALL, b"", timeout_s=5)
    assert bytes(reply.segments[0]) == b"a" * 1_000_000


def test_a_silent_peer_is_pinged_and_given_up() -> None:
    """A peer that stops answering pings is disconnected; one that answers stays."""
    world = World("peer-asyncio", dataclasses.replace(LIMITS, ping_s=0.05, ping_misses_max=3))

    async def case() -> None:
        listener = await world.listen()
        transport = world.transport()
        await transport.request(listener.address, CALL, b"", timeout_s=5)
        raw = await RawPeer.welcomed(world, listener.address)
        assert (await raw.frame())[0] == FrameKind.PING
        await raw.ended_after_pings()
        await transport.request(listener.address, CALL, b"", timeout_s=5)
        assert listener.statistics()["links_total"] == 2

    world.run(case)


@in_world
async def test_a_taken_address_is_an_error_of_the_system(world: World) -> None:
    """Listening where someone listens raises OSError, and nothing is left behind."""
    listener = await world.listen()
    with pytest.raises(OSError, match="in use"):
        await PeerListener.start(
            listener.address, echo, cluster="simulated", node_info=NodeInfo("x", "server", "s2", 1)
        )


@pytest.mark.parametrize("address", ["nowhere", "1.2.3.4", "host:port", ":80", "127.0.0.1:70000", "127.0.0.1:-1"])
def test_malformed_addresses_are_refused(address: str) -> None:
    """An address of another form is refused with an example of the right one."""
    with pytest.raises(Invalid, match=r"127\.0\.0\.1:7400"):
        parse_address(address)


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({"frame_bytes_max": 10}, "handshake"),
        ({"send_buffer_bytes_max": 10}, "send_buffer_bytes_max"),
        ({"in_flight_max": 0}, "in_flight_max"),
        ({"hello_s": 0.0}, "hello_s"),
    ],
)
def test_limits_that_contradict_are_refused(change: dict, wanted: str) -> None:
    """A limit that breaks a relation names itself."""
    with pytest.raises(Invalid, match=wanted):
        dataclasses.replace(LIMITS, **change)


@in_world
async def test_the_last_word_of_a_link_says_whether_anything_unanswered_was_begun(world: World) -> None:
    """A listener that closes says so to peers of whom nothing runs; a peer whose request runs must not hear it."""
    seen: list[Inbound] = []
    listener = await world.listen(seen.append)
    idle, busy = [await RawPeer.welcomed(world, listener.address) for _ in range(2)]
    busy.send(CALL, 1, b"runs")
    await until(lambda: bool(seen))
    await listener.aclose(grace_s=0.01)
    first, last = await idle.frame(), await idle.frame()
    assert [(kind, flags) for kind, flags, *_ in (first, last)] == [
        (FrameKind.GOAWAY, 0),
        (FrameKind.GOAWAY, NEVER_BEGUN),
    ]
    assert (await busy.frame())[:2] == (FrameKind.GOAWAY, 0)
    await idle.ended()
    await busy.ended()
