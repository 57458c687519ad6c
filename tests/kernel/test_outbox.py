"""Events of an object: bounds, tokens, histories, and when a reader may have them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import amino
from amino import limits
from amino.aio.mode import drive
from amino.aio.signal import Signal
from amino.contracts.calls import RequestId
from amino.contracts.own import EVENTS_CALL, NEWEST, OLDEST, Missed
from amino.dm.base import Manager, ServerBase
from amino.errors import Invalid, NotExecuted, Overloaded, StoreFailed
from amino.kernel.outbox import Outbox
from amino.stubs.events import Subscription
from tests.coordination.virtual import run_virtual
from tests.kernel.world import Around, call_of, serving, value_of


def filled(count: int, *, kept_max: int = 100, bytes_max: int = 10_000, branch: int = 3) -> Outbox:
    outbox = Outbox(branch)
    for number in range(1, count + 1):
        outbox.emit("odd" if number % 2 else "even", bytes([number]), kept_max=kept_max, bytes_max=bytes_max)
    outbox.released = outbox.last
    return outbox


def numbers(outbox: Outbox, after: str, topic: str = "", events_max: int = 100) -> list[int]:
    return [event.number for _, event in outbox.read(after, topic, events_max, 10_000).events]


def test_readers_go_on_from_their_tokens() -> None:
    """Batches follow each other without gap or repetition, by topic too; newest begins behind all, oldest before."""
    outbox = filled(10)
    first = outbox.read(OLDEST, "", 4, 10_000)
    assert [event.number for _, event in first.events] == [1, 2, 3, 4]
    assert first.events[-1][0] == first.token == "3-4"
    assert numbers(outbox, first.token) == [5, 6, 7, 8, 9, 10]
    assert numbers(outbox, NEWEST) == []
    assert numbers(outbox, "3-3", "even") == [4, 6, 8, 10]
    assert outbox.read("3-9", "odd", 10, 10_000).token == "3-10"
    assert outbox.read(OLDEST, "", 100, 3).token == "3-3"
    assert not outbox.has_news("3-10")
    assert outbox.has_news("3-9")
    with pytest.raises(Invalid, match="no token"):
        outbox.read("yesterday", "", 1, 1)


def test_what_was_dropped_is_named() -> None:
    """Beyond count or bytes the oldest go, and a reader that was not there yet is told which."""
    for outbox in (filled(10, kept_max=4), filled(10, bytes_max=4)):
        batch = outbox.read("3-2", "", 100, 10_000)
        assert batch.missed == Missed("dropped", 3, 6)
        assert [event.number for _, event in batch.events] == [7, 8, 9, 10]
        assert outbox.read("3-6", "", 100, 10_000).missed is None
        assert numbers(outbox, OLDEST) == [7, 8, 9, 10]


def test_what_was_read_and_lost_with_the_state_is_named() -> None:
    """After the state went back to a checkpoint a reader from before hears what it should not have seen."""
    saved = filled(6).snapshot()
    outbox = Outbox.restored(saved)
    outbox.begin_branch(5)
    assert outbox.read("3-6", "", 10, 10_000).missed is None
    assert outbox.has_news("3-9")
    outbox.emit("new", b"", kept_max=100, bytes_max=100)
    outbox.released = outbox.last
    batch = outbox.read("3-9", "", 10, 10_000)
    assert batch.missed == Missed("lost", 7, 9)
    assert [token for token, _ in batch.events] == ["5-7"]
    assert numbers(outbox, "3-6") == [7]
    assert numbers(outbox, "5-7") == []
    again = Outbox.restored(outbox.snapshot())
    again.begin_branch(6)
    again.begin_branch(8)  # nothing was emitted in 6
    assert again.read("5-7", "", 10, 10_000).missed is None
    assert again.read("6-9", "", 10, 10_000).missed == Missed("lost", 8, 9)
    assert again.read("9-9", "", 10, 10_000).missed == Missed("lost", 1, 9)
    assert again.read("2-0", "", 10, 10_000).missed is None  # had read nothing


class Speaker:
    """Emits."""

    __amino_events_kept__ = 5

    def __init__(self) -> None:
        self.said = 0

    @amino.inline
    def say(self, text: str, times: int = 1) -> int:
        for _ in range(times):
            self.said += 1
            amino.emit("said", {"text": text, "number": self.said})
        return self.said

    @amino.inline
    def fail(self) -> None:
        amino.emit("failed")
        raise ValueError("after it had emitted")

    @amino.inline
    @amino.readonly
    def whisper(self) -> None:
        amino.emit("said")

    @amino.inline
    def shout(self, topic: Any, size: int) -> None:
        amino.emit(topic, bytes(size))


class _Slow(ServerBase):
    """Holds each call after its method, until it is let go or fails."""

    def __init__(self) -> None:
        GATES.clear()

    async def on_call(self, call: Any, forward: Any) -> Any:
        if call.readonly:
            return await forward(call)
        gate: Signal[Exception | None] = Signal()
        GATES.append(gate)
        try:
            return await forward(call)
        finally:
            problem = await gate.wait()
            if problem is not None:
                raise problem


class Slow(Manager, frozen=True, kw_only=True):
    """Stands for a manager that makes a call durable."""

    def server(self, context: Any) -> ServerBase:
        return _Slow()


GATES: list[Signal[Exception | None]] = []


def read_call(target: Any, after: str, wait_s: float = 0.0, sequence: int = 1) -> Any:
    return call_of(target, EVENTS_CALL, after, "", 100, wait_s, client="reader", sequence=sequence, timeout_s=1e9)


async def said(target: Any, after: str, wait_s: float = 0.0) -> list[int]:
    found = value_of(await target.serve(read_call(target, after, wait_s)))
    return [payload["number"] for _, topic, payload in found["events"] if topic == "said"]


def test_events_are_read_once_their_call_has_passed_all_managers() -> None:
    """A reader overtakes no manager; a call that failed on its way is covered by the next that did not."""

    async def main(clock: Any) -> None:
        target = serving(Speaker(), Slow(), around=Around(clock=clock))
        start = value_of(await target.serve(read_call(target, NEWEST)))["token"]
        calls = [
            asyncio.create_task(target.serve(call_of(target, "say", word, sequence=number, timeout_s=1e9)))
            for number, word in enumerate("abc", 1)
        ]
        await asyncio.sleep(1.0)
        assert await said(target, start) == []
        GATES[0].set(StoreFailed("disk full"))
        with pytest.raises(StoreFailed):
            await calls[0]
        assert await said(target, start) == []
        GATES[1].set(None)
        await calls[1]
        assert await said(target, start) == [1, 2]
        waiting = asyncio.create_task(said(target, "1-2", 60.0))
        await asyncio.sleep(5.0)
        assert not waiting.done()
        GATES[2].set(None)
        assert await waiting == [3]
        await calls[2]
        again = asyncio.create_task(target.serve(call_of(target, "say", "a", sequence=1, attempt=1, timeout_s=1e9)))
        await asyncio.sleep(1.0)
        GATES[3].set(None)
        assert value_of(await again) == 1  # the saved answer; nothing is emitted again
        assert await said(target, start) == [1, 2, 3]

    run_virtual(main)


def test_a_reader_that_waits_holds_nothing_up() -> None:
    """While it waits the object can be sealed; it ends in time, and at once when the object leaves."""

    async def main(clock: Any) -> None:
        target = serving(Speaker(), around=Around(clock=clock))
        before = clock.monotonic()
        assert await said(target, "1-0", 30.0) == []
        assert clock.monotonic() - before == pytest.approx(30.0)
        waiting = asyncio.create_task(said(target, "1-0", 30.0))
        await asyncio.sleep(1.0)
        await target.seal(0.0)
        target.leave({})
        with pytest.raises(NotExecuted):
            await waiting
        assert clock.monotonic() - before == pytest.approx(31.0)
        target.readers = limits.EVENT_READERS_PER_OBJECT_MAX
        with pytest.raises(Overloaded, match="readers"):
            await said(target, "1-0", 30.0)

    run_virtual(main)


def test_events_go_with_the_state() -> None:
    """A snapshot restored elsewhere has them, with their tokens; the class says how many are kept."""
    first, second = serving(Speaker()), serving(Speaker())
    assert value_of(drive(first.serve(call_of(first, "say", "a", 7)))) == 7
    with pytest.raises(ValueError, match="emitted"):
        value_of(drive(first.serve(call_of(first, "fail", sequence=2))))
    second.restore_sealed(first.snapshot_sealed())
    found = value_of(drive(second.serve(read_call(second, "1-3"))))
    assert [topic for _, topic, _ in found["events"]] == ["said"] * 4 + ["failed"]
    assert found["missed"] is None
    assert value_of(drive(second.serve(read_call(second, "1-1"))))["missed"] == ["dropped", 2, 3]
    empty = serving(Speaker())
    assert value_of(drive(empty.serve(read_call(empty, "1-5"))))["missed"] == ["lost", 1, 5]
    assert value_of(drive(empty.serve(read_call(empty, "4-0"))))["token"] == "4-0"


def test_events_of_a_state_that_is_gone_back_from_on_request_stay_told() -> None:
    """Their numbers are not given again; a rollback of a call that failed takes its events with it."""
    target = serving(Speaker())
    drive(target.serve(call_of(target, "say", "a", 2)))
    snapshot = target.snapshot_sealed()
    drive(target.serve(call_of(target, "say", "b", 2, sequence=2)))
    drive(target.restore(snapshot, None, RequestId("c1", "m1", 3)))
    assert target.instance.said == 2
    target.tables.release_all()
    drive(target.serve(call_of(target, "say", "c", sequence=4)))
    found = value_of(drive(target.serve(read_call(target, "1-2"))))
    assert [(token, payload["text"]) for token, _, payload in found["events"]] == [
        ("1-3", "b"),
        ("1-4", "b"),
        ("1-5", "c"),
    ]
    drive(target.restore(snapshot))
    drive(target.serve(call_of(target, "say", "d", sequence=5)))
    found = value_of(drive(target.serve(read_call(target, "1-2"))))
    assert [(token, payload["text"]) for token, _, payload in found["events"]] == [("1-3", "d")]


def test_what_cannot_be_emitted_is_refused() -> None:
    """Readers cannot emit, topics are texts, payloads are bounded, and there is no emitting outside of methods."""
    target = serving(Speaker())
    wrong: list[tuple[str, tuple[Any, ...], str]] = [
        ("whisper", (), "readonly"),
        ("shout", ("", 1), "topic"),
        ("shout", (7, 1), "topic"),
        ("shout", ("loud", limits.EVENT_BYTES_MAX), "bound"),
    ]
    for sequence, (method, args, match) in enumerate(wrong, 1):
        with pytest.raises(Invalid, match=match):
            value_of(drive(target.serve(call_of(target, method, *args, sequence=sequence))))
    with pytest.raises(Invalid, match="outside"):
        amino.emit("said")
    with pytest.raises(Invalid, match="reader"):
        drive(target.serve(call_of(target, EVENTS_CALL, 1, sequence=9)))


class Scripted:
    """A runtime whose microservice answers as told."""

    def __init__(self, clock: Any, answers: list[Any]) -> None:
        self.clock = clock
        self.answers = answers
        self.asked: list[tuple[Any, ...]] = []

    async def invoke(self, target: Any, method: str, flags: int, args: tuple[Any, ...], kwargs: Any) -> Any:
        """Answer, or fail."""
        self.asked.append(args)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def test_a_subscriber_survives_failures_and_hears_what_it_missed() -> None:
    """It asks again with the same token; a gap is raised once, and iterating goes on behind it."""

    async def main(clock: Any) -> None:
        target = type(
            "Target", (), {"microservice": "m1", "location": type("Location", (), {"groups": {"/": None}})()}
        )()
        answers = [
            {"events": [("1-1", "a", 1)], "token": "1-1", "missed": None},
            NotExecuted("moved", reason="moved"),
            NotExecuted("moved", reason="moved"),
            {"events": [("2-9", "a", 9)], "token": "2-9", "missed": ["dropped", 2, 8]},
            {"events": [], "token": "2-12", "missed": None},
            *[NotExecuted("away", reason="unreachable")] * 1000,
        ]
        runtime = Scripted(clock, answers)
        subscription = Subscription(runtime, target, "a", OLDEST, 60.0)
        assert await anext(subscription) == ("a", 1, "1-1")
        with pytest.raises(amino.EventsMissed, match="2 to 8") as caught:
            await anext(subscription)
        assert caught.value.details == {"why": "dropped", "first": 2, "last": 8}
        assert await anext(subscription) == ("a", 9, "2-9")
        assert [asked[0] for asked in runtime.asked] == [OLDEST, "1-1", "1-1", "1-1"]
        with pytest.raises(NotExecuted, match="away"):
            await anext(subscription)
        assert subscription.token == "2-12"
        subscription.close()
        assert [event async for event in subscription] == []
        with pytest.raises(RuntimeError, match="async for"):
            next(subscription)

    run_virtual(main)
