"""The way of a call from stub to transport: ids, retries of what did not run, outcomes, co-located calls."""

from __future__ import annotations

import pickle
import threading

import pytest

import amino
from amino.aio.mode import drive
from amino.contracts.calls import CURRENT, Invocation, RequestId
from amino.dm import AtLeastOnceRPC
from amino.dm.base import ClientBase, Manager
from amino.errors import Invalid, NotExecuted, NotFound, OutcomeUnknown
from amino.wire.codec import decode_arguments, encode
from tests.stubs.world import AppError, Registry, ServerSays, Time, Transport, location, members, runtime_of


class Counter:
    """A user's class."""

    def add(self, n):
        """Add."""

    @amino.readonly
    def get(self):
        """Read."""


def world(answer, *locations, **options):
    transport, registry = Transport(answer), Registry(*(locations or (location(Counter),)))
    runtime = runtime_of(transport, registry, **options)
    return transport, registry, runtime, runtime.stub(runtime.target("m"), Counter)


def scripted(*outcomes):
    left = list(outcomes)

    def answer(address, head, args):
        outcome = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    return answer


def test_each_call_has_an_id_and_states_what_is_settled():
    """Sequences grow by one; the floor is the lowest call that is not settled."""
    transport, *_, counter = world(scripted(1))
    for _ in range(3):
        counter.add(1)
    assert [(head.client, head.root, head.sequence, head.floor) for head in transport.heads] == [
        ("c1", "m", 1, 1),
        ("c1", "m", 2, 2),
        ("c1", "m", 3, 3),
    ]


def test_an_unsettled_call_holds_the_floor():
    """While one call is out, later ones state its sequence as the floor."""
    go_on, entered = threading.Event(), threading.Event()

    def answer(address, head, args):
        if head.sequence == 1:
            entered.set()
            go_on.wait(5.0)
        return

    transport, *_, counter = world(answer)
    thread = threading.Thread(target=counter.add, args=(1,))
    thread.start()
    entered.wait(5.0)
    counter.add(1)
    go_on.set()
    thread.join()
    counter.add(1)
    assert [head.floor for head in transport.heads] == [1, 1, 3]


def test_sequences_are_never_used_twice():
    """A microservice that was forgotten and is called again continues above what it had."""
    transport, _, runtime, counter = world(scripted(1))
    counter.add(1)
    counter.add(1)
    runtime.forget("m")
    runtime.stub(runtime.target("m"), Counter).add(1)
    assert [head.sequence for head in transport.heads] == [1, 2, 3]


def test_what_did_not_run_is_repeated_under_the_same_id():
    """Moved, overloaded, unreachable: the caller sees the result only; attempts are not counted for these."""
    moved = ServerSays(NotExecuted("moved", reason="moved"))
    full = ServerSays(NotExecuted("full", reason="overloaded"))
    transport, registry, _, counter = world(
        scripted(moved, full, NotExecuted("no link", reason="unreachable"), 5),
        location(Counter),
        location(Counter, epoch=2, server="s2"),
    )
    assert counter.add(1) == 5
    assert {head.sequence for head in transport.heads} == {1}
    assert {head.attempt for head in transport.heads} == {0}
    assert [head.epoch for head in transport.heads] == [1, 2, 2, 2]
    assert registry.asked[1].stale == {"/": 1}


def test_a_hint_saves_the_look_up():
    """The answer of the old server says where the object is now."""
    hint = {"server": "s2", "incarnation": 4, "address": "s2:9", "replica": "r2", "epoch": 2}
    asked = []

    def answer(address, head, args):
        asked.append((address, head.epoch))
        if head.epoch == 1:
            raise ServerSays(NotExecuted("moved", reason="moved", **hint))
        return 1

    _, registry, _, counter = world(answer)
    counter.add(1)
    assert asked == [("s1:1", 1), ("s2:9", 2)]
    assert len(registry.asked) == 1


def test_an_unknown_outcome_is_not_repeated_without_a_manager():
    """It is the caller's to decide; with ``AtLeastOnceRPC`` it is repeated, and the attempt is stated."""
    transport, *_, counter = world(scripted(OutcomeUnknown("link broke"), 1))
    with pytest.raises(OutcomeUnknown):
        counter.add(1)
    assert len(transport.heads) == 1
    transport, *_, counter = world(
        scripted(OutcomeUnknown("link broke"), 1), location(Counter, AtLeastOnceRPC(backoff_initial_s=0.001))
    )
    assert counter.add(1) == 1
    assert [(head.sequence, head.attempt) for head in transport.heads] == [(1, 0), (1, 1)]


def test_once_unknown_always_unknown():
    """A call that may have run is never reported as not executed, whatever later attempts say."""
    chain = AtLeastOnceRPC(timeout_s=0.05, backoff_initial_s=0.001)
    *_, counter = world(
        scripted(OutcomeUnknown("link broke"), NotExecuted("gone", reason="unreachable")), location(Counter, chain)
    )
    with amino.deadline(0.1), pytest.raises(OutcomeUnknown):
        counter.add(1)


@pytest.mark.parametrize("chain", [(), (AtLeastOnceRPC(),)])
def test_application_errors_arrive_as_themselves(chain):
    """Also those that look like Amino's own; none is repeated."""
    for error in (KeyError("no"), OutcomeUnknown("of a nested call"), NotExecuted("of a nested call", reason="moved")):
        transport, *_, counter = world(scripted(AppError(error)), location(Counter, *chain))
        with pytest.raises(type(error)):
            counter.add(1)
        assert len(transport.heads) == 1


def test_nothing_is_sent_after_the_deadline():
    """The last reason is given when the time is up."""
    transport, *_, counter = world(scripted(NotExecuted("no link", reason="unreachable")))
    with amino.deadline(0.05), pytest.raises(NotExecuted, match="before its deadline"):
        counter.add(1)
    assert all(head.budget_s > 0 for head in transport.heads)


def test_a_deadline_that_has_passed_sends_nothing():
    """A chain that took all the time leaves nothing to send."""
    clock = Time()

    class Slow:
        closed = False

        async def call(self, method, request, *, timeout_s, avoid=""):
            clock.now += 60
            return location(Counter)

    transport = Transport(scripted(1))
    runtime = runtime_of(transport, Slow(), clock=clock)
    with pytest.raises(NotExecuted) as refused:
        runtime.stub(runtime.target("m"), Counter).add(1)
    assert refused.value.reason == "deadline"
    assert transport.heads == []


def test_a_call_to_a_server_known_to_be_lost_is_not_sent():
    """It waits for the successor instead."""
    transport, _, runtime, counter = world(scripted(1), location(Counter), location(Counter, epoch=2, server="s2"))
    runtime.addresses.update(members(5, ("s1", 1), ("s2", 1)))
    runtime.addresses.update(members(6, ("s2", 1)))
    assert counter.add(1) == 1
    assert [head.epoch for head in transport.heads] == [2]
    assert transport.dropped == ["s1:1"]


def test_calls_of_many_threads_survive_a_location_that_comes_and_goes():
    """Whatever one thread forgets, no other sees a location of None: each looks it up and goes on."""
    errors, rounds = [], 200

    def answer(address, head, args):
        if head.sequence % 3 == 0 and head.epoch < 10**6:
            raise ServerSays(NotExecuted("moved", reason="moved"))
        return 1

    class Moving(Registry):
        epoch = 0

        async def call(self, method, request, *, timeout_s, avoid=""):
            Moving.epoch += 1
            return location(Counter, epoch=Moving.epoch if Moving.epoch % 5 else 10**6)

    transport = Transport(answer)
    runtime = runtime_of(transport, Moving())
    target = runtime.target("m")

    def work():
        try:
            for _ in range(rounds):
                target.location = None
                drive(runtime.methods(target))
                target.forward = None
                with amino.deadline(5.0):
                    runtime.stub(target, Counter).get()
        except Exception as error:  # noqa: BLE001 - whatever it is, the test shows it
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_a_chain_that_was_changed_meanwhile_is_composed_anew():
    """Also when the old location had been forgotten before the new one was learnt."""
    _, _, runtime, counter = world(scripted(1))
    counter.add(1)
    target = runtime.target("m")
    before = target.forward
    target.location = None
    runtime.learn(location(Counter, AtLeastOnceRPC(), epoch=2))
    counter.add(1)
    assert target.forward is not before
    target.location = None
    after = target.forward
    runtime.learn(location(Counter, AtLeastOnceRPC(), epoch=3))
    assert target.forward is after


def test_nested_calls_extend_the_root_s_id_and_inherit_its_deadline():
    """Their ids are (root id, path), equal in each retry of the root; the root's floor goes with them."""
    transport, _, runtime, counter = world(scripted(1))
    deadline = runtime.clock.monotonic() + 0.5
    request = RequestId("root", "other", 9, (2,))
    for _ in range(2):
        token = CURRENT.set(Invocation(runtime, "other", "r", "/", request, 4, deadline, "s1", 1))
        counter.add(1)
        counter.add(1)
        CURRENT.reset(token)
    ids = [(head.client, head.root, head.sequence, head.nested, head.floor) for head in transport.heads]
    assert ids == [("root", "other", 9, (2, 1), 4), ("root", "other", 9, (2, 2), 4)] * 2
    assert all(head.budget_s <= 0.5 for head in transport.heads)


def test_after_a_fork_ids_are_new():
    """The child is another client."""
    transport, _, runtime, counter = world(scripted(1))
    counter.add(1)
    runtime.renew("c2")
    counter.add(1)
    assert [head.client for head in transport.heads] == ["c1", "c2"]


def test_a_method_that_does_not_exist_is_told_at_once():
    """The server's word is final; nothing is repeated."""
    transport, *_, counter = world(scripted(ServerSays(NotFound("no such method"))))
    with pytest.raises(NotFound):
        counter.add(1)
    assert len(transport.heads) == 1


class Buffers:
    """Pickles its content out of band, as numpy's arrays do."""

    def __init__(self, content) -> None:
        self.content = content

    def __reduce_ex__(self, protocol):
        return Buffers, (pickle.PickleBuffer(self.content),)


class Here:
    """A kernel server of the same process."""

    server = "s1"
    incarnation = 1
    alive = True

    def __init__(self) -> None:
        self.seen = []

    def valid(self):
        """Whether its session is."""
        return self.alive

    async def serve_local(self, call, epoch, number, segments):
        """Change the arguments, and answer."""
        args, _ = decode_arguments(number, segments, trusted=True)
        if isinstance(args[0], Buffers):
            args[0].content[0] = 9
        else:
            args[0].append(9)
        self.seen.append((call.request.sequence, call.attempt, epoch))
        if len(self.seen) == 1:
            call.attempt = 99
            raise OutcomeUnknown("lost half-way")
        kind, answer = encode(len(self.seen))
        return 0, bytes([kind]), answer


@pytest.mark.parametrize("argument", [[1], Buffers(bytearray(b"a"))], ids=["plain", "out of band"])
def test_co_located_calls_share_nothing(argument):
    """Arguments are copies, buffers out of band too, in each attempt; attempts are counted as over a link."""
    here = Here()
    *_, counter = world(scripted(1), location(Counter, AtLeastOnceRPC(backoff_initial_s=0.001)), local=here)
    assert counter.add(argument) == 2
    assert here.seen == [(1, 0, 1), (1, 1, 1)]
    assert argument == [1] or argument.content == b"a"


def test_a_server_that_cannot_prove_its_session_sends_no_nested_calls():
    """Not even to itself."""
    here = Here()
    here.alive = False
    transport, *_, counter = world(scripted(1), local=here)
    with amino.deadline(0.05), pytest.raises(NotExecuted):
        counter.add([1])
    assert (here.seen, transport.heads) == ([], [])


def test_arguments_that_cannot_be_sent_say_so_before_anything_is_sent():
    """A lock has no encoding."""
    transport, *_, counter = world(scripted(1))
    with pytest.raises(amino.errors.NotEncodable):
        counter.add(threading.Lock())
    assert transport.heads == []
    with pytest.raises(Invalid, match="not positive"), amino.deadline(0):
        pass


def test_an_unknown_outcome_that_the_server_reports_counts_as_an_attempt():
    """The retry says so, so that the server's table can tell it from a first call."""
    said = ServerSays(OutcomeUnknown("the session was lost while it ran"))
    transport, *_, counter = world(scripted(said, 1), location(Counter, AtLeastOnceRPC()))
    counter.add(1)
    assert [head.attempt for head in transport.heads] == [0, 1]


def test_a_look_up_without_an_answer_leaves_the_call_not_executed():
    """Nothing was sent, so the caller may repeat it whatever the method does."""
    transport, registry, *_, counter = world(scripted(1))
    registry.problem = OutcomeUnknown("no answer to the look-up")
    with amino.deadline(0.2), pytest.raises(NotExecuted, match="looked up"):
        counter.add(1)
    assert not transport.heads


class _Loud(ClientBase):
    """Marks calls, so that one can see which chain they passed."""

    def __init__(self, name):
        self.name = name

    async def on_call(self, call, forward):
        call.headers = {**(call.headers or {}), self.name: True}
        call.path = "/"
        return await forward(call)


class Old(Manager, frozen=True, kw_only=True):
    """Stands in the chain that was."""

    def client(self, context):
        """Mark calls."""
        return _Loud("old")


class New(Manager, frozen=True, kw_only=True):
    """Stands in the chain that is."""

    def client(self, context):
        """Mark calls."""
        return _Loud("new")


def test_a_call_in_flight_passes_the_new_chain(monkeypatch):
    """Refused by the changed object, it starts over under the same id, without what the old components made of it."""
    kinds = {"Old": Old, "New": New, "AtLeastOnceRPC": AtLeastOnceRPC}
    monkeypatch.setattr("amino.dm.registry.manager_class", kinds.__getitem__)
    transport, _, runtime, counter = world(
        scripted(ServerSays(NotExecuted("it changed", reason="moved")), 5, 6),
        location(Counter, AtLeastOnceRPC(), Old()),
        location(Counter, New(), epoch=2),
    )
    runtime.learn(location(Counter, AtLeastOnceRPC(), Old()))
    runtime.registry.locations.pop(0)
    assert counter.add(1) == 5
    assert counter.add(2) == 6
    first, second, third = transport.heads
    assert (first.headers, first.epoch, first.sequence) == ({"old": True}, 1, 1)
    assert (second.headers, second.epoch, second.sequence) == ({"new": True}, 2, 1)
    assert (third.headers, third.epoch, third.sequence) == ({"new": True}, 2, 2)
