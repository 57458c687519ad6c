"""The calling side in plain threads: pools, stale connections, time-outs, forks."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import random
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import uvloop

from amino.aio.clock import RealClock
from amino.aio.mode import drive
from amino.errors import Invalid, NotExecuted, OutcomeUnknown
from amino.rpc.handshake import NodeInfo, encode_hello
from amino.rpc.limits import LinkLimits
from amino.rpc.peer_link import PeerListener
from amino.rpc.peer_transport import PeerTransport
from amino.rpc.port import Inbound, Reply
from amino.wire.frames import MAGIC, NEVER_BEGUN, Frame, FrameKind, FrameParser, encode_error, encode_frame
from tests.rpc.worlds import CALL, LIMITS, echo


class ShiftedClock(RealClock):
    """The real clock, moved on by ``shift_s``: a connection idles without anybody waiting."""

    __slots__ = ("shift_s",)

    def __init__(self) -> None:
        self.shift_s = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.shift_s


class ServerThread:
    """A listener on a loop of its own thread.

    Requests whose head is ``sleep <seconds>`` are answered late; those whose head is ``mute`` never.
    """

    def __init__(self, address: str = "127.0.0.1:0") -> None:
        self.seen: list[bytes] = []
        self._started = threading.Event()
        self._arrival = threading.Condition()
        self._wanted = address
        self._thread = threading.Thread(target=lambda: uvloop.run(self._main()))
        self._thread.start()
        assert self._started.wait(5)

    async def _main(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        node = NodeInfo("server-process", "server", "s1", 3)
        self.listener = await PeerListener.start(
            self._wanted, self._serve, cluster="simulated", node_info=node, limits=LIMITS
        )
        self.address = self.listener.address
        self._started.set()
        await self._stop.wait()
        await self.listener.aclose()

    def _serve(self, inbound: Inbound) -> None:
        with self._arrival:
            self.seen.append(inbound.head)
            self._arrival.notify_all()
        word, _, rest = inbound.head.partition(b" ")
        if word == b"sleep":
            self.loop.call_later(float(rest), inbound.reply, 0, inbound.head)
        elif word != b"mute":
            echo(inbound)

    def wait_for(self, count: int) -> None:
        """Block until ``count`` requests have arrived."""
        with self._arrival:
            assert self._arrival.wait_for(lambda: len(self.seen) >= count, 5)

    def statistics(self) -> dict[str, Any]:
        """What the listener has counted."""
        return self.listener.statistics()

    def close(self) -> None:
        """Stop it; idempotent."""
        if self._thread.is_alive():
            self.loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()


@pytest.fixture
def server() -> Iterator[ServerThread]:
    """A running server."""
    thread = ServerThread()
    yield thread
    thread.close()


@pytest.fixture
def clock() -> ShiftedClock:
    """The transport's clock."""
    return ShiftedClock()


@pytest.fixture
def transport(clock: ShiftedClock) -> Iterator[PeerTransport]:
    """A transport of this thread."""
    one = PeerTransport("caller", "simulated", clock=clock, limits=LIMITS)
    yield one
    drive(one.aclose())


def call(transport: PeerTransport, address: str, head: bytes, timeout_s: float = 5.0, segments: tuple = ()) -> Reply:
    """Send a request and block until its answer."""
    return drive(transport.request(address, CALL, head, segments, timeout_s=timeout_s))


def test_calls_of_one_thread_share_one_connection(server: ServerThread, transport: PeerTransport) -> None:
    """One connection serves one thread's calls, however many, of any size."""
    for size in (0, 10, 100_000, 1_900_000, 3):
        reply = call(transport, server.address, b"h", segments=(b"x" * size,))
        assert len(reply.segments[0]) == size
    assert transport.statistics()["blocking_links"] == 1
    assert server.statistics()["links_total"] == 1
    assert "1 links" in repr(transport)


def test_a_timed_out_connection_is_not_used_again(server: ServerThread, transport: PeerTransport) -> None:
    """After a time-out the next call has a fresh connection: the late answer cannot reach it."""
    with pytest.raises(OutcomeUnknown, match="deadline"):
        call(transport, server.address, b"sleep 0.1", timeout_s=0.02)
    for n in range(20):
        assert call(transport, server.address, b"%d" % n).head == b"%d" % n
    assert server.statistics()["links_total"] == 2


def test_a_time_out_longer_than_the_kernels_is_kept(server: ServerThread, transport: PeerTransport) -> None:
    """A wait longer than the kernel's receive time-out goes on, and ends at its own deadline."""
    assert call(transport, server.address, b"sleep 1.1", timeout_s=5).head == b"sleep 1.1"
    start = time.monotonic()
    with pytest.raises(OutcomeUnknown):
        call(transport, server.address, b"mute", timeout_s=1.2)
    assert 1.15 < time.monotonic() - start < 2


def test_a_connection_closed_while_idle_is_replaced(transport: PeerTransport, clock: ShiftedClock) -> None:
    """A server that restarted between two calls is found through a fresh connection; nothing is lost or doubled."""
    first = ServerThread()
    call(transport, first.address, b"one")
    first.close()
    clock.shift_s += 1
    second = ServerThread(first.address)
    try:
        assert call(transport, second.address, b"two").head == b"two"
        assert second.seen == [b"two"]
    finally:
        second.close()


def test_a_server_that_died_between_calls_is_unreachable(transport: PeerTransport, clock: ShiftedClock) -> None:
    """A call right after the server's end is not executed: nobody read it."""
    server = ServerThread()
    call(transport, server.address, b"one")
    server.close()
    clock.shift_s += 1
    with pytest.raises(NotExecuted) as caught:
        call(transport, server.address, b"two")
    assert caught.value.reason == "unreachable"


class RawServer:
    """A socket that shakes hands as a kernel server, then does what ``act`` says with the connection."""

    def __init__(self, act: Callable[[socket.socket], None], receive_buffer: int = 0) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        if receive_buffer:
            self._listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.address = f"127.0.0.1:{self._listening.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, args=(act,))
        self._thread.start()

    def _serve(self, act: Callable[[socket.socket], None]) -> None:
        opened, _ = self._listening.accept()
        with opened:
            opened.recv(65536)
            welcome = encode_hello(NodeInfo("s", "server", "s1", 1), "simulated", 1 << 30)
            opened.sendall(b"".join(encode_frame(FrameKind.WELCOME, 0, MAGIC, welcome)))
            act(opened)

    def close(self) -> None:
        """Wait for the connection's end."""
        self._thread.join()
        self._listening.close()


def read_frames(opened: socket.socket, count: int) -> list[Frame]:
    """Read ``count`` frames."""
    parser = FrameParser()
    frames: list[Frame] = []
    while len(frames) < count:
        frames += parser.feed(opened.recv(1 << 20))
    return frames


def test_a_request_that_could_not_leave_whole_is_not_executed() -> None:
    """A server that does not read leaves a large request unsent at its deadline: it certainly did not run."""
    ended = threading.Event()
    server = RawServer(lambda opened: ended.wait(5) and None, 4096)
    large = [bytes(8 << 20)] * 3
    patient = PeerTransport("caller", "simulated", limits=LinkLimits())
    try:
        with pytest.raises(NotExecuted) as caught:
            call(patient, server.address, b"", timeout_s=0.2, segments=tuple(large))
        assert caught.value.reason == "deadline"
    finally:
        ended.set()
        server.close()
        drive(patient.aclose())


def test_a_request_sent_in_pieces_arrives_whole(transport: PeerTransport) -> None:
    """Buffers larger than the socket takes at once are sent in pieces, in order."""
    got: list[Frame] = []
    pieces = [bytes([n]) * 300_000 for n in range(6)]

    def slow(opened: socket.socket) -> None:
        got.extend(read_frames(opened, 1))
        opened.sendall(b"".join(encode_frame(FrameKind.REPLY, 0, got[0][2], b"done")))

    server = RawServer(slow, 100_000)
    assert call(transport, server.address, b"h", segments=tuple(pieces)).head == b"done"
    assert [bytes(segment) for segment in got[0][4]] == pieces
    server.close()


def test_a_request_that_left_whole_is_unknown_when_the_server_hangs_up(transport: PeerTransport) -> None:
    """A server that closes after reading a request leaves its outcome unknown."""
    server = RawServer(lambda opened: read_frames(opened, 1) and None)
    with pytest.raises(OutcomeUnknown, match="closed the connection"):
        call(transport, server.address, b"gone")
    server.close()


@pytest.mark.parametrize("on_loop", [False, True], ids=["thread", "loop"])
def test_a_request_that_a_stopping_server_never_began_is_not_executed(transport: PeerTransport, on_loop: bool) -> None:
    """It came after all others were answered: the server's last word is that it did not run, so that callers may repeat it."""

    def stops(opened: socket.socket) -> None:
        read_frames(opened, 1)
        why = encode_error(Invalid("server 's1' is stopping; call another"))
        opened.sendall(b"".join(encode_frame(FrameKind.GOAWAY, 0, 0, why)))
        opened.sendall(b"".join(encode_frame(FrameKind.GOAWAY, NEVER_BEGUN, 0, why)))

    async def on_a_loop() -> None:
        caller = PeerTransport("caller", "simulated", limits=LIMITS)
        try:
            await caller.request(server.address, CALL, b"late", timeout_s=20)
        finally:
            await caller.aclose()

    server = RawServer(stops)
    with pytest.raises(NotExecuted, match="is stopping"):
        asyncio.run(on_a_loop()) if on_loop else call(transport, server.address, b"late")
    server.close()


def test_what_comes_before_the_answer_is_passed_over(transport: PeerTransport) -> None:
    """Pings and pushes before an answer do no harm; a server that is leaving still answers what it has."""

    def chatty(opened: socket.socket) -> None:
        (request,) = read_frames(opened, 1)
        for kind in (FrameKind.PING, FrameKind.PUSH, FrameKind.GOAWAY):
            opened.sendall(b"".join(encode_frame(kind, 0, 0, b"")))
        opened.sendall(b"".join(encode_frame(FrameKind.REPLY, 0, request[2], b"yours")))
        assert opened.recv(100) == b""  # it was told not to use this connection again

    server = RawServer(chatty)
    assert call(transport, server.address, b"").head == b"yours"
    assert transport.statistics()["blocking_links"] == 0
    server.close()


@pytest.mark.parametrize(
    "answer",
    [b"\xff" * 50, b"".join(encode_frame(FrameKind.REPLY, 0, 99, b"another's"))],
    ids=["garbage", "another-request"],
)
def test_an_answer_that_is_not_ours_is_not_taken(transport: PeerTransport, answer: bytes) -> None:
    """Garbage, or the answer to another request, ends the call as unknown and the connection with it."""

    def wrong(opened: socket.socket) -> None:
        read_frames(opened, 1)
        opened.sendall(answer)
        opened.recv(100)

    server = RawServer(wrong)
    with pytest.raises(OutcomeUnknown):
        call(transport, server.address, b"")
    assert transport.statistics()["blocking_links"] == 0
    server.close()


def test_drop_wakes_those_who_wait_for_a_connection(server: ServerThread) -> None:
    """A caller that waits for a free connection to a server declared lost is not executed, at once."""
    transport = PeerTransport("caller", "simulated", limits=dataclasses.replace(LIMITS, blocking_links_max=1))
    outcomes: list[str] = []

    def caller() -> None:
        try:
            call(transport, server.address, b"mute", timeout_s=20)
        except (NotExecuted, OutcomeUnknown) as error:
            outcomes.append(error.code)

    threads = [threading.Thread(target=caller) for _ in range(3)]
    for thread in threads:
        thread.start()
    server.wait_for(1)
    while transport._blocking._pools[server.address].waiting < 2:
        os.sched_yield()
    transport.drop(server.address, "lost")
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["not-executed", "not-executed", "outcome-unknown"]
    drive(transport.aclose())


def test_drop_ends_calls_of_other_threads_at_once(server: ServerThread, transport: PeerTransport) -> None:
    """A server declared lost ends blocked calls as unknown, with the reason, from any thread."""
    ended: list[BaseException] = []

    def blocked() -> None:
        try:
            call(transport, server.address, b"mute", timeout_s=30)
        except OutcomeUnknown as error:
            ended.append(error)

    threads = [threading.Thread(target=blocked) for _ in range(5)]
    for thread in threads:
        thread.start()
    server.wait_for(5)
    start = time.monotonic()
    transport.drop(server.address, "server s1 was declared lost")
    for thread in threads:
        thread.join()
    assert time.monotonic() - start < 10, "they waited for their deadlines"
    assert [str(error) for error in ended] == [str(ended[0])] * 5
    assert "declared lost" in str(ended[0])
    assert call(transport, server.address, b"again").head == b"again"


def test_the_pool_is_bounded_and_waiting_counts(server: ServerThread) -> None:
    """With all connections busy a call waits for one, and is not executed if none comes free in time."""
    transport = PeerTransport("caller", "simulated", limits=dataclasses.replace(LIMITS, blocking_links_max=2))
    threads = [threading.Thread(target=call, args=(transport, server.address, b"sleep 0.3")) for _ in range(2)]
    for thread in threads:
        thread.start()
    server.wait_for(2)
    with pytest.raises(NotExecuted, match="stayed busy") as caught:
        call(transport, server.address, b"no room", timeout_s=0.05)
    assert caught.value.reason == "deadline"
    assert call(transport, server.address, b"room").head == b"room"
    for thread in threads:
        thread.join()
    assert server.statistics()["links_total"] == 2
    assert b"no room" not in server.seen
    drive(transport.aclose())


def test_replies_never_cross_between_threads(server: ServerThread, transport: PeerTransport) -> None:
    """64 threads whose time-outs often pass only ever get their own answers."""
    chance = random.Random(3)
    wrong: list[object] = []
    answered: list[int] = []

    def caller(number: int) -> None:
        for n in range(12):
            own = b"sleep %.4f%06d" % (chance.uniform(0, 0.02), number * 1000 + n)
            try:
                # Every third call is patient, so that answers come however slow the machine is.
                timeout_s = 30.0 if n % 3 == 0 else chance.uniform(0.005, 0.05)
                reply = call(transport, server.address, own, timeout_s=timeout_s)
            except (OutcomeUnknown, NotExecuted):
                continue
            answered.append(n)
            if reply.head != own:
                wrong.append((own, reply.head))

    threads = [threading.Thread(target=caller, args=(number,)) for number in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(answered) >= 64 * 4
    assert transport.statistics()["blocking_links"] <= 64


def test_a_forked_child_has_connections_of_its_own(server: ServerThread, transport: PeerTransport) -> None:
    """After a fork the child connects anew, and the parent's connection still works."""
    call(transport, server.address, b"parent")
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:  # only leave through _exit: this is a copy of the whole test process
        try:
            transport.announce(client_id="child")
            os.write(writing, call(transport, server.address, b"child").head)
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        assert pipe.read() == b"child"
    os.waitpid(pid, 0)
    assert call(transport, server.address, b"parent again").head == b"parent again"
    assert server.statistics()["links_total"] == 2


def test_a_link_that_idles_gets_no_pings_and_stays(
    server: ServerThread, transport: PeerTransport, clock: ShiftedClock
) -> None:
    """A blocking connection is not pinged, so its idle buffer stays empty and it is used again."""
    call(transport, server.address, b"one")
    link = next(iter(server.listener._links))
    ticked = threading.Event()
    for _ in range(20):
        server.loop.call_soon_threadsafe(link.tick)
    server.loop.call_soon_threadsafe(ticked.set)
    assert ticked.wait(5)
    clock.shift_s += 1
    call(transport, server.address, b"two")
    assert server.statistics()["links_total"] == 1


def test_an_interrupted_call_gives_its_connection_up(server: ServerThread, transport: PeerTransport) -> None:
    """An exception out of a blocked call (a signal handler's, say) closes its connection."""

    def interrupt(_signum: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(KeyboardInterrupt):
            call(transport, server.address, b"mute", timeout_s=10)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert transport.statistics()["blocking_links"] == 0
    assert call(transport, server.address, b"fine").head == b"fine"


def test_a_listener_that_leaves_takes_no_new_calls_on_old_connections(
    transport: PeerTransport, clock: ShiftedClock
) -> None:
    """A connection whose server said it is going away is not used again."""
    server = ServerThread()
    call(transport, server.address, b"one")
    leaving = asyncio.run_coroutine_threadsafe(server.listener.aclose(grace_s=0.2), server.loop)
    leaving.result(5)
    clock.shift_s += 1
    with pytest.raises(NotExecuted):
        call(transport, server.address, b"two")
    server.close()
    assert server.seen == [b"one"]
