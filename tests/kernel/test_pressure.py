"""Components hear of short memory and of calls that take unusually long."""

from __future__ import annotations

from typing import Any

import pytest

from amino.aio.mode import drive
from amino.dm.base import Manager, ServerBase
from amino.kernel.pressure import Pressure, Usual
from tests.kernel.world import call_of, serving

HEARD: list[Any] = []


class _Ears(ServerBase):
    async def on_low_memory(self) -> None:
        HEARD.append("low memory")

    async def on_high_latency(self, p99_s: float) -> None:
        HEARD.append(p99_s)


class Ears(Manager, frozen=True, kw_only=True):
    """Hears."""

    def server(self, context: Any) -> ServerBase:
        return _Ears()


class _Deaf(ServerBase):
    async def on_low_memory(self) -> None:
        raise RuntimeError("no ears")


class Deaf(Manager, frozen=True, kw_only=True):
    """Fails."""

    def server(self, context: Any) -> ServerBase:
        return _Deaf()


class Plain:
    def add(self) -> int:
        return 1


@pytest.fixture(autouse=True)
def _silence() -> None:
    HEARD.clear()


def test_all_components_hear_of_short_memory(caplog: pytest.LogCaptureFixture) -> None:
    """One that fails is logged, and the others hear all the same; with memory enough nobody hears."""
    share = [0.5]
    pressure = Pressure(lambda: [serving(Plain(), Deaf()), serving(Plain(), Ears())], lambda: share[0])
    drive(pressure.look())
    assert HEARD == []
    share[0] = 0.01
    drive(pressure.look())
    assert HEARD == ["low memory"]
    assert "failed to react" in caplog.text


def test_short_memory_is_told_once_each_time() -> None:
    """Operators are told when memory becomes short, not in every round while it is."""
    share, told = [0.5], list[float]()
    pressure = Pressure(list, lambda: share[0], told.append)
    for now in (0.5, 0.04, 0.01, 0.5, 0.02):
        share[0] = now
        drive(pressure.look())
    assert told == [0.04, 0.02]


def test_unusual_is_judged_by_what_was_before() -> None:
    """Slow from the start is usual; five times slower than before is not; short times never matter."""
    slow = Usual()
    assert [slow.is_unusual(each) for each in (1.0, 1.1, 0.9)] == [False, False, False]
    assert slow.is_unusual(10.0)
    fast = Usual()
    assert [fast.is_unusual(each) for each in (0.0001, 0.001, 0.019)] == [False, False, False]


def test_a_component_hears_of_unusual_latency() -> None:
    """The chain measures its calls when a component wants to know, and only then."""
    target, other = serving(Plain(), Ears()), serving(Plain(), Deaf())
    pressure = Pressure(lambda: [target, other], lambda: 1.0)
    drive(target.serve(call_of(target, "add")))
    drive(pressure.look())
    assert other.chain.latency_p99_s() is None
    assert target.chain.latency_p99_s() is None  # nothing new since the last look
    for seconds in (0.001, 0.5):
        target.chain._latencies.extend([seconds] * 100)  # type: ignore[attr-defined]
        drive(pressure.look())
    assert HEARD == [0.5]
