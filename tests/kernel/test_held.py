"""Outcomes that the outermost component has the kernel hold: when they leave, what counts meanwhile, who else waits for them."""

from __future__ import annotations

import asyncio
from typing import ClassVar

import pytest

import amino
from amino.aio.mode import on_loop, surface
from amino.aio.signal import Signal
from amino.dm.base import Manager, ServerBase
from amino.errors import NotExecuted, OutcomeUnknown
from amino.wire.frames import decode_error
from tests.kernel.world import Served, serving, value_of


class Counter:
    """Counts in every way a method can."""

    def __init__(self) -> None:
        self.value = 0

    async def add_async(self):
        """Add one on the loop and tell."""
        self.value += 1
        amino.emit("added")
        return self.value

    def add(self):
        """Add one in a thread and tell."""
        self.value += 1
        amino.emit("added")
        return self.value

    async def fail(self):
        """Add one and raise."""
        self.value += 1
        raise ValueError("counted all the same")


class Holder(ServerBase):
    """Says for what the kernel holds each outcome, if it holds any; else waits for that itself."""

    holds = True
    until: ClassVar[Signal[BaseException | None]]
    waited: ClassVar[int]

    async def on_call(self, call, forward):
        """Run the method."""
        try:
            return await forward(call)
        finally:
            if call.surfaces:
                await surface()
            if call.holds:
                assert on_loop()
                call.held = self.until
            else:
                Holder.waited += 1
                problem = await self.until.wait(5.0)
                if problem is not None:
                    raise problem


class Holding(Manager, frozen=True):
    """Has outcomes held."""

    def server(self, context):
        """Return the component."""
        return Holder()


class Passing(ServerBase):
    """Has a step of its own."""

    async def on_call(self, call, forward):
        """Pass on."""
        return await forward(call)


class Outer(Manager, frozen=True):
    """Stands outside and would go on with a call that is held."""

    def server(self, context):
        """Return the component."""
        return Passing()


@pytest.fixture(autouse=True)
def _fresh():
    """Give each test a signal of its own."""
    Holder.until, Holder.waited = Signal(), 0


def emitted(target):
    """Return how many events readers may have."""
    return target.tables.outbox.released


@pytest.mark.parametrize("method", ["add_async", "add"])
def test_what_is_held_leaves_when_its_signal_is_set(method):
    """Until then the call is in flight, its events are kept back, and the object cannot be sealed; nothing waits in a task."""

    async def main():
        target = serving(Counter(), Holding())
        async with Served(target) as served:
            inbound = served.send(method)
            await served.until_idle()
            for _ in range(3):  # what came up from a thread goes on in the next turn of the loop
                await asyncio.sleep(0)
            assert target.instance.value == 1
            assert served.tasks.count == 0
            assert not inbound.replies
            assert served.dispatcher.in_flight == target.in_flight == 1
            assert emitted(target) == 0
            with pytest.raises(TimeoutError):
                await target.seal(0.001)
            Holder.until.set(None)
            assert value_of(inbound.replies[0]) == 1
            assert served.dispatcher.in_flight == target.in_flight == 0
            assert emitted(target) == 1
            assert Holder.waited == 0

    asyncio.run(main())


def test_a_retry_of_what_is_held_waits_for_the_same_outcome():
    """It neither runs again nor is answered before."""

    async def main():
        target = serving(Counter(), Holding())
        async with Served(target) as served:
            first, retry = served.send("add_async"), served.send("add_async", attempt=1)
            await asyncio.sleep(0)
            assert not first.replies
            assert not retry.replies
            Holder.until.set(None)
            assert [value_of(await each.answer) for each in (first, retry)] == [1, 1]
            assert target.instance.value == 1

    asyncio.run(main())


@pytest.mark.parametrize("method", ["add_async", "fail"])
def test_a_problem_takes_the_place_of_what_is_held(method):
    """Whatever the method returned or raised, the caller and whoever retried hear of the problem; events stay back."""

    async def main():
        target = serving(Counter(), Holding())
        async with Served(target) as served:
            both = [served.send(method), served.send(method, attempt=1)]
            Holder.until.set(OutcomeUnknown("nobody else has it"))
            for inbound in both:
                error = decode_error((await inbound.answer)[1])
                assert isinstance(error, OutcomeUnknown)
                assert "nobody else has it" in error.message
            assert target.in_flight == 0
            assert target.tables is None or emitted(target) == 0

    asyncio.run(main())


def test_what_a_method_raised_is_held_as_well():
    """An application error leaves as one, and not before."""

    async def main():
        async with Served(serving(Counter(), Holding())) as served:
            inbound = served.send("fail")
            assert not inbound.replies
            Holder.until.set(None)
            with pytest.raises(ValueError, match="counted all the same"):
                value_of(await inbound.answer)

    asyncio.run(main())


def test_what_is_held_leaves_only_with_a_valid_session():
    """One that was lost meanwhile keeps the outcome back for good."""

    async def main():
        async with Served(serving(Counter(), Holding())) as served:
            inbound = served.send("add_async")
            served.session.ok = False
            Holder.until.set(None)
            assert isinstance(decode_error((await inbound.answer)[1]), OutcomeUnknown)

    asyncio.run(main())


def test_a_server_that_stops_answers_what_it_holds():
    """The components tell why, or the kernel does when it starts nothing any more."""

    async def main():
        async with Served(serving(Counter(), Holding())) as served:
            inbound = served.send("add_async")
            await served.tasks.aclose()
            Holder.until.set(None)
            assert isinstance(decode_error((await inbound.answer)[1]), OutcomeUnknown)

    asyncio.run(main())


def test_nothing_is_held_inside_of_others():
    """Where another component is outside, it must not go on before the one inside has waited."""

    async def main():
        target = serving(Counter(), Holding(), Outer())
        assert not target.chain.holds
        async with Served(target) as served:
            inbound = served.send("add_async")
            await asyncio.sleep(0)
            assert not inbound.replies
            assert Holder.waited == 1
            Holder.until.set(NotExecuted("told by the component", reason="not-ready"))
            assert "told by the component" in decode_error((await inbound.answer)[1]).message

    asyncio.run(main())


def test_a_signal_tells_who_asked_for_it():
    """What is to follow is called by who sets the signal, in order, or at once where it is set."""
    told = []
    signal: Signal[int] = Signal()
    signal.then(told.append)
    signal.then(lambda value: told.append(-value))
    assert not told
    signal.set(7)
    signal.set(8)
    signal.then(told.append)
    assert told == [7, -7, 7]
