"""A kernel object: admission, sealing, one execution per request, snapshot and restore."""

from __future__ import annotations

import asyncio
import threading

import pytest

import amino
from amino.aio.mode import drive
from amino.contracts.calls import Raised
from amino.dm import PeriodicCheckpoint, SerializableRPC
from amino.dm.base import Manager, ServerBase, Trait
from amino.errors import CodeUnavailable, Invalid, NotExecuted, OutcomeUnknown
from amino.wire import codec
from amino.wire.frames import Status
from tests.kernel.world import Around, call_of, serving, value_of


class Box:
    """Counts, waits and fails as told."""

    def __init__(self) -> None:
        self.value = 0
        self.entered = threading.Event()
        self.go_on = threading.Event()

    def __getstate__(self):
        return self.value

    def __setstate__(self, value):
        self.__init__()
        self.value = value

    def add(self, n):
        """Add."""
        self.value += n
        return self.value

    def slow(self, n):
        """Add when told to go on."""
        self.entered.set()
        self.go_on.wait(5.0)
        return self.add(n)

    def fail(self, n):
        """Add, then raise."""
        self.value += n
        raise KeyError("no")

    def secret(self):
        """Return what cannot be sent."""
        self.value += 1
        return threading.Lock()

    @amino.readonly
    def get(self):
        """Read."""
        return self.value

    async def later(self, n):
        """Add, as a coroutine."""
        await asyncio.sleep(0)
        return self.add(n)


def serve(target, call):
    return value_of(drive(target.serve(call)))


def test_a_repeated_request_runs_once():
    """Its saved answer comes back, an application error too."""
    target = serving(Box())
    assert serve(target, call_of(target, "add", 2)) == 2
    assert serve(target, call_of(target, "add", 2, attempt=1)) == 2
    for attempt in (0, 1):
        with pytest.raises(KeyError):
            serve(target, call_of(target, "fail", 1, sequence=2, attempt=attempt))
    assert target.instance.value == 3
    assert target.mutations == 2


def test_begin_nowait_gives_the_saved_answer_and_leaves_nothing_behind():
    """The fast path returns the answer of a request that has run, and nothing stays pending or inside."""
    target = serving(Box())
    call = call_of(target, "add", 2)
    assert value_of(target.finish(call, target.begin_nowait(call))) == 2
    assert value_of(target.begin_nowait(call_of(target, "add", 2, attempt=1))) == 2
    assert target.in_flight == 0
    given_up = call_of(target, "add", 1, sequence=2)
    target.end(given_up, target.begin_nowait(given_up))
    assert serve(target, call_of(target, "add", 1, sequence=2)) == 3
    with pytest.raises(OutcomeUnknown):
        target.begin_nowait(call_of(target, "add", 1, sequence=2, floor=3))
    assert target.in_flight == 0
    drive(target.seal(0.0))


def test_a_result_that_cannot_be_sent_is_remembered_as_such():
    """The method has run: a retry gets the same error and does not run it again."""
    target = serving(Box())
    answers = [drive(target.serve(call_of(target, "secret", attempt=attempt))) for attempt in (0, 1)]
    assert answers[0] == answers[1]
    assert target.instance.value == 1


@pytest.mark.parametrize("twice", [False, True])
def test_a_request_that_is_still_running_is_attached_to(twice):
    """A duplicate waits for the first one's outcome; with other arguments it is refused."""
    target = serving(Box())
    answers = []
    thread = threading.Thread(target=lambda: answers.append(serve(target, call_of(target, "slow", 4))))
    thread.start()
    target.instance.entered.wait(5.0)
    assert target.begin_nowait(call_of(target, "slow", 4, attempt=1)) is None
    with pytest.raises(Invalid, match="is running as another"):
        serve(target, call_of(target, "slow", 5, attempt=1))
    with pytest.raises(OutcomeUnknown, match="still running"):
        serve(target, call_of(target, "slow", 4, attempt=1, timeout_s=0.01))
    second = threading.Thread(target=lambda: answers.append(serve(target, call_of(target, "slow", 4, attempt=1))))
    second.start()
    target.instance.go_on.set()
    thread.join()
    second.join()
    assert answers == [4, 4]
    assert target.instance.value == 4


def test_an_attached_call_hears_of_an_error_about_the_call():
    """What kept the first from an outcome keeps the second from one too."""

    class Refusing(Manager, frozen=True, kw_only=True):
        """Refuses every call once it is told to."""

        def server(self, context):
            """Return the component."""
            return Refuser()

    class Refuser(ServerBase):
        async def on_call(self, call, forward):
            await asyncio.sleep(0)
            raise NotExecuted("not now", reason="moving")

    async def main():
        target = serving(Box(), Refusing())
        calls = [target.serve(call_of(target, "add", 1, attempt=attempt)) for attempt in (0, 1)]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert [outcome.reason for outcome in outcomes] == ["moving", "moving"]
        assert target.in_flight == 0

    asyncio.run(main())


def test_a_sealed_object_keeps_calls_waiting_and_then_refuses_them():
    """Calls wait at most ``hold_s``; unsealed they run; what is gone says where it went."""

    async def main():
        target = serving(Box(), around=Around(hold_s=5.0))
        await target.seal(1.0)
        assert target.state == "sealed"
        waiting = asyncio.create_task(target.serve(call_of(target, "add", 1)))
        with pytest.raises(NotExecuted) as refused:
            await target.serve(call_of(target, "get", sequence=2, timeout_s=0.01))
        assert refused.value.reason == "moving"
        target.unseal()
        assert value_of(await waiting) == 1
        await target.seal(1.0)
        late = asyncio.create_task(target.serve(call_of(target, "add", 1, sequence=3)))
        await asyncio.sleep(0)
        target.leave({"server": "s2", "replica": "r2", "incarnation": 9, "address": "a", "epoch": 2})
        with pytest.raises(NotExecuted) as moved:
            await late
        assert (moved.value.reason, moved.value.details["server"]) == ("moved", "s2")
        assert target.state == "gone"

    asyncio.run(main())


def test_a_busy_object_can_leave_though_it_cannot_be_sealed():
    """A replica that is dropped while a method runs is gone at once, and the method ends undisturbed."""
    target = serving(Box())
    answers = []
    thread = threading.Thread(target=lambda: answers.append(serve(target, call_of(target, "slow", 4))))
    thread.start()
    target.instance.entered.wait(5.0)
    with pytest.raises(TimeoutError):
        drive(target.seal(0.01))
    target.leave({})
    with pytest.raises(NotExecuted, match="not on s1 any more"):
        serve(target, call_of(target, "add", 1, sequence=2))
    target.instance.go_on.set()
    thread.join()
    assert answers == [4]


def test_a_snapshot_holds_object_and_answers_of_one_instant():
    """A snapshot waits for running changes; restored elsewhere, retries get their answers."""
    target = serving(Box())
    serve(target, call_of(target, "add", 2))
    thread = threading.Thread(target=lambda: serve(target, call_of(target, "slow", 3, sequence=2)))
    thread.start()
    target.instance.entered.wait(5.0)
    assert serve(target, call_of(target, "get", sequence=9)) == 2
    snapshots = []
    taker = threading.Thread(target=lambda: snapshots.append(drive(target.snapshot_counted())[1]))
    taker.start()
    target.instance.go_on.set()
    taker.join()
    thread.join()
    other = serving(Box())
    drive(other.restore(snapshots[0]))
    assert other.mutations == 2
    assert serve(other, call_of(other, "slow", 3, sequence=2, attempt=1)) == 5
    assert serve(other, call_of(other, "add", 1, sequence=3)) == 6


def test_what_is_no_snapshot_is_refused():
    """Other content raises ``CodeUnavailable`` (a later release may read it) and leaves the state."""
    target = serving(Box())
    serve(target, call_of(target, "add", 2))
    for content in (codec.pack({"format": 99}), codec.pack([1]), b""):
        with pytest.raises(CodeUnavailable):
            drive(target.restore(content))
    assert serve(target, call_of(target, "get", sequence=2)) == 2


class Ring:
    """Calls itself in a circle, as A calls B calls A does."""

    target = None

    def __init__(self) -> None:
        self.value = 0

    def outer(self):
        """Change something, and something more within."""
        self.value += 1
        return serve(self.target, call_of(self.target, "inner", path=(1, 1)))

    def inner(self):
        """Change something."""
        self.value += 1
        return self.value

    def asks(self):
        """Change something, and read within."""
        self.value += 1
        return serve(self.target, call_of(self.target, "get", path=(1, 1)))

    @amino.readonly
    def get(self):
        """Read."""
        return self.value


@pytest.mark.parametrize("managers", [(), (SerializableRPC(),)])
def test_a_re_entrant_change_is_admitted(managers):
    """Nothing deadlocks where no state is restored, and not under an order of calls either."""
    target = Ring.target = serving(Ring(), *managers)
    assert serve(target, call_of(target, "outer")) == 2


@pytest.mark.parametrize(
    "chain",
    [PeriodicCheckpoint(every=1), PeriodicCheckpoint(every=1, rollback_on_error=True)],
    ids=["plain", "rollback"],
)
def test_a_re_entrant_change_under_a_manager_that_restores_fails_at_once(chain):
    """Its effect would precede the unfinished outer call's; a re-entrant read is fine. Nobody waits for a deadline."""
    target = Ring.target = serving(Ring(), chain, SerializableRPC())
    with pytest.raises(Invalid, match="within another changing call"):
        serve(target, call_of(target, "outer"))
    target = Ring.target = serving(Ring(), chain, SerializableRPC())
    assert serve(target, call_of(target, "asks")) == 1


def test_methods_that_raise_amino_s_own_errors_are_application_errors():
    """A method may raise anything, an ``OutcomeUnknown`` of a nested call too; it travels as the method's outcome."""

    class Confused:
        def act(self):
            """Raise."""
            raise OutcomeUnknown("of somebody else")

    target = serving(Confused(), SerializableRPC())
    status, *_ = drive(target.serve(call_of(target, "act")))
    assert status == Status.APPLICATION_ERROR
    with pytest.raises(OutcomeUnknown, match="somebody else"):
        serve(target, call_of(target, "act", attempt=1))


def test_components_may_change_the_result():
    """What a component returns or raises instead is what the caller gets, encoded anew."""

    class Doubling(Manager, frozen=True, kw_only=True):
        """Doubles results; turns KeyError into ValueError."""

        provides = frozenset({Trait.ORDER})

        def server(self, context):
            """Return the component."""
            return Doubler()

    class Doubler(ServerBase):
        async def on_call(self, call, forward):
            try:
                return 2 * await forward(call)
            except Raised as raised:
                raise Raised(ValueError(str(raised.error))) from None

    target = serving(Box(), Doubling())
    assert serve(target, call_of(target, "add", 2)) == 4
    assert serve(target, call_of(target, "add", 2, attempt=1)) == 4
    with pytest.raises(ValueError, match="no"):
        serve(target, call_of(target, "fail", 1, sequence=2))


def test_on_a_loop_async_methods_interleave():
    """Concurrent calls on one object are allowed unless a manager orders them."""

    async def main():
        target = serving(Box())
        calls = [target.serve(call_of(target, "later", 1, sequence=number)) for number in range(1, 6)]
        assert sorted([value_of(answer) for answer in await asyncio.gather(*calls)]) == [1, 2, 3, 4, 5]

    asyncio.run(main())


def test_find_class_is_in_force_where_the_object_s_code_reads():
    """Arguments apart, a bundle's object reads snapshots and results of nested calls by its own classes."""
    seen = []

    class Reader:
        def __init__(self) -> None:
            self.kept = Box

        def read(self):
            """Note how pickles would be read."""
            seen.append(codec.FIND_CLASS.get())

        async def read_async(self):
            """Note how pickles would be read."""
            seen.append(codec.FIND_CLASS.get())

    def find(module, name):
        found = __import__(module, fromlist=[name])
        return getattr(found, name)

    target = serving(Reader())
    target.find_class = find
    target.adopt_instance(target.instance)
    serve(target, call_of(target, "read"))
    asyncio.run(target.serve(call_of(target, "read_async", sequence=2)))
    assert seen == [find, find]
    assert codec.FIND_CLASS.get() is None
