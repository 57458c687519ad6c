"""``PeriodicCheckpoint``: when checkpoints are taken, and what a call hears when one fails."""

from __future__ import annotations

import asyncio
import threading

import pytest

import amino
from amino.aio.mode import drive
from amino.dm import PeriodicCheckpoint
from amino.errors import NotExecuted, OutcomeUnknown, StoreFailed
from tests.kernel.world import call_of, serving, value_of


class Counter:
    """Counts, and fails or waits as told."""

    entered = threading.Event()
    go_on = threading.Event()

    def __init__(self) -> None:
        self.value = 0

    def add(self, n):
        """Add."""
        self.value += n
        return self.value

    def fail(self, n):
        """Add, then raise."""
        self.value += n
        raise KeyError("no")

    def slow(self):
        """Wait until told to go on."""
        type(self).entered.set()
        type(self).go_on.wait(5.0)
        return self.add(1)

    @amino.readonly
    def get(self):
        """Read."""
        return self.value


@pytest.fixture(autouse=True)
def anew():
    """New events for each test."""
    Counter.entered, Counter.go_on = threading.Event(), threading.Event()


def serve(target, method, *args, sequence=1, **fields):
    return value_of(drive(target.serve(call_of(target, method, *args, sequence=sequence, **fields))))


def restored(target):
    """Return an object restored from the newest checkpoint of ``target``."""
    other = serving(Counter(), PeriodicCheckpoint(every=1))
    drive(other.restore(target.context.checkpoints.written[-1]))
    return other


def test_every_call_is_covered_before_it_is_answered():
    """With ``every=1`` the checkpoint holds the effect and the saved answer; readonly calls need none."""
    target = serving(Counter(), PeriodicCheckpoint(every=1))
    for sequence in (1, 2):
        assert serve(target, "add", 5, sequence=sequence) == 5 * sequence
        assert len(target.context.checkpoints.written) == sequence
    assert serve(target, "get", sequence=3) == 10
    assert len(target.context.checkpoints.written) == 2
    other = restored(target)
    assert serve(other, "add", 5, sequence=2, attempt=1) == 10
    assert serve(other, "get", sequence=4) == 10


def test_a_call_that_raised_is_covered_too():
    """It may have changed the state before it raised."""
    target = serving(Counter(), PeriodicCheckpoint(every=1))
    with pytest.raises(KeyError):
        serve(target, "fail", 3)
    assert restored(target).instance.value == 3


def test_only_every_third_call_pays():
    """The call whose turn it is waits for the checkpoint."""
    target = serving(Counter(), PeriodicCheckpoint(every=3))
    counts = []
    for sequence in range(1, 8):
        serve(target, "add", 1, sequence=sequence)
        counts.append(len(target.context.checkpoints.written))
    assert counts == [0, 0, 1, 1, 1, 2, 2]


def test_a_checkpoint_that_fails_fails_its_call_and_keeps_the_state():
    """The retry gets its saved answer once a checkpoint has succeeded; nothing runs twice."""
    target = serving(Counter(), PeriodicCheckpoint(every=1))
    target.context.checkpoints.fails = [StoreFailed("disk full"), NotExecuted("fenced", reason="fenced")]
    with pytest.raises(StoreFailed, match="its effect is kept in memory"):
        serve(target, "add", 2)
    with pytest.raises(OutcomeUnknown, match="was refused"):
        serve(target, "add", 2, attempt=1)
    assert serve(target, "add", 2, attempt=1) == 2
    assert target.instance.value == 2
    assert len(target.context.checkpoints.written) == 1


def test_calls_that_end_together_share_a_checkpoint():
    """While one checkpoint is written others gather; one more holds them all."""

    async def main():
        target = serving(Counter(), PeriodicCheckpoint(every=1))
        checkpoints, written, begun = target.context.checkpoints, asyncio.Event(), asyncio.Event()
        write = checkpoints.write

        async def slowly(snapshot, keep):
            begun.set()
            await written.wait()
            return await write(snapshot, keep)

        checkpoints.write = slowly
        calls = [asyncio.create_task(target.serve(call_of(target, "add", 1, sequence=n))) for n in range(1, 9)]
        await begun.wait()
        for _ in range(20):  # the others run their methods meanwhile
            await asyncio.sleep(0)
        assert target.mutations == 8
        written.set()
        await asyncio.gather(*calls)
        assert len(checkpoints.written) == 2
        assert restored(target).instance.value == 8

    asyncio.run(main())


def test_an_error_rolls_everything_back():
    """State, table of answers and count are as before; a retry runs the method anew."""
    target = serving(Counter(), PeriodicCheckpoint(every=1, rollback_on_error=True))
    serve(target, "add", 2)
    for attempt in (0, 1):
        with pytest.raises(KeyError):
            serve(target, "fail", 9, sequence=2, attempt=attempt)
        assert target.instance.value == 2
        assert target.mutations == 1
    assert serve(target, "add", 1, sequence=3) == 3
    assert len(target.context.checkpoints.written) == 2


def test_waiting_for_a_rollback_ends_at_the_deadline_as_not_executed():
    """Calls wait for those before them, which may be rolled back; a deadline in the queue is no bug of the kernel's."""
    target = serving(Counter(), PeriodicCheckpoint(every=1, rollback_on_error=True))
    thread = threading.Thread(target=serve, args=(target, "slow"))
    thread.start()
    Counter.entered.wait(5.0)
    with pytest.raises(NotExecuted) as refused:
        serve(target, "add", 1, sequence=2, timeout_s=0.02)
    assert refused.value.reason == "deadline"
    Counter.go_on.set()
    thread.join()
    assert target.instance.value == 1


def test_a_rollback_that_fails_leaves_the_outcome_unknown():
    """The caller is not told that nothing happened when that is not so."""

    class Stubborn(Counter):
        def __setstate__(self, state):
            raise RuntimeError("cannot go back")

    target = serving(Stubborn(), PeriodicCheckpoint(every=1, rollback_on_error=True))
    with pytest.raises(OutcomeUnknown, match="could not be rolled back"):
        serve(target, "fail", 1)


def test_a_checkpoint_that_cannot_be_taken_in_time_leaves_the_outcome_unknown():
    """Another changing call keeps running: at the deadline the call is told that it ran and is not covered."""
    target = serving(Counter(), PeriodicCheckpoint(every=1))
    thread = threading.Thread(target=serve, args=(target, "slow"))
    thread.start()
    Counter.entered.wait(5.0)
    with pytest.raises(OutcomeUnknown, match="checkpoint"):
        serve(target, "add", 1, sequence=2, timeout_s=0.05)
    Counter.go_on.set()
    thread.join()
    assert restored(target).instance.value == 2
