"""Virtual time, deadlocks, and processes that stand still or are gone."""

import asyncio

import pytest

from amino.testing.simulation import Deadlock, VirtualClock, run_virtual


def test_hours_pass_in_no_time():
    """Waiting moves the clocks, boot time by the machine's own offset."""

    async def main(loop):
        clock = VirtualClock(loop, boottime_offset_s=50.0)
        began = clock.monotonic()
        await asyncio.sleep(7200)
        assert clock.boottime() - clock.monotonic() == pytest.approx(50.0)
        return clock.monotonic() - began

    assert run_virtual(main) == pytest.approx(7200)


def test_waiting_for_nothing_is_a_deadlock():
    """When nothing is scheduled, waiting would never end, and the loop says so."""

    async def main(loop):
        await asyncio.Event().wait()

    with pytest.raises(Deadlock):
        run_virtual(main)


def test_a_frozen_process_does_nothing_and_then_everything_in_order():
    """Timers of a frozen process come due when it is thawed; what it starts is frozen with it."""

    async def main(loop):
        done = []
        process = loop.process("p")

        async def child(name):
            await asyncio.sleep(1)
            done.append((name, loop.now - began))

        async def parent():
            await asyncio.gather(child("a"), child("b"))

        began = loop.now
        task = process.spawn(parent())
        await asyncio.sleep(0.5)
        process.freeze()
        await asyncio.sleep(5)
        assert done == []
        process.thaw()
        await task
        return done

    assert run_virtual(main) == [("a", 5.5), ("b", 5.5)]


def test_a_killed_process_does_not_even_clean_up():
    """Nothing of a killed process runs while the simulation lasts, also no finally block."""

    async def main(loop):
        done = []
        process = loop.process("p")

        async def work():
            try:
                await asyncio.sleep(1)
                done.append("worked")
            finally:
                if not over:
                    done.append("cleaned up")

        over = False
        process.spawn(work())
        await asyncio.sleep(0.5)
        process.kill()
        await asyncio.sleep(10)
        over = True
        return done

    assert run_virtual(main) == []


def test_blocking_work_runs_at_once():
    """There are no threads: executors run their jobs where they are submitted."""

    async def main(loop):
        return await loop.run_in_executor(None, lambda: 41 + 1), await asyncio.to_thread(lambda: 7)

    assert run_virtual(main) == (42, 7)


def test_an_error_of_a_blocking_job_arrives():
    """What a job raises is raised to whoever waits for it."""

    def fail():
        raise ValueError("no")

    async def main(loop):
        with pytest.raises(ValueError, match="no"):
            await loop.run_in_executor(None, fail)

    run_virtual(main)
