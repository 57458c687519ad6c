"""Background tasks and who answers for them."""

from __future__ import annotations

import asyncio

from amino.aio.tasks import TaskOwner
from tests.coordination.virtual import run_virtual


def test_a_cancellation_that_nobody_asked_for_is_a_failure(caplog):
    """A task whose future is cancelled under it has not ended as its owner thinks: it is told, as any other failure is."""

    async def main(clock):
        failures = []
        owner = TaskOwner("work", failures.append)
        under_it = asyncio.get_running_loop().create_future()

        async def wait():
            await under_it

        task = owner.spawn(wait(), "wait")
        await asyncio.sleep(0)  # it waits now
        under_it.cancel()
        await asyncio.wait({task})
        assert [type(one) for one in failures] == [asyncio.CancelledError]
        assert "nobody asked" in caplog.text
        await owner.aclose()

    run_virtual(main)


def test_one_that_was_asked_for_is_none(caplog):
    """Neither the end of the owner nor a task's own ``cancel`` is."""

    async def main(clock):
        failures = []
        owner = TaskOwner("work", failures.append)
        one = owner.spawn(asyncio.Event().wait(), "one")
        other = owner.spawn(asyncio.Event().wait(), "other")
        other.cancel()
        await asyncio.wait({other})
        await owner.aclose()
        assert one.cancelled()
        assert not failures
        assert not caplog.records

    run_virtual(main)
