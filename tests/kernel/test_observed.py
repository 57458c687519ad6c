"""Latency of one replica, measured while somebody looks."""

import time
from types import SimpleNamespace

import pytest

import amino
from amino.contracts.services import ObserveRequest
from amino.kernel.host import Host
from amino.kernel.observed import OBSERVED_MAX, Observed, Timed
from tests.coordination.virtual import run_virtual
from tests.kernel.test_host import no_groups
from tests.kernel.world import Around, Served, serving


class Times:
    """A clock that is set by hand."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


class Asked:
    """A request; notes its answer."""

    link, kind, head, segments = None, 1, b"head", ()
    answered = None

    def reply(self, *answer):
        self.answered = answer


def test_an_answer_is_timed_and_passed_on():
    """What is measured is from arriving to the answer's leaving; the answer goes on unchanged."""
    times, inbound = Times(), Asked()
    observed = Observed(times)
    timed = Timed(inbound, observed)
    times.now += 0.25
    timed.reply(0, b"x", ())
    assert inbound.answered == (0, b"x", ())
    told = observed.reply("r1", 2)
    assert (told.replica, told.calls, told.in_flight) == ("r1", 1, 2)
    assert told.p50_ms == told.max_ms == pytest.approx(250.0)
    assert timed.head == b"head"


def test_percentiles_and_bounds():
    """Median, 99th percentile and longest are of the newest calls; what is kept is bounded."""
    times = Times()
    observed = Observed(times)
    assert observed.reply("r1", 0).p99_ms == 0.0
    for milliseconds in range(1, 101):
        observed.note(times.now - milliseconds / 1000)
    told = observed.reply("r1", 0)
    assert told.p50_ms == pytest.approx(51, abs=1)
    assert told.p99_ms == pytest.approx(99, abs=1)
    for _ in range(OBSERVED_MAX):
        observed.note(times.now - 0.5)
    told = observed.reply("r1", 0)
    assert (told.calls, told.p50_ms) == (100 + OBSERVED_MAX, pytest.approx(500))


def test_it_ends_when_nobody_asks():
    """The end comes ``OBSERVED_S`` after the last question, not the first."""

    async def main(clock):
        import asyncio

        ended = []
        observed = Observed(clock.monotonic)
        observed.end_later(lambda: ended.append(clock.monotonic()))
        await asyncio.sleep(20.0)
        observed.end_later(lambda: ended.append(clock.monotonic()))
        began = clock.monotonic()
        await asyncio.sleep(29.0)
        assert not ended
        await asyncio.sleep(2.0)
        assert ended[0] - began == pytest.approx(30.0, abs=0.5)

    run_virtual(main)


async def test_the_host_observes_what_it_has():
    """The first question begins the measuring of a replica that is here; what is not here tells nothing."""
    host = Host(parts=SimpleNamespace(), surroundings=Around(), confirmer=None, validity=None, groups=no_groups())
    target = SimpleNamespace(observed=None, replica="r1", in_flight=3)
    host._objects["m1", "/"] = target
    first = await host.observe(ObserveRequest("m1"))
    assert (first.replica, first.calls, first.in_flight) == ("r1", 0, 3)
    target.observed.note(target.observed.now())
    assert (await host.observe(ObserveRequest("m1"))).calls == 1
    assert (await host.observe(ObserveRequest("other"))).replica == ""
    target.observed.cancel()


class Plain:
    """Methods of each kind."""

    def add(self, n):
        return n

    @amino.inline
    def add_inline(self, n):
        return n

    async def add_async(self, n):
        return n


async def test_calls_of_every_kind_are_timed():
    """Calls over links are measured wherever their method runs, and none while nobody looks."""
    target = serving(Plain())
    async with Served(target) as served:
        await served.call("add", 1, sequence=1)
        target.observed = Observed(time.monotonic)
        for sequence, method in enumerate(("add", "add_inline", "add_async"), 2):
            assert await served.call(method, 7, sequence=sequence) == 7
        assert target.observed.reply("r1", 0).calls == 3
