"""``SerializableRPC``: one call at a time, in order of arrival."""

from __future__ import annotations

import asyncio

import pytest

from amino.dm import SerializableRPC
from amino.errors import NotExecuted, Overloaded
from tests.kernel.world import call_of, serving, value_of


class Log:
    """Notes when calls begin and end."""

    def __init__(self) -> None:
        self.notes = []
        self.go_on = asyncio.Event()
        self.target = None

    async def work(self, name):
        """Begin, wait, end."""
        self.notes.append(f"{name}>")
        await self.go_on.wait()
        self.notes.append(f"<{name}")

    async def fail(self):
        """Raise."""
        raise KeyError("no")

    async def calls_itself(self):
        """Call back while running."""
        return value_of(await self.target.serve(call_of(self.target, "name", path=(1, 1))))

    async def name(self):
        """Return something."""
        return "inner"


def start(target, method, *args, sequence, **fields):
    return asyncio.create_task(target.serve(call_of(target, method, *args, sequence=sequence, **fields)))


async def _settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def test_calls_run_one_at_a_time_in_order_of_arrival():
    """No two overlap, and none overtakes."""

    async def main():
        target = serving(Log(), SerializableRPC())
        tasks = [start(target, "work", name, sequence=number) for number, name in enumerate("abc", 1)]
        await _settle()
        assert target.instance.notes == ["a>"]
        target.instance.go_on.set()
        await asyncio.gather(*tasks)
        assert target.instance.notes == ["a>", "<a", "b>", "<b", "c>", "<c"]

    asyncio.run(main())


def test_an_exception_frees_the_turn():
    """The next call runs."""

    async def main():
        target = serving(Log(), SerializableRPC())
        with pytest.raises(KeyError):
            value_of(await start(target, "fail", sequence=1))
        assert value_of(await start(target, "name", sequence=2)) == "inner"

    asyncio.run(main())


def test_a_call_nested_in_the_running_one_is_admitted():
    """A calls B calls A: nobody waits for itself."""

    async def main():
        target = serving(Log(), SerializableRPC())
        target.instance.target = target
        assert value_of(await start(target, "calls_itself", sequence=1)) == "inner"

    asyncio.run(main())


def test_beyond_the_bound_calls_are_overloaded_at_once():
    """One runs and ``queue_max`` wait; the next is refused."""

    async def main():
        target = serving(Log(), SerializableRPC(queue_max=2))
        tasks = [start(target, "work", str(number), sequence=number) for number in range(1, 4)]
        await _settle()
        with pytest.raises(Overloaded, match="queue_max"):
            await target.serve(call_of(target, "work", "x", sequence=9))
        target.instance.go_on.set()
        await asyncio.gather(*tasks)

    asyncio.run(main())


def test_who_gives_up_in_the_queue_was_not_executed():
    """A deadline or cancellation in the queue leaves the others' turns alone."""

    async def main():
        target = serving(Log(), SerializableRPC())
        first = start(target, "work", "a", sequence=1)
        await _settle()
        cancelled = start(target, "work", "b", sequence=2)
        last = start(target, "work", "c", sequence=3)
        await _settle()
        cancelled.cancel()
        with pytest.raises(NotExecuted) as refused:
            await target.serve(call_of(target, "work", "d", sequence=4, timeout_s=0.02))
        assert refused.value.reason == "deadline"
        target.instance.go_on.set()
        await asyncio.gather(first, last)
        assert target.instance.notes == ["a>", "<a", "c>", "<c"]

    asyncio.run(main())
