"""The calling side on event loops: shared links, cancellation, subscriptions, deadlines, loops that end."""

from __future__ import annotations

import asyncio
import random
import threading

import pytest
import uvloop

from amino.errors import Invalid, NotEncodable, NotExecuted, OutcomeUnknown, Overloaded
from amino.rpc.handshake import NodeInfo
from amino.rpc.peer_link import PeerListener
from amino.rpc.peer_transport import PeerTransport
from amino.rpc.port import Inbound, Link
from amino.wire.frames import Status, decode_error
from tests.rpc.worlds import CALL, LIMITS, World, echo, in_world, until


@pytest.fixture(params=["memory", "peer-asyncio", "peer-uvloop", "peer-unix"])
def world(request: pytest.FixtureRequest) -> World:
    """Every world whose callers are tasks."""
    return World(request.param)


@in_world
async def test_concurrent_requests_share_one_link(world: World) -> None:
    """Requests of many tasks to an address without a link share one connection attempt and one link."""
    listener = await world.listen()
    transport = world.transport()
    await asyncio.gather(*(transport.request(listener.address, CALL, b"", timeout_s=5) for _ in range(50)))
    assert listener.statistics()["links_total"] == 1


@in_world
async def test_requests_over_the_bound_of_a_link_are_refused(world: World) -> None:
    """Beyond ``in_flight_max`` a request is Overloaded at once, and nothing of it is sent."""
    seen: list[Inbound] = []
    listener = await world.listen(seen.append)
    transport = world.transport()
    calls = [
        asyncio.ensure_future(transport.request(listener.address, CALL, b"", timeout_s=5))
        for _ in range(LIMITS.in_flight_max)
    ]
    await until(lambda: len(seen) == LIMITS.in_flight_max)
    with pytest.raises(Overloaded):
        await transport.request(listener.address, CALL, b"", timeout_s=5)
    for one in seen:
        one.reply(0, b"")
    await asyncio.gather(*calls)
    assert len(seen) == LIMITS.in_flight_max


@in_world
async def test_cancelling_abandons_a_request(world: World) -> None:
    """A cancelled request waits no more; its late answer is dropped and the link carries on."""
    seen: list[Inbound] = []
    listener = await world.listen(lambda inbound: seen.append(inbound) if not seen else echo(inbound))
    transport = world.transport()
    call = asyncio.ensure_future(transport.request(listener.address, CALL, b"", timeout_s=20))
    await until(lambda: bool(seen))
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    seen[0].reply(0, b"late")
    assert (await transport.request(listener.address, CALL, b"own", timeout_s=5)).head == b"own"
    assert listener.statistics()["links_total"] == 1


@in_world
async def test_deadlines_of_any_order_are_kept(world: World) -> None:
    """Requests with shorter and longer time-outs on one link each end at their own."""
    listener = await world.listen(lambda inbound: None)
    transport = world.transport()
    loop = asyncio.get_running_loop()

    async def ends_after(timeout_s: float) -> None:
        start = loop.time()
        with pytest.raises(OutcomeUnknown):
            await transport.request(listener.address, CALL, b"", timeout_s=timeout_s)
        assert timeout_s - 0.02 <= loop.time() - start < timeout_s + 1

    await asyncio.gather(*(ends_after(timeout_s) for timeout_s in (0.3, 0.1, 0.2, 0.05, 0.25)))


@in_world
async def test_pushes_arrive_in_order_until_the_link_ends(world: World) -> None:
    """A subscription gets its answer and then every push in order, and hears of the end once."""
    links: list[Link] = []

    def subscribed(inbound: Inbound) -> None:
        links.append(inbound.link)
        inbound.reply(0, b"welcome " + inbound.head)
        inbound.link.push(9, b"first")

    listener = await world.listen(subscribed)
    got: list[tuple[int, bytes]] = []
    ends: list[int] = []
    subscription = await world.transport().subscribe(
        listener.address, CALL, b"members", lambda kind, head: got.append((kind, head)), lambda: ends.append(1)
    )
    assert subscription.reply.head == b"welcome members"
    for n in range(30):
        assert links[0].push(n, b"%d" % n)
    await until(lambda: len(got) == 31)
    assert got == [(9, b"first"), *((n, b"%d" % n) for n in range(30))]
    await listener.aclose()
    await until(lambda: bool(ends))
    assert ends == [1]
    await subscription.aclose()
    assert ends == [1]


@in_world
async def test_a_closed_subscription_hears_nothing_more(world: World) -> None:
    """After ``aclose`` neither pushes nor the end arrive, and the server's link is gone."""
    links: list[Link] = []

    def subscribed(inbound: Inbound) -> None:
        links.append(inbound.link)
        inbound.reply(0, b"")

    listener = await world.listen(subscribed)
    got: list[object] = []
    subscription = await world.transport().subscribe(
        listener.address, CALL, b"", lambda kind, head: got.append(head), lambda: got.append("end")
    )
    await subscription.aclose()
    links[0].push(1, b"nobody listens")
    await until(lambda: not links[0].is_open)
    assert got == []


@in_world
async def test_a_dropped_server_ends_its_subscriptions(world: World) -> None:
    """Declaring a server lost ends subscriptions to it."""
    listener = await world.listen()
    transport = world.transport()
    ended = asyncio.Event()
    await transport.subscribe(listener.address, CALL, b"", lambda kind, head: None, ended.set)
    transport.drop(listener.address, "lost")
    await asyncio.wait_for(ended.wait(), 5)


@in_world
async def test_subscribing_to_nobody_fails(world: World) -> None:
    """Subscribing raises as a request does: nobody there, or no answer in time."""
    transport = world.transport()
    with pytest.raises(NotExecuted):
        await transport.subscribe(await world.nobody(), CALL, b"", lambda kind, head: None, lambda: None)
    silent = await world.listen(lambda inbound: None)
    with pytest.raises(OutcomeUnknown):
        await transport.subscribe(silent.address, CALL, b"", lambda kind, head: None, lambda: None, timeout_s=0.05)
    await until(lambda: silent.statistics()["links"] == 0)


@in_world
async def test_a_closed_transport_takes_no_requests(world: World) -> None:
    """After ``aclose`` a request is not executed; closing twice is fine."""
    listener = await world.listen()
    transport = world.transport()
    await transport.request(listener.address, CALL, b"", timeout_s=5)
    await transport.aclose()
    await transport.aclose()
    with pytest.raises(NotExecuted):
        await transport.request(listener.address, CALL, b"", timeout_s=5)


@in_world
async def test_replies_never_cross_under_time_outs(world: World) -> None:
    """With 64 callers whose time-outs often pass, every answer that arrives is the caller's own."""
    loop = asyncio.get_running_loop()
    chance = random.Random(5)

    def slow(inbound: Inbound) -> None:
        loop.call_later(chance.uniform(0, 0.02), inbound.reply, 0, inbound.head, [inbound.head * 40])

    listener = await world.listen(slow)
    transport = world.transport()
    ended = {"answered": 0, "unknown": 0, "overloaded": 0}

    async def caller(number: int) -> None:
        for n in range(40):
            own = b"%d/%d" % (number, n)
            try:
                reply = await transport.request(listener.address, CALL, own, timeout_s=chance.uniform(0.001, 0.03))
            except (OutcomeUnknown, NotExecuted):
                ended["unknown"] += 1
                continue
            if reply.status == Status.ERROR:  # the server still works on requests that their callers gave up
                assert isinstance(decode_error(reply.head), Overloaded)
                ended["overloaded"] += 1
            else:
                ended["answered"] += 1
                assert reply.head == own
                assert bytes(reply.segments[0]) == own * 40

    await asyncio.gather(*(caller(number) for number in range(64)))
    assert ended["answered"] > 100
    assert ended["unknown"] > 100
    await until(lambda: listener.statistics()["in_flight"] == 0)


def test_a_server_that_accepts_but_never_answers_is_unreachable() -> None:
    """A listener without an Amino behind it ends connecting after ``connect_s``, as not executed."""
    world = World("peer-asyncio")

    async def case() -> None:
        writers: list[asyncio.StreamWriter] = []
        mute = await asyncio.start_server(lambda _, writer: writers.append(writer), "127.0.0.1", 0)
        address = f"127.0.0.1:{mute.sockets[0].getsockname()[1]}"
        with pytest.raises(NotExecuted, match="no answer within") as caught:
            await world.transport().request(address, CALL, b"", timeout_s=20)
        assert caught.value.reason == "unreachable"
        with pytest.raises(NotExecuted) as caught:
            await world.transport().request(address, CALL, b"", timeout_s=0.05)
        assert caught.value.reason == "deadline"
        for writer in writers:
            writer.close()
        mute.close()
        await mute.wait_closed()

    world.run(case)


@pytest.mark.parametrize("kind", ["peer-asyncio", "peer-blocking"])
@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b""])
def test_a_server_of_another_protocol_is_named_as_such(kind: str, answer: bytes) -> None:
    """Calling the port of something else gives an error that says so, not a hang."""
    world = World(kind)

    async def case() -> None:
        async def other(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(10)
            writer.write(answer)
            writer.close()

        server = await asyncio.start_server(other, "127.0.0.1", 0)
        address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with pytest.raises((Invalid, NotExecuted), match=r"peer link protocol|handshake|closed|reset"):
            await world.transport().request(address, CALL, b"", timeout_s=5)
        server.close()
        await server.wait_closed()

    world.run(case)


@pytest.mark.parametrize("kind", ["peer-asyncio", "peer-uvloop"])
def test_links_close_with_their_loop(kind: str) -> None:
    """A loop that ends without ``aclose`` takes its links along, and the transport serves the next loop."""
    ready = threading.Event()
    listeners: list[tuple[asyncio.AbstractEventLoop, asyncio.Event, PeerListener]] = []

    def serve() -> None:
        async def main() -> None:
            node = NodeInfo("s", "server", "s1", 1)
            listener = await PeerListener.start("127.0.0.1:0", echo, cluster="simulated", node_info=node)
            stop = asyncio.Event()
            listeners.append((asyncio.get_running_loop(), stop, listener))
            ready.set()
            await stop.wait()
            await listener.aclose()

        asyncio.run(main())

    thread = threading.Thread(target=serve)
    thread.start()
    assert ready.wait(5)
    loop, stop, listener = listeners[0]
    transport = PeerTransport("caller", "simulated")

    async def once() -> bytes:
        return (await transport.request(listener.address, CALL, b"x", timeout_s=5)).head

    async def twice_and_close() -> bytes:
        await once()
        head = await once()
        await transport.aclose()
        return head

    factory = uvloop.new_event_loop if kind == "peer-uvloop" else None
    for main in (once, once, twice_and_close):
        with asyncio.Runner(loop_factory=factory) as runner:
            assert runner.run(main()) == b"x"
    loop.call_soon_threadsafe(stop.set)
    thread.join()
    assert listener.statistics()["links_total"] == 3


@in_world
async def test_a_burst_of_large_requests_waits_for_room(world: World) -> None:
    """Requests beyond the send buffer wait for the server to read, and all are answered."""
    listener = await world.listen(lambda inbound: inbound.reply(0, b"%d" % len(inbound.segments[0])))
    transport = world.transport()
    large = bytes(1_500_000)
    replies = await asyncio.gather(
        *(transport.request(listener.address, CALL, b"", [large], timeout_s=20) for _ in range(30))
    )
    assert {reply.head for reply in replies} == {b"1500000"}
    with pytest.raises(NotEncodable):
        await transport.request(listener.address, CALL, b"", [large, large], timeout_s=5)


@in_world
async def test_a_posted_request_is_answered_where_the_answer_is_read(world: World) -> None:
    """Over an open link it is sent at once; its answer comes to the callback, whose bugs end nothing; else it says no."""
    listener = await world.listen()
    transport = world.transport()
    answers: list[bytes] = []

    def broken(_reply: object) -> None:
        answers.append(b"broken")
        raise KeyError("a bug of the one who posted")

    assert not transport.post(listener.address, CALL, b"early", [], broken, timeout_s=5)
    await transport.request(listener.address, CALL, b"", timeout_s=5)
    sent = transport.post(listener.address, CALL, b"one", [], broken, timeout_s=5)
    assert sent is not world.is_memory
    if sent:
        assert transport.post(listener.address, CALL, b"two", [], lambda reply: answers.append(reply.head), timeout_s=5)
        await until(lambda: len(answers) == 2)
        assert answers == [b"broken", b"two"]
    assert (await transport.request(listener.address, CALL, b"later", timeout_s=5)).head == b"later"


@pytest.mark.parametrize("world", ["peer-asyncio", "peer-uvloop", "peer-unix"], indirect=True)
@in_world
async def test_a_request_that_a_stopping_server_has_not_read_is_not_executed(world: World) -> None:
    """It is on its way when the server, where nothing runs, closes: it was never begun, and its caller may repeat it."""
    seen: list[bytes] = []

    def serve(inbound: Inbound) -> None:
        seen.append(inbound.head)
        echo(inbound)

    listener = await world.listen(serve)
    transport = world.transport()
    await transport.request(listener.address, CALL, b"first", timeout_s=5)
    late = asyncio.ensure_future(transport.request(listener.address, CALL, b"late", timeout_s=5))
    await asyncio.sleep(0)  # it has left, and nobody has looked yet what came
    await listener.aclose()
    with pytest.raises(NotExecuted, match="is stopping"):
        await late
    assert seen == [b"first"]
