"""Operations: what a log keeps of a call, replayed on another copy of the object."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest

import amino
from amino.aio.mode import drive
from amino.contracts.effects import Diverged, Recorder, Replay
from amino.contracts.operations import decode_operation, encode_operation
from amino.dm.base import Manager, ServerBase
from amino.errors import Invalid, NotFound
from amino.wire.codec import decode
from amino.wire.digest import digest_of
from tests.kernel.world import Around, call_of, serving
from tests.telemetry.recording import Recorded


class Diary:
    """An object that asks the outside."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, float, float]] = []

    @amino.inline
    def write(self, text: str) -> int:
        self.lines.append((text, amino.now(), amino.random().random()))
        return len(self.lines)

    @amino.inline
    def fail(self, text: str) -> None:
        self.lines.append((text, amino.now(), 0.0))
        raise ValueError(text)

    @amino.inline
    def cheat(self) -> float:
        import time

        return time.perf_counter()


class _Recording(ServerBase):
    def __init__(self, log: list[bytes], context: Any) -> None:
        self._log = log
        self._context = context

    async def on_call(self, call: Any, forward: Any) -> Any:
        call.effects = Recorder()
        try:
            return await forward(call)
        finally:
            if not call.saved:
                self._log.append(encode_operation(self._context.object.operation(call)))


class Recording(Manager, frozen=True, kw_only=True):
    """Logs every call."""

    def server(self, context: Any) -> ServerBase:
        return _Recording(LOG, context)


LOG: list[bytes] = []


def _around() -> Around:
    around = Around()
    around.runtime = SimpleNamespace(clock=around.clock, random=random.Random())
    return around


@pytest.fixture(autouse=True)
def _empty_log() -> None:
    LOG.clear()


def test_a_replay_changes_another_copy_equally() -> None:
    """Times and random numbers come from the record, an exception is an outcome, answers are saved."""
    first, second = serving(Diary(), Recording(), around=_around()), serving(Diary(), Recording(), around=_around())
    for number, (method, text) in enumerate([("write", "a"), ("fail", "b"), ("write", "c")], 1):
        drive(first.serve(call_of(first, method, text, sequence=number)))
    assert len(LOG) == 3
    for each in LOG:
        operation = decode_operation(each)
        found = drive(second.replay(operation, 0, 1e9))
        assert found.unfaithful == ""
        assert found.digest == operation.digest
    assert second.instance.lines == first.instance.lines
    again = drive(second.serve(call_of(second, "write", "c", sequence=3, attempt=1)))
    assert decode(again[1][0], again[2]) == 3
    assert len(second.instance.lines) == 3


def test_what_is_replayed_is_not_traced_again() -> None:
    """A method's own spans are recorded where it ran for its caller, not where a copy runs it again."""
    recorded = Recorded()
    tracer = recorded.provider.get_tracer("shop")

    class Tracing(Diary):
        @amino.inline
        def write(self, text: str) -> int:
            with tracer.start_as_current_span("query"):
                return super().write(text)

    first, second = serving(Tracing(), Recording(), around=_around()), serving(Tracing(), Recording(), around=_around())
    drive(first.serve(call_of(first, "write", "a")))
    assert len(recorded.spans("query")) == 1
    drive(second.replay(decode_operation(LOG[0]), 0, 1e9))
    assert second.instance.lines == first.instance.lines
    assert len(recorded.spans("query")) == 1


def test_a_cheat_has_another_digest() -> None:
    """A method that asks the outside directly is found out by its outcome."""
    first, second = serving(Diary(), Recording(), around=_around()), serving(Diary(), Recording(), around=_around())
    drive(first.serve(call_of(first, "cheat")))
    operation = decode_operation(LOG[0])
    assert drive(second.replay(operation, 0, 1e9)).digest != operation.digest


def test_a_replay_that_asks_for_more_or_less_is_unfaithful() -> None:
    """What was not recorded is refused, and what was not asked for again is noticed."""
    empty = Replay({})
    with pytest.raises(Diverged):
        empty.value(empty.next("now"), lambda: 1.0)
    assert "now1" in empty.unfaithful
    recorder = Recorder()
    recorder.value(recorder.next("now"), lambda: 1.0)
    less = Replay(recorder.recorded)
    less.check_complete()
    assert "now1" in less.unfaithful


def test_bytes_that_are_no_operation_are_refused() -> None:
    """A damaged log is named as such."""
    with pytest.raises(Invalid, match="damaged"):
        decode_operation(b"\x91\x01")


class _Counting(ServerBase):
    readonly_topics = frozenset({"read"})

    def __init__(self) -> None:
        self.count = 0

    async def on_message(self, topic: str, payload: Any, call: Any) -> Any:
        if topic == "add":
            self.count += payload
        return self.count

    def on_snapshot(self) -> Any:
        return self.count

    def on_restore(self, state: Any) -> None:
        self.count = state


class Counting(Manager, frozen=True, kw_only=True):
    """Counts what it is told."""

    def server(self, context: Any) -> ServerBase:
        return _Counting()


def _value(answer: Any) -> Any:
    return decode(answer[1][0], answer[2])


def test_a_message_to_a_component_is_logged_by_managers_further_out_and_answered_once() -> None:
    """For [Counting, Recording] a message to Counting passes Recording; replayed, it changes the other copy's component."""
    first, second = serving(Diary(), Counting(), Recording()), serving(Diary(), Counting(), Recording())
    assert _value(drive(first.serve(call_of(first, ":Counting:add", 5)))) == 5
    assert _value(drive(first.serve(call_of(first, ":Counting:add", 5, attempt=1)))) == 5
    assert len(LOG) == 1
    drive(second.replay(decode_operation(LOG[0]), 1, 1e9))
    read = call_of(second, ":Counting:read", sequence=2)
    assert _value(drive(second.serve(read))) == 5
    assert read.readonly


def test_a_message_does_not_pass_managers_further_in() -> None:
    """For [Recording, Counting] Recording is part of the object that Counting manages, and is not asked."""
    target = serving(Diary(), Recording(), Counting())
    drive(target.serve(call_of(target, ":Counting:add", 1)))
    assert LOG == []
    with pytest.raises(NotFound, match="no Recording here takes messages"):
        target.flags_of(":Recording:x")


def test_snapshots_hold_what_is_further_in() -> None:
    """A component's snapshot covers the object and the components before its place, not itself."""
    target, other = serving(Diary(), Counting(), Recording()), serving(Diary(), Counting(), Recording())
    drive(target.serve(call_of(target, ":Counting:add", 5)))
    inner = target.snapshot_sealed(below=0)
    outer = target.snapshot_sealed(below=1)
    other.restore_sealed(inner, below=0)
    assert other.chain.on_snapshot() == {"Counting@0": 0}
    other.restore_sealed(outer, below=1)
    assert other.chain.on_snapshot() == {"Counting@0": 5}


@pytest.mark.parametrize(
    "value", [None, 1, 1.5, "a", b"a", [1, [2]], (1, 2), {"a": {1}}, {1, 2, 3}, ValueError("x", 1), amino.Placement()]
)
def test_digests_are_of_content(value: Any) -> None:
    """Equal content has an equal digest, whatever the identities of its parts."""
    import pickle

    assert digest_of(pickle.loads(pickle.dumps(value))) == digest_of(value)


def test_digests_tell_values_apart() -> None:
    """Different values of the same shape differ, and shared parts do not matter."""
    text = bytes([120, 121]).decode()
    assert digest_of([text, text]) == digest_of(["xy", bytes([120, 121]).decode()])
    different = [None, 0, 0.0, "", b"", [], (), {}, set(), [[]], {"a": 1}, {"a": 2}, "0", [1, 2], [2, 1]]
    assert len({digest_of(value) for value in different}) == len(different)
    loop: list[Any] = []
    loop.append(loop)
    assert digest_of(loop) == digest_of(loop)
