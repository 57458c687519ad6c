"""Registry operations from any process: whom to ask, what to repeat, when to stop."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from amino.aio.clock import RealClock
from amino.aio.mode import drive
from amino.contracts.decisions import ABORTED, COMMIT, DecideRequest, Decision
from amino.contracts.services import DeleteRequest, Empty
from amino.errors import (
    AlreadyExists,
    ClusterUnavailable,
    CoordinationUnavailable,
    NotExecuted,
    NotFound,
    OutcomeUnknown,
)
from amino.rpc.port import Reply
from amino.stubs.addresses import AddressBook
from amino.stubs.registry_client import RegistryClient
from amino.wire.frames import Status, encode_error
from tests.stubs.world import members


class Servers:
    """A transport to servers that answer as told: address -> errors one after the other, then the result."""

    def __init__(self, **errors) -> None:
        self.errors = errors
        self.asked: list[str] = []

    async def request(self, address, kind, head, segments=(), *, timeout_s):
        """Answer."""
        name = address.partition(":")[0]
        self.asked.append(name)
        left = self.errors.get(name, [])
        error = (left.pop(0) if len(left) > 1 else left[0]) if left else None
        if error is None:
            return Reply(Status.OK, b"", [memoryview(b"\x80")])
        if isinstance(error, (NotExecuted, OutcomeUnknown)):
            raise error
        return Reply(Status.ERROR, encode_error(error), [])


def client(servers, **options):
    addresses = AddressBook(["a:1", "b:1"], lambda _: None)
    return RegistryClient(servers, addresses, RealClock(), **options), addresses


UNREACHABLE = NotExecuted("no link", reason="unreachable")


def test_the_next_server_is_asked_when_one_does_not_answer():
    """And the one that answered is asked first from then on."""
    servers = Servers(a=[UNREACHABLE])
    registry, _ = client(servers)
    for _ in range(2):
        drive(registry.call("pause", Empty(), timeout_s=5.0))
    assert servers.asked == ["a", "b", "b"]


def test_unknown_outcomes_are_repeated():
    """Every operation is idempotent, so asking again is safe."""
    servers = Servers(a=[OutcomeUnknown("link broke"), None])
    registry, _ = client(servers)
    drive(registry.call("pause", Empty(), timeout_s=5.0))
    assert servers.asked == ["a", "b"]


def test_an_operation_s_own_error_is_final():
    """It comes at once, from one server."""
    servers = Servers(a=[AlreadyExists("taken")])
    registry, _ = client(servers)
    with pytest.raises(AlreadyExists):
        drive(registry.call("create", Empty(), timeout_s=5.0))
    assert servers.asked == ["a"]


def test_a_deletion_that_was_done_by_an_earlier_try_says_so():
    """The second try does not find what the first one, of unknown outcome, has deleted."""
    servers = Servers(a=[OutcomeUnknown("link broke")], b=[NotFound("no such microservice")])
    registry, _ = client(servers)
    with pytest.raises(NotFound, match="an earlier try"):
        drive(registry.call("delete", DeleteRequest(name="x"), timeout_s=5.0))


class Absent(Servers):
    """Servers that know of no decision."""

    async def request(self, address, kind, head, segments=(), *, timeout_s):
        """Answer."""
        reply = await super().request(address, kind, head, segments, timeout_s=timeout_s)
        aborted = memoryview(msgspec.msgpack.encode(Decision("t", ABORTED)))
        return Reply(Status.OK, b"", [aborted]) if reply.status == Status.OK else reply


@pytest.mark.parametrize("first", [OutcomeUnknown("link broke"), CoordinationUnavailable("etcd did not answer")])
def test_a_commit_that_an_earlier_try_may_have_decided_is_unknown(first):
    """Its key may have been carried out and removed before the next try: absent does not mean aborted then."""
    request = DecideRequest("t", 7, COMMIT)
    registry, _ = client(Absent(a=[first, None]))
    with pytest.raises(OutcomeUnknown, match="an earlier try"):
        drive(registry.call("decide", request, timeout_s=5.0))
    registry, _ = client(Absent(a=[UNREACHABLE]))
    assert drive(registry.call("decide", request, timeout_s=5.0)).outcome == ABORTED


def test_a_server_that_is_not_ready_is_given_time():
    """Overload and the like are waited out, not carried to every server."""
    servers = Servers(a=[NotExecuted("no session yet", reason="not-ready"), None])
    registry, _ = client(servers)
    drive(registry.call("pause", Empty(), timeout_s=5.0))
    assert servers.asked == ["a", "a"]


def test_when_nobody_can_be_reached_it_is_said_who_was_tried():
    """Within the time, and not after it."""
    servers = Servers(a=[UNREACHABLE], b=[UNREACHABLE])
    registry, _ = client(servers)
    with pytest.raises(ClusterUnavailable, match="a:1, b:1"):
        drive(registry.call("pause", Empty(), timeout_s=0.05))
    assert {"a", "b"} == set(servers.asked)


def test_the_address_in_doubt_is_asked_last():
    """It may be the one that froze."""
    servers = Servers()
    registry, addresses = client(servers)
    addresses.prefer("a:1")
    drive(registry.call("pause", Empty(), timeout_s=5.0, avoid="a:1"))
    assert servers.asked == ["b"]


def test_a_closed_connection_asks_nobody():
    """At once, with what to do."""
    servers = Servers()
    registry, _ = client(servers)
    registry.close()
    with pytest.raises(ClusterUnavailable, match=r"amino\.connect"):
        drive(registry.call("pause", Empty(), timeout_s=5.0))
    assert servers.asked == []


def test_a_local_operation_that_takes_too_long_has_an_unknown_outcome():
    """The server's own registry is asked without the network; its time-out is one of ours, not a bare one."""
    cancelled = []

    class Local:
        async def create(self, request):
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.append(request)

    async def main():
        registry, addresses = client(Servers(), local=(Local(), asyncio.get_running_loop()))
        addresses.update(members(1))
        registry._addresses._seeds = ()
        with pytest.raises(OutcomeUnknown, match="ask again"):
            await registry.call("create", Empty(), timeout_s=0.02)

    asyncio.run(main())
    assert cancelled == [Empty()]


def test_a_stale_membership_never_replaces_a_newer_one():
    """Members are lost once, by the newest word; a restarted server at the old address is not cut off."""
    lost: list[str] = []
    book = AddressBook(["seed:1"], lost.append)
    assert book.candidates() == ["seed:1"]
    book.update(members(5, ("s1", 1), ("s2", 1)))
    book.update(members(7, ("s1", 1), ("s2", 6)))
    book.update(members(6, ("s1", 1), ("s2", 1), ("s3", 2)))
    assert book.membership.revision == 7
    assert book.is_lost("s2", 1)
    assert not book.is_lost("s2", 6)
    assert not book.is_lost("s9", 1)
    assert lost == []
    book.update(members(8, ("s2", 6)))
    assert lost == ["s1:1"]
    assert book.candidates() == ["s2:1", "seed:1"]
