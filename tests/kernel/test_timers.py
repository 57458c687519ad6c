"""Timers of an object: the table's decisions, and the wheel that fires them, on virtual time."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import amino
from amino import limits
from amino.aio.mode import drive
from amino.contracts.own import FIRE_CALL
from amino.errors import Invalid, NotExecuted, NotFound
from amino.kernel.object import KernelObject
from amino.kernel.timers import COALESCE, FIRE, SKIP, Timer, TimerTable, judge
from amino.kernel.wheel import TimerWheel
from amino.marks import ASYNC, INLINE, OWN
from tests.coordination.virtual import run_virtual
from tests.kernel.world import Around, call_of, serving, value_of


def timer_of(missed: str, every_s: float = 10.0, number: int = 0) -> Timer:
    return Timer("1.0", "t", "tick", b"", 100.0, every_s, missed, number)


@pytest.mark.parametrize(
    ("missed", "now_s", "run", "passed_over", "following"),
    [
        (FIRE, 100.0, 0, 0, 1),
        (FIRE, 139.0, 0, 0, 1),  # one by one
        (COALESCE, 100.0, 0, 0, 1),
        (COALESCE, 139.0, 3, 3, 4),
        (SKIP, 100.9, 0, 0, 1),
        (SKIP, 139.0, None, 4, 4),
        (SKIP, 130.5, 3, 3, 4),
    ],
)
def test_what_happens_to_missed_occurrences(
    missed: str, now_s: float, run: int | None, passed_over: int, following: int
) -> None:
    """Each policy runs, merges or leaves out what was missed, and goes on with the grid of times it began with."""
    assert judge(timer_of(missed), now_s) == (run, passed_over, following)


def test_a_single_occurrence_ends_its_timer() -> None:
    """It fires however late, unless missed ones are skipped."""
    assert judge(timer_of(COALESCE, 0.0), 5000.0) == (0, 0, None)
    assert judge(timer_of(SKIP, 0.0), 100.5) == (0, 0, None)
    assert judge(timer_of(SKIP, 0.0), 102.0) == (None, 1, None)


def test_a_period_shorter_than_what_counts_as_missed_never_runs_twice_for_one_time() -> None:
    """Late by several short periods: skip and coalesce run the latest, fire runs each."""
    for missed in (SKIP, COALESCE):
        assert judge(timer_of(missed, 0.1), 100.35) == (3, 3, 4)
    assert judge(timer_of(FIRE, 0.1, 2), 100.35) == (2, 0, 3)


def test_the_table_is_bounded_and_travels() -> None:
    """Names replace, ids are never used twice, arguments and numbers are bounded, a restored table is equal."""
    table = TimerTable()
    times: dict[str, Any] = {"first_s": 5.0, "every_s": 1.0, "missed": FIRE, "now_s": 4.0}
    first = table.set("a", "tick", b"", **times)
    second = table.set("a", "tick", b"", **times)
    assert first.id != second.id
    assert table.pending("a", first.id, 0) is None
    assert table.pending("a", second.id, 0) == second
    table.advance(second, 5.0)
    assert TimerTable.restored(table.snapshot()).timers == table.timers
    assert TimerTable.restored(table.snapshot()).set("b", "tick", b"", **times).id != second.id
    with pytest.raises(Invalid, match="arguments"):
        table.set("c", "tick", bytes(limits.TIMER_ARGUMENTS_BYTES_MAX + 1), **times)
    for _ in range(limits.TIMERS_PER_OBJECT_MAX - 1):
        table.set("", "tick", b"", **times)
    with pytest.raises(Invalid, match="bound"):
        table.set("d", "tick", b"", **times)
    assert table.cancel("a")
    assert not table.cancel("a")


class Clockwork:
    """Has timers."""

    def __init__(self) -> None:
        self.fired: list[tuple[str, int, int]] = []
        self.errors: list[float] = []

    @amino.inline
    def every(self, seconds: float, name: str = "every", missed: str = "coalesce") -> str:
        return amino.timer(self.tick, every_s=seconds, name=name, args=(name,), missed=missed)  # type: ignore[arg-type]

    @amino.inline
    def once(self, seconds: float, *, method: str = "_private") -> str:
        return amino.timer(method, after_s=seconds, kwargs={"word": "once"})

    @amino.inline
    def stop(self, name: str) -> bool:
        return amino.cancel_timer(name)

    @amino.inline
    @amino.readonly
    def names(self) -> list[str]:
        return [each.name for each in amino.timers()]

    @amino.inline
    @amino.readonly
    def wrong(self) -> None:
        amino.timer(self.tick, after_s=1)

    @amino.inline
    def bad(self, **given: Any) -> None:
        amino.timer(given.pop("method", self.tick), **given)

    @amino.inline
    def tick(self, word: str) -> None:
        firing = amino.current().timer
        assert firing is not None
        self.fired.append((word, firing.number, firing.missed))
        self.errors.append(amino.now() - firing.due)

    @amino.inline
    def _private(self, word: str) -> None:
        self.fired.append((word, -1, -1))
        raise ValueError("nobody hears this")

    async def later(self, word: str) -> None:
        await asyncio.sleep(0)
        self.fired.append(("later", 0, 0))


class Loop:
    """Objects, a wheel and what runs its calls, on one virtual loop."""

    def __init__(self, clock: Any) -> None:
        self.clock = clock
        self.around = Around(clock=clock)
        self.around.runtime = type("Runtime", (), {"clock": clock})()
        self.objects: dict[str, KernelObject] = {}
        self.refused = 0
        self.calls = 0
        self.wheel = TimerWheel(lambda ms_id, path: self.objects.get(ms_id), self.handle, clock)
        self.tasks: list[Any] = []

    def add(self, ms_id: str = "m1", *managers: Any) -> KernelObject:
        target = serving(Clockwork(), *managers, around=self.around, microservice=ms_id)
        target.wheel = self.wheel
        self.objects[ms_id] = target
        return target

    def handle(self, inbound: Any) -> None:
        """Run a call as the dispatcher does; ``refused`` of them are refused first."""
        from amino.contracts.calls import Call, RequestId, decode_call_head
        from amino.wire import codec
        from amino.wire.frames import Status, encode_error

        self.calls += 1
        head = decode_call_head(inbound.head)
        if self.refused:
            self.refused -= 1
            inbound.reply(Status.ERROR, encode_error(NotExecuted("not primary", reason="not-ready")))
            return
        target = self.objects[head.microservice]
        args, kwargs = codec.decode_arguments(head.codec, inbound.segments, trusted=True)
        request = RequestId(head.client, head.root, head.sequence, head.nested)
        flags = target.flags_of(head.method)
        call = Call(head.microservice, head.method, args, kwargs, flags, request, 1e12, head.floor)
        call.received = head.codec, inbound.segments

        async def answer() -> None:
            inbound.reply(*await target.serve(call))

        self.tasks.append(asyncio.get_running_loop().create_task(answer()))


def do(target: KernelObject, method: str, /, *args: Any, sequence: int = 1, **kwargs: Any) -> Any:
    call = call_of(target, method, *args, sequence=sequence, timeout_s=1e9)
    call.kwargs = kwargs
    return value_of(drive(target.serve(call)))


def run(main: Any) -> None:
    """Run ``main(loop)`` on virtual time."""

    async def whole(clock: Any) -> None:
        loop = Loop(clock)
        await main(loop)
        loop.wheel.close()
        await asyncio.gather(*loop.tasks)

    run_virtual(whole)


def test_timers_fire_when_due_and_once() -> None:
    """A periodic timer fires on its grid, a single one ends, cancelled and replaced ones do not fire, private methods may."""

    async def main(loop: Loop) -> None:
        target = loop.add()
        do(target, "every", 1.0, sequence=1)
        do(target, "every", 1.0, "gone", sequence=2)
        do(target, "once", 1.5, sequence=3)
        assert do(target, "names", sequence=4) == ["every", "gone", "timer-3"]
        assert do(target, "stop", "gone", sequence=5)
        await asyncio.sleep(3.01)
        assert target.instance.fired == [("every", 0, 0), ("once", -1, -1), ("every", 1, 0), ("every", 2, 0)]
        assert max(target.instance.errors) < 0.001
        do(target, "every", 10.0, sequence=6)
        await asyncio.sleep(5.0)
        assert len(target.instance.fired) == 4
        assert do(target, "names", sequence=7) == ["every"]
        assert target.mutations == 9  # firings count as changes

    run(main)


def test_a_refused_call_is_sent_again_and_a_repeated_one_runs_once() -> None:
    """While a manager refuses, one call at a time probes with growing pauses; what was missed follows the policy."""

    async def main(loop: Loop) -> None:
        target = loop.add()
        do(target, "every", 1.0, sequence=1, missed="fire")
        do(target, "every", 1.0, "other", sequence=2)
        loop.refused = 5
        await asyncio.sleep(6.5)
        fired = target.instance.fired
        assert [number for word, number, _ in fired if word == "every"] == [0, 1, 2, 3, 4, 5]
        assert loop.calls < 25
        loop.refused = 1000
        await asyncio.sleep(10.0)
        assert len(fired) == len(target.instance.fired)
        loop.refused = 0
        loop.wheel.adopt(target)
        await asyncio.sleep(0.01)
        fired = target.instance.fired
        assert [number for word, number, _ in fired if word == "every"] == list(range(16))
        timer = target.tables.timers.timers["every"]
        call = call_of(
            target, f"{FIRE_CALL}tick", "every", timer.id, 3, client=f"timer-{timer.id}", sequence=4, timeout_s=1e9
        )
        assert value_of(drive(target.serve(call))) is None
        assert call.saved
        assert len(target.instance.fired) == len(fired)
        early = call_of(target, f"{FIRE_CALL}tick", "every", timer.id, timer.number, sequence=9, timeout_s=1e9)
        with pytest.raises(NotExecuted, match="not due"):
            drive(target.serve(early))

    run(main)


def test_timers_go_with_the_state_and_fire_where_it_serves() -> None:
    """After a restore elsewhere what was missed meanwhile follows the policy; the replica that left fires nothing."""

    async def main(loop: Loop) -> None:
        first = loop.add("m1")
        do(first, "every", 10.0, sequence=1)
        do(first, "every", 10.0, "each", sequence=2, missed="fire")
        do(first, "once", 15.0, sequence=3, method="later")
        snapshot = first.snapshot_sealed()
        del loop.objects["m1"]
        await asyncio.sleep(35.0)
        assert first.instance.fired == []
        second = loop.add("m1")
        second.restore_sealed(snapshot)
        loop.wheel.adopt(second)
        await asyncio.sleep(1.0)
        assert sorted(second.instance.fired) == [
            ("each", 0, 0),
            ("each", 1, 0),
            ("each", 2, 0),
            ("every", 2, 2),
            ("later", 0, 0),
        ]

    run(main)


def test_the_heap_does_not_grow_with_what_is_replaced() -> None:
    """A timer that every call sets anew leaves no trail; thousands of objects share the wheel."""

    async def main(loop: Loop) -> None:
        target = loop.add()
        for number in range(2500):
            do(target, "every", 1000.0, sequence=number + 1)
        assert len(loop.wheel._heap) <= 2048
        many = [loop.add(f"m{number}") for number in range(2, 302)]
        for each in many:
            do(each, "every", 1.0)
        await asyncio.sleep(3.5)
        assert {len(each.instance.fired) for each in many} == {3}
        assert max(max(each.instance.errors) for each in many) < 0.1

    run(main)


def test_what_cannot_be_is_refused() -> None:
    """Times, names, methods and places that make no sense are named."""

    async def main(loop: Loop) -> None:
        target = loop.add()
        wrong: list[tuple[dict[str, Any], str]] = [
            ({}, "neither"),
            ({"after_s": -1}, "after_s"),
            ({"after_s": float("nan")}, "after_s"),
            ({"every_s": 0.001}, "every_s"),
            ({"after_s": 1, "missed": "never"}, "missed"),
            ({"after_s": 1, "name": "x" * 129}, "name"),
            ({"after_s": 1, "method": "nothing"}, "no method"),
            ({"after_s": 1, "method": print}, "no method"),
        ]
        for sequence, (given, match) in enumerate(wrong, 10):
            with pytest.raises(Invalid, match=match):
                do(target, "bad", sequence=sequence, **given)
        with pytest.raises(Invalid, match="readonly"):
            do(target, "wrong", sequence=2)
        with pytest.raises(Invalid, match="outside"):
            amino.timer("tick", after_s=1)
        assert target.flags_of(f"{FIRE_CALL}tick") == OWN | INLINE
        assert target.flags_of(f"{FIRE_CALL}later") == OWN | ASYNC
        with pytest.raises(NotFound):
            target.flags_of(f"{FIRE_CALL}nothing")
        with pytest.raises(NotFound):
            target.flags_of(":kernel:nothing")

    run(main)
