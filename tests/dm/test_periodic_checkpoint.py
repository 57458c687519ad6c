"""``PeriodicCheckpoint``: when checkpoints are taken, and what a call hears when one fails."""

from __future__ import annotations

import asyncio
import threading

import pytest

import amino
from amino.aio.mode import drive
from amino.dm import PeriodicCheckpoint
from amino.errors import NotExecuted, OutcomeUnknown, StoreFailed
from tests.coordination.virtual import run_virtual
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
    """The state is as before; a retry gets the error and runs nothing, and the next call goes on from there."""
    target = serving(Counter(), PeriodicCheckpoint(every=1, rollback_on_error=True))
    serve(target, "add", 2)
    for attempt in (0, 1):
        with pytest.raises(KeyError):
            serve(target, "fail", 9, sequence=2, attempt=attempt)
        assert target.instance.value == 2
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


def test_with_rollbacks_each_call_is_pickled_once():
    """The checkpoint after one call is what the next one is rolled back to."""
    target = serving(Counter(), PeriodicCheckpoint(every=1, rollback_on_error=True))
    taken = []
    take = target.snapshot_counted

    async def counted(below=None):
        taken.append(target.instance.value)
        return await take(below)

    target.snapshot_counted = counted
    for sequence in range(1, 6):
        serve(target, "add", 1, sequence=sequence)
        with pytest.raises(KeyError):
            serve(target, "fail", 100, sequence=sequence + 100)
    assert taken == [0, 1, 2, 3, 4, 5]
    assert restored(target).instance.value == 5


def test_no_checkpoint_holds_what_is_rolled_back():
    """While a call that raised is being rolled back, the checkpoint of the call before waits."""

    async def main():
        target = serving(Counter(), PeriodicCheckpoint(every=1, rollback_on_error=True))
        control, raised, go_on = target.context.object, asyncio.Event(), asyncio.Event()
        restore = control.restore

        async def slowly(*args):
            raised.set()
            await go_on.wait()
            await restore(*args)

        control.restore = slowly
        good = asyncio.create_task(target.serve(call_of(target, "add", 1, sequence=1)))
        bad = asyncio.create_task(target.serve(call_of(target, "fail", 100, sequence=2)))
        await raised.wait()
        for _ in range(20):
            await asyncio.sleep(0)
        assert target.instance.value == 101
        go_on.set()
        await asyncio.gather(good, bad)
        assert target.instance.value == 1
        assert restored(target).instance.value == 1

    asyncio.run(main())


def test_after_a_recovery_nothing_is_uncovered():
    """The state came from a checkpoint: the next one is due after ``every`` more calls; after a move it may not be."""
    target = serving(Counter(), PeriodicCheckpoint(every=3))
    for sequence in range(1, 5):
        serve(target, "add", 1, sequence=sequence)
    for recovered in (True, False):
        other = serving(Counter(), PeriodicCheckpoint(every=3))
        drive(other.restore(target.context.checkpoints.written[-1]))
        if recovered:
            drive(other.chain.on_recover())
        counts = []
        for sequence in range(11, 15):
            serve(other, "add", 1, sequence=sequence)
            counts.append(len(other.context.checkpoints.written))
        assert counts == ([0, 0, 1, 1] if recovered else [1, 1, 1, 2])


def test_a_changed_object_is_checkpointed_in_time():
    """Every ``interval_s`` seconds if something changed; a failure is told, and the next time is in time."""

    async def main(clock):
        target = serving(Counter(), PeriodicCheckpoint(every=None, interval_s=60.0))
        checkpoints, tasks, counts = target.context.checkpoints, [], []
        target.context.spawn = lambda work, name: tasks.append(asyncio.ensure_future(work))
        await target.chain.on_start()
        await asyncio.sleep(30.0)
        for sequence in range(1, 6):
            if sequence != 3:
                await target.serve(call_of(target, "add", 1, sequence=sequence, timeout_s=1e6))
            if sequence == 4:
                checkpoints.fails = [StoreFailed("disk full")]
            await asyncio.sleep(60.0)
            counts.append(len(checkpoints.written))
        assert counts == [1, 2, 2, 2, 3]
        assert "checkpoint-failed" in target.context.events
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    run_virtual(main)


def refusing(target):
    """Have the object changed by a call whose checkpoint failed."""
    target.context.checkpoints.fails = [StoreFailed("disk full")]
    with pytest.raises(StoreFailed):
        serve(target, "add", 2)
    return target


def test_a_read_is_refused_while_what_it_would_show_cannot_be_stored():
    """Named in ``open.md``: others read what a failed checkpoint kept in memory, and a loss took it back."""
    target = refusing(serving(Counter(), PeriodicCheckpoint(every=1)))
    target.context.checkpoints.fails = [StoreFailed("disk full", kind="full"), NotExecuted("cut off", reason="fenced")]
    with pytest.raises(StoreFailed, match=r"get was not answered.* in no checkpoint yet.* disk full") as refused:
        serve(target, "get", sequence=2)
    assert refused.value.details["kind"] == "full"
    with pytest.raises(NotExecuted, match="cut off") as fenced:
        serve(target, "get", sequence=2)
    assert fenced.value.reason == "fenced"
    assert serve(target, "get", sequence=2) == 2
    assert restored(target).instance.value == 2
    assert serve(target, "get", sequence=3) == 2
    assert len(target.context.checkpoints.written) == 1


def test_a_read_that_waits_for_a_changing_call_ends_at_its_deadline():
    """No state can be stored while another call changes it: the read was not answered, and may be repeated."""
    target = refusing(serving(Counter(), PeriodicCheckpoint(every=1)))
    thread = threading.Thread(target=serve, args=(target, "slow"), kwargs={"sequence": 2})
    thread.start()
    Counter.entered.wait(5.0)
    with pytest.raises(NotExecuted, match="at its deadline") as refused:
        serve(target, "get", sequence=3, timeout_s=0.05)
    assert refused.value.reason == "deadline"
    Counter.go_on.set()
    thread.join()
    assert serve(target, "get", sequence=4) == 3


@pytest.mark.parametrize("options", [{"every": 2}, {"every": None, "interval_s": 60.0}])
def test_reads_do_not_wait_where_acknowledged_calls_may_be_lost(options):
    """With more than one call per checkpoint, or by time, memory is shown: a loss takes acknowledged calls back anyhow."""
    target = serving(Counter(), PeriodicCheckpoint(**options))
    serve(target, "add", 1, sequence=1)
    target.context.checkpoints.fails = [StoreFailed("disk full")] * 3
    if options["every"]:
        with pytest.raises(StoreFailed):
            serve(target, "add", 1, sequence=2)
    assert serve(target, "get", sequence=3) == target.instance.value


def gathering(target):
    """Have checkpoints wait for ``go_on``; returns what is set once the first one has begun, and that."""
    checkpoints, begun, go_on = target.context.checkpoints, asyncio.Event(), asyncio.Event()
    write = checkpoints.write

    async def slowly(snapshot, keep):
        begun.set()
        await go_on.wait()
        return await write(snapshot, keep)

    checkpoints.write = slowly
    return begun, go_on


def test_reads_share_the_checkpoint_that_is_on_its_way():
    """They wait for it, take none of their own, and are answered with it."""

    async def main():
        target = serving(Counter(), PeriodicCheckpoint(every=1))
        begun, go_on = gathering(target)
        call = asyncio.create_task(target.serve(call_of(target, "add", 1, sequence=1)))
        await begun.wait()
        reads = [asyncio.create_task(target.serve(call_of(target, "get", sequence=n))) for n in range(2, 10)]
        for _ in range(20):
            await asyncio.sleep(0)
        assert not any(one.done() for one in (call, *reads))
        go_on.set()
        assert [value_of(answer) for answer in await asyncio.gather(call, *reads)] == [1] * 9
        assert len(target.context.checkpoints.written) == 1

    asyncio.run(main())


def test_all_that_a_failed_checkpoint_would_have_served_are_refused_with_it():
    """A store that takes long to refuse holds each caller up once, not one after the other."""

    async def main():
        target = serving(Counter(), PeriodicCheckpoint(every=1))
        target.context.checkpoints.fails = [StoreFailed("too slow")]
        begun, go_on = gathering(target)
        call = asyncio.create_task(target.serve(call_of(target, "add", 1, sequence=1)))
        await begun.wait()
        reads = [asyncio.create_task(target.serve(call_of(target, "get", sequence=n))) for n in range(2, 10)]
        for _ in range(20):
            await asyncio.sleep(0)
        late = asyncio.create_task(target.serve(call_of(target, "add", 1, sequence=10)))  # it is not in that checkpoint
        for _ in range(20):
            await asyncio.sleep(0)
        go_on.set()
        ended = await asyncio.gather(call, *reads, return_exceptions=True)
        assert [type(one) for one in ended] == [StoreFailed] * 9
        assert value_of(await late) == 2
        assert restored(target).instance.value == 2

    asyncio.run(main())


def test_a_read_from_within_a_changing_call_does_not_wait_for_it():
    """It is part of that call, which is covered when it has ended; waiting for a checkpoint would never end."""

    async def main():
        target = serving(Asking(), PeriodicCheckpoint(every=1))
        target.context.checkpoints.fails = [StoreFailed("disk full")]
        with pytest.raises(StoreFailed):
            await target.serve(call_of(target, "add", 2))
        target.instance.target = target
        assert value_of(await target.serve(call_of(target, "ask", sequence=2))) == 3
        target.instance.target = None
        assert restored(target).instance.value == 3

    asyncio.run(main())


class Asking(Counter):
    """Changes, and reads itself through its own chain."""

    target = None

    async def ask(self):
        """Add, and read."""
        self.value += 1
        return value_of(await self.target.serve(call_of(self.target, "get", sequence=2, path=(1,))))

    def __getstate__(self):
        return {"value": self.value}


def test_what_was_rolled_back_leaves_nothing_to_wait_for():
    """The state is that of the newest checkpoint again, so reads need no other."""
    target = serving(Counter(), PeriodicCheckpoint(every=1, rollback_on_error=True))
    serve(target, "add", 2)
    with pytest.raises(KeyError):
        serve(target, "fail", 9, sequence=2)
    target.context.checkpoints.fails = [StoreFailed("disk full")]
    assert serve(target, "get", sequence=3) == 2
    with pytest.raises(StoreFailed):
        serve(target, "add", 1, sequence=4)
    target.context.checkpoints.fails = [StoreFailed("disk full")]
    with pytest.raises(KeyError):
        serve(target, "fail", 9, sequence=5)
    with pytest.raises(StoreFailed):  # but what ran before it is in no checkpoint
        serve(target, "get", sequence=6)
    assert serve(target, "get", sequence=7) == 3


def test_replicas_that_are_not_the_primary_take_no_checkpoints_for_their_reads():
    """What they show is as durable as replication makes it; the primary writes the group's checkpoints."""
    target = refusing(serving(Counter(), PeriodicCheckpoint(every=1)))
    target.context.answers = False
    assert serve(target, "get", sequence=2) == 2
    assert target.context.checkpoints.written == []
