"""The gate: calls together, snapshots alone."""

from __future__ import annotations

import asyncio
import sys
import threading

import pytest

from amino.aio.clock import RealClock
from amino.aio.mode import drive
from amino.contracts.calls import RequestId
from amino.kernel.gate import Gate

CLOCK = RealClock()
ROOT = RequestId("c", "m", 1)
OTHER = RequestId("c", "m", 2)


def test_many_are_inside_until_somebody_needs_quiet():
    """Quiet waits for those inside and keeps others out; afterwards they come in."""

    async def main():
        gate = Gate()
        first, second = gate.enter_nowait(ROOT), gate.enter_nowait(OTHER)
        quiet = asyncio.create_task(gate.acquire_quiet(5.0))
        await asyncio.sleep(0)
        assert gate.closed
        assert gate.enter_nowait(RequestId("c", "m", 3)) == 0
        entering = asyncio.create_task(gate.enter(RequestId("c", "m", 3), 5.0, CLOCK))
        gate.leave(first)
        gate.leave(second)
        await quiet
        assert not entering.done()
        gate.release_quiet()
        gate.leave(await entering)
        assert gate.running == 0

    asyncio.run(main())


def test_a_nested_request_enters_a_closing_gate():
    """Whoever waits for quiet waits for the outer call, which waits for the nested one: it must come in."""

    async def main():
        gate = Gate()
        outer = gate.enter_nowait(ROOT)
        quiet = asyncio.create_task(gate.acquire_quiet(5.0))
        await asyncio.sleep(0)
        nested = gate.enter_nowait(ROOT._replace(path=(1,)))
        assert nested
        assert gate.enter_nowait(OTHER._replace(path=(1,))) == 0
        gate.leave(nested)
        gate.leave(outer)
        await quiet
        assert gate.enter_nowait(ROOT._replace(path=(2,))) == 0

    asyncio.run(main())


def test_quiet_that_does_not_come_opens_the_gate_again():
    """After a time-out or cancellation everything is as before."""

    async def main():
        gate = Gate()
        token = gate.enter_nowait(ROOT)
        with pytest.raises(TimeoutError):
            await gate.acquire_quiet(0.01)
        task = asyncio.create_task(gate.acquire_quiet(5.0))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert not gate.closed
        gate.leave(gate.enter_nowait(OTHER))
        gate.leave(token)
        await gate.acquire_quiet(0.0)

    asyncio.run(main())


def test_waiting_to_enter_is_bounded_however_often_the_gate_opens_and_closes():
    """The time-out holds for all waiting together, not anew for each closing that is met."""

    class Clock:
        now = 0.0

        def monotonic(self):
            return self.now

    async def main():
        gate, clock = Gate(), Clock()
        await gate.acquire_quiet(0.0)
        entering = asyncio.create_task(gate.enter(ROOT, 10.0, clock))
        for _ in range(3):
            await asyncio.sleep(0)
            clock.now += 4.0
            gate.release_quiet()
            await gate.acquire_quiet(0.0)
        with pytest.raises(TimeoutError):
            await entering

    asyncio.run(main())


def test_threads_and_loops_share_a_gate():
    """A thread waits blocking for what a loop holds."""

    async def main():
        gate = Gate()
        await gate.acquire_quiet(0.0)
        tokens = []
        thread = threading.Thread(target=lambda: tokens.append(drive(gate.enter(ROOT, 5.0, CLOCK))))
        thread.start()
        gate.release_quiet()
        await asyncio.to_thread(thread.join)
        assert tokens == [1]

    asyncio.run(main())


def test_quiet_is_quiet_whatever_threads_enter_at_that_moment():
    """Entering takes no lock: still nobody is inside while somebody has quiet, and no wait is forgotten."""
    gate = Gate()
    inside = {}
    over = threading.Event()
    broken = []

    def callers(number):
        sequence = 0
        while not over.is_set():
            sequence += 1
            token = gate.enter_nowait(RequestId("c", f"m{number}", sequence))
            if token:
                inside[token] = number
                del inside[token]
                gate.leave(token)

    threads = [threading.Thread(target=callers, args=(number,)) for number in range(3)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for _ in range(200):
            drive(gate.acquire_quiet(5.0))
            if inside:
                broken.append(dict(inside))
            gate.release_quiet()
    finally:
        over.set()
        for thread in threads:
            thread.join()
        sys.setswitchinterval(interval)
    assert not broken
    assert gate.running == 0


def test_quiet_is_had_at_once_only_where_nobody_is_inside():
    """Without waiting: with somebody inside, or with quiet taken, it is refused, and the gate stays as it was."""
    gate = Gate()
    inside = gate.enter_nowait(ROOT)
    assert not gate.acquire_quiet_nowait()
    assert not gate.closed
    gate.leave(inside)
    assert gate.acquire_quiet_nowait()
    assert not gate.acquire_quiet_nowait()
    assert gate.enter_nowait(OTHER) == 0
    gate.release_quiet()
    assert gate.enter_nowait(OTHER)
