"""The transport port's promises, held by every adapter and way of calling."""

from __future__ import annotations

import asyncio

import pytest

from amino.errors import Invalid, NotEncodable, NotExecuted, OutcomeUnknown
from amino.rpc.port import Inbound
from amino.wire.frames import Status, decode_error
from tests.rpc.worlds import CALL, World, echo, in_world, until


@pytest.fixture(params=["memory", "peer-asyncio", "peer-uvloop", "peer-unix", "peer-blocking"])
def world(request: pytest.FixtureRequest) -> World:
    """Every world."""
    return World(request.param)


@pytest.mark.parametrize(
    "segments",
    [
        [],
        [b""],
        [b"one"],
        [b"a" * 20_000],
        [b"", b"x", b"y" * 70_000, b"", bytearray(b"z" * 17_000), memoryview(b"w" * 300_000)],
        [b"s"] * 700,
    ],
    ids=["none", "empty", "small", "large", "mixed", "many"],
)
def test_requests_and_replies_arrive_as_sent(world: World, segments: list) -> None:
    """Status, head and every segment come back as they were sent, whatever their sizes."""

    async def case() -> None:
        listener = await world.listen(lambda inbound: inbound.reply(1, inbound.head * 2, inbound.segments))
        reply = await world.transport().request(listener.address, CALL, b"head", segments, timeout_s=5)
        assert (reply.status, reply.head) == (1, b"headhead")
        assert [bytes(segment) for segment in reply.segments] == [bytes(segment) for segment in segments]

    world.run(case)


@in_world
async def test_replies_reach_the_requests_they_answer(world: World) -> None:
    """Requests answered in reverse order each get their own answer."""
    waiting: list[Inbound] = []

    def reversing(inbound: Inbound) -> None:
        waiting.append(inbound)
        if len(waiting) == 20:
            for one in reversed(waiting):
                one.reply(0, one.head)

    listener = await world.listen(reversing)
    transport = world.transport()
    replies = await asyncio.gather(
        *(transport.request(listener.address, CALL, b"%d" % n, timeout_s=5) for n in range(20))
    )
    assert [reply.head for reply in replies] == [b"%d" % n for n in range(20)]


@in_world
async def test_a_request_over_the_limit_is_refused_before_sending(world: World) -> None:
    """A frame over the limit raises NotEncodable, and the link still carries others."""
    listener = await world.listen()
    transport = world.transport()
    with pytest.raises(NotEncodable, match="exceeds the limit"):
        await transport.request(listener.address, CALL, b"", [b"x" * world.limits.frame_bytes_max], timeout_s=5)
    reply = await transport.request(listener.address, CALL, b"still", timeout_s=5)
    assert reply.head == b"still"


@in_world
async def test_a_reply_over_the_limit_becomes_an_error(world: World) -> None:
    """A reply over the limit is answered with NotEncodable instead of breaking the link."""
    listener = await world.listen(lambda inbound: inbound.reply(0, b"", [bytes(world.limits.frame_bytes_max)]))
    reply = await world.transport().request(listener.address, CALL, b"", timeout_s=5)
    assert reply.status == Status.ERROR
    assert isinstance(decode_error(reply.head), NotEncodable)


@in_world
async def test_a_request_not_answered_in_time_is_unknown(world: World) -> None:
    """A request without an answer ends at its deadline, and its late answer reaches nobody else."""
    late: list[Inbound] = []

    def slow(inbound: Inbound) -> None:
        if inbound.head == b"late":
            late.append(inbound)
        else:
            while late:
                late.pop().reply(0, b"late answer")
            inbound.reply(0, b"own answer")

    listener = await world.listen(slow)
    transport = world.transport()
    with pytest.raises(OutcomeUnknown, match="deadline"):
        await transport.request(listener.address, CALL, b"late", timeout_s=0.1)
    reply = await transport.request(listener.address, CALL, b"next", timeout_s=5)
    assert reply.head == b"own answer"
    assert (await transport.request(listener.address, CALL, b"next", timeout_s=5)).head == b"own answer"


@in_world
async def test_a_request_to_nobody_is_not_executed(world: World) -> None:
    """An address where nobody listens raises NotExecuted with the reason unreachable."""
    with pytest.raises(NotExecuted, match="cannot be reached") as caught:
        await world.transport().request(await world.nobody(), CALL, b"", timeout_s=5)
    assert caught.value.reason == "unreachable"


@in_world
async def test_a_request_without_time_is_not_executed(world: World) -> None:
    """A time-out of zero raises NotExecuted with the reason deadline; the handler sees nothing."""
    seen: list[Inbound] = []
    listener = await world.listen(seen.append)
    with pytest.raises(NotExecuted) as caught:
        await world.transport().request(listener.address, CALL, b"", timeout_s=0)
    assert caught.value.reason == "deadline"
    assert not seen


@in_world
async def test_a_caller_of_another_cluster_is_refused(world: World) -> None:
    """The error of a wrong cluster name names both clusters."""
    listener = await world.listen()
    with pytest.raises(Invalid, match=r"(?s)simulated.*elsewhere|elsewhere.*simulated"):
        await world.transport(cluster="elsewhere").request(listener.address, CALL, b"", timeout_s=5)


@in_world
async def test_the_peer_is_known_to_both_sides(world: World) -> None:
    """The caller learns the server's name and incarnation, the handler the caller's id; both are trusted here."""
    seen: list[Inbound] = []

    def look(inbound: Inbound) -> None:
        seen.append(inbound)
        echo(inbound)

    listener = await world.listen(look, name="s9", incarnation=41)
    transport = world.transport(client_id="someone")
    peer = await transport.peer(listener.address, timeout_s=5)
    assert (peer.role, peer.name, peer.incarnation, peer.trusted) == ("server", "s9", 41, True)
    await transport.request(listener.address, CALL, b"", timeout_s=5)
    assert (seen[0].link.peer.client_id, seen[0].link.peer.role, seen[0].link.peer.trusted) == (
        "someone",
        "client",
        True,
    )


@in_world
async def test_announced_identity_is_told_in_later_handshakes(world: World) -> None:
    """A listener that learns its incarnation after binding tells it to links that open later."""
    listener = await world.listen(incarnation=0)
    node = listener.node_info
    listener.announce(type(node)(node.client_id, node.role, node.name, 12))
    assert (await world.transport().peer(listener.address, timeout_s=5)).incarnation == 12


@in_world
async def test_drop_ends_requests_in_flight_at_once(world: World) -> None:
    """Dropping an address ends its requests as unknown, with the reason, and a later request connects anew."""
    seen: list[Inbound] = []

    def silent_first(inbound: Inbound) -> None:
        seen.append(inbound)
        if len(seen) > 2:
            echo(inbound)

    listener = await world.listen(silent_first)
    transport = world.transport()
    calls = [asyncio.ensure_future(transport.request(listener.address, CALL, b"", timeout_s=20)) for _ in range(2)]
    await until(lambda: len(seen) == 2)
    transport.drop(listener.address, "server s1 was declared lost")
    for call in calls:
        with pytest.raises(OutcomeUnknown, match="declared lost"):
            await call
    assert (await transport.request(listener.address, CALL, b"again", timeout_s=5)).head == b"again"


@in_world
async def test_requests_end_when_the_server_goes(world: World) -> None:
    """A server that closes ends requests in flight as unknown, and later ones as not executed."""
    seen: list[Inbound] = []
    listener = await world.listen(seen.append)
    transport = world.transport()
    call = asyncio.ensure_future(transport.request(listener.address, CALL, b"", timeout_s=20))
    await until(lambda: bool(seen))
    await listener.aclose()
    with pytest.raises(OutcomeUnknown):
        await call
    with pytest.raises(NotExecuted):
        await transport.request(listener.address, CALL, b"", timeout_s=5)


@in_world
async def test_running_requests_are_answered_within_the_grace(world: World) -> None:
    """A listener that closes with a grace period lets running requests be answered."""
    seen: list[Inbound] = []
    listener = await world.listen(seen.append)
    call = asyncio.ensure_future(world.transport().request(listener.address, CALL, b"", timeout_s=20))
    await until(lambda: bool(seen))
    closing = asyncio.ensure_future(listener.aclose(grace_s=10))
    await asyncio.sleep(0)
    seen[0].reply(0, b"in time")
    assert (await call).head == b"in time"
    await closing


@in_world
async def test_a_handler_that_raises_answers_with_an_error(world: World) -> None:
    """A handler's bug answers its own request and leaves the link to others."""

    def broken(inbound: Inbound) -> None:
        if inbound.head == b"bug":
            raise ZeroDivisionError("oops")
        echo(inbound)

    listener = await world.listen(broken)
    transport = world.transport()
    reply = await transport.request(listener.address, CALL, b"bug", timeout_s=5)
    assert reply.status == Status.ERROR
    assert "ZeroDivisionError: oops" in decode_error(reply.head).message
    assert (await transport.request(listener.address, CALL, b"fine", timeout_s=5)).head == b"fine"


@in_world
async def test_a_request_is_answered_once(world: World) -> None:
    """A second reply is refused, and a reply after the link is gone does nothing."""
    seen: list[Inbound] = []
    listener = await world.listen(seen.append)
    transport = world.transport()
    call = asyncio.ensure_future(transport.request(listener.address, CALL, b"", timeout_s=20))
    await until(lambda: bool(seen))
    gone = asyncio.Event()
    seen[0].link.on_close(gone.set)
    await transport.aclose()
    with pytest.raises((OutcomeUnknown, NotExecuted)):
        await call
    await gone.wait()
    assert not seen[0].link.is_open
    assert not seen[0].link.push(1, b"")
    seen[0].reply(0, b"too late")
    with pytest.raises(RuntimeError, match="twice"):
        seen[0].reply(0, b"again")
    at_once = asyncio.Event()
    seen[0].link.on_close(at_once.set)
    assert at_once.is_set()


@in_world
async def test_statistics_count_links(world: World) -> None:
    """The listener says how many links and requests it has."""
    seen: list[Inbound] = []
    listener = await world.listen(seen.append)
    call = asyncio.ensure_future(world.transport().request(listener.address, CALL, b"", timeout_s=20))
    await until(lambda: bool(seen))
    statistics = listener.statistics()
    assert (statistics["links"], statistics["in_flight"]) == (1, 1)
    seen[0].reply(0, b"")
    await call
    assert listener.statistics()["in_flight"] == 0
