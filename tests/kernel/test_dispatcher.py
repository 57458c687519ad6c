"""The dispatcher: from frames to replies, bounds, validity, co-located calls."""

from __future__ import annotations

import asyncio
import pickle
import threading
from typing import ClassVar

import pytest

import amino
from amino.aio.mode import surface
from amino.aio.signal import Signal
from amino.dm.base import Manager, ServerBase
from amino.errors import Invalid, NotExecuted, NotFound, OutcomeUnknown, Overloaded
from amino.telemetry.metrics import Metrics
from amino.telemetry.trace import Telemetry
from amino.wire import codec
from amino.wire.frames import decode_error
from tests.kernel.world import Around, Inbound, Served, call_of, serving, value_of


class Work:
    """Methods of every kind."""

    def __init__(self) -> None:
        self.value = 0
        self.entered = threading.Event()
        self.go_on = threading.Event()
        self.released = asyncio.Event()

    def add(self, n):
        """Run in a thread."""
        self.value += n
        return self.value, threading.current_thread() is threading.main_thread()

    @amino.inline
    def add_inline(self, n):
        """Run where the frame was read."""
        self.value += n
        return self.value, threading.current_thread() is threading.main_thread()

    async def add_async(self, n):
        """Run on the loop."""
        self.value += n
        return self.value, threading.current_thread() is threading.main_thread()

    def block(self):
        """Hold a thread until told to go on."""
        self.entered.set()
        self.go_on.wait(5.0)

    async def wait(self, n=1):
        """Wait on the loop until released."""
        self.entered.set()
        await self.released.wait()
        self.value += n
        return self.value

    def leave_thread(self):
        """Raise what ends a thread."""
        raise KeyboardInterrupt

    def take(self, buffer):
        """Change the argument."""
        buffer[0] = 9


class Array:
    """Pickles its content out of band, as numpy's arrays do."""

    def __init__(self, content) -> None:
        self.content = content

    def __reduce_ex__(self, protocol):
        return Array, (pickle.PickleBuffer(self.content),)

    def __setitem__(self, place, value):
        self.content[place] = value


def test_each_kind_of_method_runs_in_its_place():
    """``def`` in a worker thread, ``@amino.inline`` and ``async def`` on the loop; nothing stays counted."""

    async def main():
        target = serving(Work())
        async with Served(target) as served:
            assert await served.call("add", 1, sequence=1) == (1, False)
            assert await served.call("add_inline", 1, sequence=2) == (2, True)
            assert await served.call("add_async", 1, sequence=3) == (3, True)
            assert served.dispatcher.in_flight == target.in_flight == 0
            assert served.dispatcher.calls == 3

    asyncio.run(main())


def test_calls_that_cannot_be_meant_are_refused_with_what_is_there():
    """Another place, another epoch, another method, too deep nesting: not executed, and said why."""

    async def main():
        async with Served(serving(Work())) as served:
            for head, error, reason in (
                ({"microservice": "m2"}, NotExecuted, "not-here"),
                ({"epoch": 0}, NotExecuted, "stale-epoch"),
                ({"epoch": 2}, NotExecuted, "not-here"),
                ({"nested": tuple(range(1, 1000))}, Invalid, None),
            ):
                with pytest.raises(error) as refused:
                    await served.call("add", 1, **head)
                assert refused.value.details.get("reason") == reason
            with pytest.raises(NotFound, match="no public method '_add'"):
                await served.call("_add", 1)

    asyncio.run(main())


def test_garbage_is_answered_as_such_and_counted():
    """A head or arguments that cannot be read are the caller's error; nobody waits for a reply."""

    class Counting(Metrics):
        reasons: ClassVar[list[str]] = []

        def refused(self, reason):
            """Note it."""
            self.reasons.append(reason)

    telemetry = Telemetry()
    telemetry.metering, telemetry.metrics = True, Counting()

    async def main():
        async with Served(serving(Work()), telemetry=telemetry) as served:
            inbound = Inbound(b"\xff\x00garbage", [])
            served.dispatcher.handle(inbound)
            assert isinstance(decode_error((await inbound.answer)[1]), Invalid)
            with pytest.raises(Invalid):
                await served.call("add", 1, codec=9)
            with pytest.raises(NotExecuted):
                await served.call("add", 1, microservice="m2")
            assert Counting.reasons == ["malformed", "malformed", "not-here"]
            assert served.dispatcher.in_flight == 0

    asyncio.run(main())


@pytest.mark.parametrize(
    "bounds",
    [{"in_flight_max": 2}, {"in_flight_per_object_max": 2}, {"threads_max": 2}],
    ids=lambda bounds: next(iter(bounds)),
)
def test_beyond_a_bound_calls_are_overloaded_at_once(bounds):
    """The third call is refused while two run; when they have ended there is room again."""

    async def main():
        target = serving(Work())
        async with Served(target, **bounds) as served:
            running = [served.send("block", sequence=number) for number in (1, 2)]
            with pytest.raises(Overloaded):
                await served.call("block", sequence=3)
            target.instance.go_on.set()
            for inbound in running:
                await inbound.answer
            await served.until_idle()  # a thread is free a moment after its answer has left
            assert (await served.call("add", 1, sequence=4))[0] == 1

    asyncio.run(main())


def test_without_a_valid_session_nothing_runs():
    """Held at most ``hold_s`` and at most until the deadline, then not executed."""

    async def main():
        target = serving(Work(), around=Around(hold_s=2.0))
        async with Served(target) as served:
            served.session.ok = False
            for number, method in enumerate(("add", "add_inline", "add_async"), 1):
                with pytest.raises(NotExecuted) as refused:
                    await served.call(method, 1, sequence=number)
                assert refused.value.reason == "fenced"
            with pytest.raises(NotExecuted):
                await served.call("add_async", 1, sequence=4, budget_s=0.5)
            assert target.instance.value == 0
            assert served.session.waits[:3] == [2.0] * 3
            assert served.session.waits[3] <= 0.5

    asyncio.run(main())


def test_a_co_located_caller_waits_for_what_holds_its_answer():
    """A component holds no outcome of a co-located call: who called would take it for final before it is committed."""

    class Holding(ServerBase):
        holds = True
        asked: ClassVar[list[bool]] = []

        async def on_call(self, call, forward):
            """Note whether the outcome could be held."""
            self.asked.append(call.holds)
            return await forward(call)

    class Holds(Manager):
        def server(self, context):
            """Return it."""
            return Holding()

    async def main():
        target = serving(Work(), Holds())
        async with Served(target) as served:
            assert target.chain.holds
            await local(served, target, "add_async", 1, sequence=1)
            await local(served, target, "add_inline", 1, sequence=2)
            await served.call("add_async", 1, sequence=3)
        assert Holding.asked == [False, False, True]

    asyncio.run(main())


@pytest.mark.parametrize("method", ["wait", "block"])
def test_a_reply_is_kept_back_when_the_session_ended_meanwhile(method):
    """The method has run, so its outcome is unknown; an object that was taken away answers so too."""

    async def main():
        target = serving(Work())
        async with Served(target) as served:
            for number in (1, 2):
                work = target.instance = Work()
                target.adopt_instance(work)
                served.session.ok = True
                inbound = served.send(method, sequence=number)
                await asyncio.to_thread(work.entered.wait, 5.0)
                served.session.ok = number == 2
                target.revoked = number == 2
                work.go_on.set()
                work.released.set()
                assert isinstance(decode_error((await inbound.answer)[1]), OutcomeUnknown)
                assert len(inbound.replies) == 1

    asyncio.run(main())


def test_the_inline_path_checks_the_session_after_the_method_too():
    """An inline method can take long: its reply needs a valid session as any other."""

    class Inline:
        served = None

        @amino.inline
        def act(self):
            """Lose the session."""
            self.served.session.ok = False

    async def main():
        target = serving(Inline())
        async with Served(target) as served:
            Inline.served = served
            with pytest.raises(OutcomeUnknown):
                await served.call("act")

    asyncio.run(main())


def test_user_code_that_ends_its_thread_is_answered():
    """KeyboardInterrupt in a method costs its caller no deadline and the server no thread."""

    async def main():
        async with Served(serving(Work()), threads_max=2) as served:
            with pytest.raises(OutcomeUnknown):
                await served.call("leave_thread")
            assert (await served.call("add", 1, sequence=2))[0] == 1
            await served.until_idle()  # a call that ends its thread is answered before it is counted off
            assert served.dispatcher.in_flight == 0

    asyncio.run(main())


def test_a_stopping_server_refuses_and_answers_what_runs():
    """Tasks that are cancelled answer unknown; calls that come afterwards are not executed."""

    async def main():
        target = serving(Work())
        async with Served(target) as served:
            running = served.send("wait")
            await asyncio.sleep(0)
            await served.tasks.aclose()
            assert isinstance(decode_error((await running.answer)[1]), OutcomeUnknown)
            with pytest.raises(NotExecuted) as refused:
                await served.call("add_async", 1, sequence=2)
            assert refused.value.reason == "not-ready"
            assert served.dispatcher.in_flight == target.in_flight == 0

    asyncio.run(main())


def local(served, target, method, *args, sequence=1, timeout_s=5.0):
    call = call_of(target, method, sequence=sequence, timeout_s=timeout_s)
    number, segments = codec.encode_arguments(args, {}, trusted=True)
    return served.dispatcher.serve_local(call, 1, number, segments)


def test_co_located_calls_run_in_the_place_of_their_method():
    """From the loop: ``def`` in a thread, the others there; from a thread: ``async def`` on the loop, the rest there."""
    from amino.aio.mode import drive

    async def main():
        target = serving(Work())
        async with Served(target) as served:
            results = [value_of(await local(served, target, "add", 1, sequence=1))]
            results.append(value_of(await local(served, target, "add_async", 1, sequence=2)))
            for number, method in enumerate(("add", "add_async"), 3):
                answer = await asyncio.to_thread(
                    lambda m=method, n=number: drive(local(served, target, m, 1, sequence=n))
                )
                results.append(value_of(answer))
            assert results == [(1, False), (2, True), (3, False), (4, True)]
            assert served.dispatcher.in_flight == 0

    asyncio.run(main())


@pytest.mark.parametrize("method", ["wait", "block"])
def test_a_co_located_call_ends_at_its_deadline_and_the_method_goes_on(method):
    """Unknown at the deadline, as over a link; the method finishes, and a retry gets its answer."""

    async def main():
        target = serving(Work())
        async with Served(target) as served:
            with pytest.raises(OutcomeUnknown, match="deadline"):
                await local(served, target, method, timeout_s=0.02)
            retry = asyncio.create_task(local(served, target, method))
            await asyncio.sleep(0)
            target.instance.released.set()
            target.instance.go_on.set()
            assert value_of(await retry) == (1 if method == "wait" else None)
            assert target.instance.value == (1 if method == "wait" else 0)

    asyncio.run(main())


def test_cancelling_a_co_located_caller_leaves_the_method_running():
    """Cancellation abandons the wait and never interrupts somebody else's method half-way."""

    async def main():
        target = serving(Work())
        async with Served(target) as served:
            caller = asyncio.create_task(local(served, target, "wait"))
            await asyncio.to_thread(target.instance.entered.wait, 5.0)
            caller.cancel()
            with pytest.raises(asyncio.CancelledError):
                await caller
            target.instance.released.set()
            assert value_of(await local(served, target, "wait")) == 1
            assert target.instance.value == 1

    asyncio.run(main())


def test_arguments_are_read_by_the_callee_s_classes():
    """Whatever finds classes for the caller, the callee's code finds its own, and the caller's is in force again after."""
    seen = []

    class Finding:
        def take(self, value):
            """Note how pickles would be read."""
            seen.append(codec.FIND_CLASS.get())

    def find(module, name):
        seen.append((module, name))
        return Array

    async def main():
        target = serving(Finding())
        async with Served(target) as served:
            with codec.finding(lambda *_: None):
                outer = codec.FIND_CLASS.get()
                await local(served, target, "take", Array(bytearray(1)))
                assert codec.FIND_CLASS.get() is outer
            assert seen == [None]
            target.find_class = find
            target.adopt_instance(target.instance)
            await served.call("take", Array(bytearray(1)), sequence=2)
            assert seen[1:] == [(__name__, "Array"), find]

    asyncio.run(main())


class Stored(ServerBase):
    """Leaves the thread before it waits."""

    stored: ClassVar[Signal[str]]

    async def on_call(self, call, forward):
        """Run the method, then wait."""
        result = await forward(call)
        if call.surfaces:
            await surface()
        return [*(result or ()), await self.stored.wait(5.0), threading.current_thread() is threading.main_thread()]


class Storing(Manager, frozen=True):
    """Keeps each call waiting for the world after its method, as managers that make calls durable do."""

    def server(self, context):
        """Return the component."""
        return Stored()


def test_a_call_that_waits_for_the_world_leaves_its_thread():
    """Its method runs in a thread, the wait on the loop; one thread serves many calls that wait."""

    async def main():
        Stored.stored = Signal()
        target = serving(Work(), Storing())
        async with Served(target, threads_max=1) as served:
            sent = []
            for number in (1, 2, 3):
                sent.append(served.send("add", 1, sequence=number))
                await served.until_idle()
            assert served.dispatcher.in_flight == 3
            Stored.stored.set("stored")
            assert [value_of(await inbound.answer) for inbound in sent] == [
                [number, False, "stored", True] for number in (1, 2, 3)
            ]
            await served.until_idle()

    asyncio.run(main())


def test_a_server_that_stops_answers_what_has_left_its_thread():
    """Calls that wait, and one that comes up when nothing is started any more, end as unknown."""

    async def main():
        Stored.stored = Signal()
        target = serving(Work(), Storing())
        async with Served(target) as served:
            waits = served.send("add", 1, sequence=1)
            await served.until_idle()
            late = served.send("block", sequence=2)
            await asyncio.to_thread(target.instance.entered.wait, 5.0)
            await served.tasks.aclose()
            target.instance.go_on.set()
            for inbound in (waits, late):
                assert isinstance(decode_error((await inbound.answer)[1]), OutcomeUnknown)

    asyncio.run(main())
