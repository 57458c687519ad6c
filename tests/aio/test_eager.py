"""Starting coroutines at once: what they see is what a new task would show them."""

from __future__ import annotations

import asyncio
import weakref
from contextvars import ContextVar

import pytest

from amino.aio.tasks import TaskOwner

MARK: ContextVar[str] = ContextVar("mark", default="outside")


def test_a_coroutine_that_never_waits_ends_within_the_call():
    """Its result is there when ``start`` returns, and no task is left."""

    async def main():
        owner = TaskOwner("test")

        async def double(n):
            return 2 * n

        assert owner.start(double(21)) == (42,)
        assert owner.count == 0
        await owner.aclose()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


def test_a_coroutine_that_waits_goes_on_as_the_task_it_saw_first():
    """``current_task`` is the same before and after it waited, and gives its result."""

    async def main():
        owner = TaskOwner("test")
        gate = asyncio.get_running_loop().create_future()
        seen = []

        async def waits():
            seen.append(asyncio.current_task())
            seen.append(await gate)
            await asyncio.sleep(0)
            seen.append(asyncio.current_task())
            return "done"

        task = owner.start(waits(), "waits")
        assert isinstance(task, asyncio.Task)
        assert task.get_name() == "test:waits"
        assert owner.count == 1
        gate.set_result("came")
        assert await task == "done"
        assert seen == [task, "came", task]
        await asyncio.sleep(0)
        assert owner.count == 0
        await owner.aclose()

    asyncio.run(main())


def test_each_has_a_context_of_its_own():
    """What one sets is seen in its own later steps and children, and by nobody else."""

    async def main():
        owner = TaskOwner("test")

        async def marks(mark):
            before = MARK.get()
            MARK.set(mark)
            if mark == "waits":
                await asyncio.sleep(0)
            child = await asyncio.create_task(reads()) if mark == "waits" else MARK.get()
            return before, MARK.get(), child

        async def reads():
            return MARK.get()

        assert owner.start(marks("first")) == (("outside", "first", "first"),)
        assert owner.start(marks("second")) == (("outside", "second", "second"),)
        assert await owner.start(marks("waits")) == ("outside", "waits", "waits")
        assert MARK.get() == "outside"
        await owner.aclose()

    asyncio.run(main())


def test_time_outs_work_from_the_first_step_on():
    """``asyncio.timeout`` ends a wait that began in the first step, and the coroutine goes on after it."""

    async def main():
        owner = TaskOwner("test")

        async def hurries():
            try:
                async with asyncio.timeout(0):
                    await asyncio.Event().wait()
            except TimeoutError:
                await asyncio.sleep(0)
                return "timed out"

        assert await owner.start(hurries()) == "timed out"
        await owner.aclose()

    asyncio.run(main())


def test_task_groups_work_in_the_first_step():
    """A failing child cancels a body that waits, as in any task."""

    async def main():
        owner = TaskOwner("test")

        async def fails():
            raise ValueError("child")

        async def parent():
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(fails())
                    await asyncio.Event().wait()
            except* ValueError:
                pass
            return "went on"

        assert await owner.start(parent()) == "went on"
        await owner.aclose()

    asyncio.run(main())


def test_cancelling_reaches_what_is_waited_for():
    """Cancelled at once or later, the coroutine sees it where it waits, and so does what it waits for."""

    async def main():
        loop = asyncio.get_running_loop()

        for turns in (0, 1, 2, 3):
            owner = TaskOwner("test")
            gate = loop.create_future()
            seen = []

            async def waits(gate=gate, seen=seen):
                try:
                    await gate
                except asyncio.CancelledError:
                    seen.append("cancelled")
                    raise

            task = owner.start(waits())
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert seen == ["cancelled"]
            assert gate.cancelled()
            await owner.aclose()

    asyncio.run(main())


def test_cancelling_what_has_just_been_answered_still_cancels():
    """The future is done, but the task has not come back to it: it is cancelled all the same, as any task is."""

    async def main():
        owner = TaskOwner("test")
        gate = asyncio.get_running_loop().create_future()
        task = owner.start(_awaiting(gate))
        gate.set_result(None)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await owner.aclose()

    asyncio.run(main())


async def _awaiting(future):
    await future


def test_one_that_cancels_itself_is_cancelled_where_it_next_waits():
    """A cancellation out of the first step is not lost, and does not meet a later coroutine."""

    async def main():
        owner = TaskOwner("test")

        async def cancels_itself():
            asyncio.current_task().cancel()
            await asyncio.sleep(0)

        async def cancels_and_ends():
            asyncio.current_task().cancel()
            return "ended"

        async def waits():
            await asyncio.sleep(0)
            return "unharmed"

        with pytest.raises(asyncio.CancelledError):
            await owner.start(cancels_itself())
        assert owner.start(cancels_and_ends()) == ("ended",)
        assert await owner.start(waits()) == "unharmed"
        await owner.aclose()

    asyncio.run(main())


def test_a_task_that_somebody_kept_is_not_used_again():
    """It ends, so that whoever watches it hears of that; one that nobody kept is used again."""

    async def main():
        owner = TaskOwner("test")
        kept = []

        async def keeps():
            kept.append(asyncio.current_task())

        async def watches(over):
            asyncio.current_task().add_done_callback(lambda _: over.set_result(None))

        async def looks():
            return id(asyncio.current_task())

        first = owner.start(looks())
        assert owner.start(looks()) == first
        owner.start(keeps())
        assert (id(kept[0]),) == first
        assert owner.start(looks()) != first
        await asyncio.wait(kept)
        over = asyncio.get_running_loop().create_future()
        owner.start(watches(over))
        await over
        await owner.aclose()

    asyncio.run(main())


def test_starts_nest():
    """Inside the first step of one, another is started under a task of its own; then the outer one is current again."""

    async def main():
        owner = TaskOwner("test")

        async def inner():
            return asyncio.current_task()

        async def outer():
            before = asyncio.current_task()
            (inside,) = owner.start(inner())
            return before is asyncio.current_task(), inside is not before

        assert owner.start(outer()) == ((True, True),)
        assert asyncio.current_task() is not None
        await owner.aclose()

    asyncio.run(main())


def test_errors_of_the_first_step_are_raised_and_leave_nothing():
    """Whoever starts it sees the error; its task ends and what it held is free."""

    class Held:
        pass

    async def main():
        owner = TaskOwner("test")
        held = Held()
        gone = weakref.ref(held)

        async def fails(held):
            raise ValueError("first step")

        raised = False
        try:
            owner.start(fails(held))
        except ValueError:
            raised = True
        del held
        assert raised
        assert gone() is None
        assert owner.count == 0
        await owner.aclose()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


def test_a_closed_owner_starts_nothing_and_cancels_what_went_on():
    """After ``aclose`` no task is left, spare ones included."""

    async def main():
        owner = TaskOwner("test")
        task = owner.start(asyncio.Event().wait())
        await owner.aclose()
        assert task.cancelled()
        with pytest.raises(RuntimeError, match="closed"):
            owner.start(asyncio.sleep(0))
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())
