"""``ExplicitCheckpoint``: checkpoints when told, going back when told, and what comes back after a loss."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

import amino
from amino import limits
from amino.contracts.effects import Recorder
from amino.contracts.operations import decode_operation, encode_operation
from amino.dm import ExplicitCheckpoint
from amino.dm.base import Manager, ServerBase
from amino.errors import NotExecuted, NotFound, StoreFailed
from tests.dm.durable_world import World
from tests.kernel.world import call_of

CHECKPOINT, RESTORE = ":ExplicitCheckpoint:checkpoint", ":ExplicitCheckpoint:restore"


class Counter:
    """Counts."""

    go_on: asyncio.Event
    entered: asyncio.Event

    def __init__(self) -> None:
        self.value = 0

    async def add(self, n: int) -> int:
        self.value += n
        return self.value

    async def slow(self) -> int:
        type(self).entered.set()
        await type(self).go_on.wait()
        return await self.add(1)

    @amino.readonly
    async def get(self) -> int:
        return self.value


class _Log(ServerBase):
    def __init__(self, context: Any) -> None:
        self._context = context

    async def on_call(self, call: Any, forward: Any) -> Any:
        if call.readonly:
            return await forward(call)
        call.effects = Recorder()
        try:
            return await forward(call)
        finally:
            if call.executed:
                LOG.append(encode_operation(self._context.object.operation(call)))


class Logging(Manager, frozen=True, kw_only=True):
    """A manager further out that logs."""

    def server(self, context: Any) -> ServerBase:
        return _Log(context)


LOG: list[bytes] = []


def run(tmp_path: Path, main: Any, *outer: Any, **options: Any) -> None:
    """Run ``main`` on a world of one counter."""

    async def inside() -> None:
        async with World(tmp_path, Counter, ExplicitCheckpoint(**options), *outer) as world:
            await main(world)

    asyncio.run(inside())


def test_goes_back_and_comes_back(tmp_path: Path) -> None:
    """``restore`` brings the newest checkpoint's state; so does a loss; requests that ran since do not run again."""

    async def main(world: World) -> None:
        await world.call("add", 5, sequence=1)
        assert await world.call(CHECKPOINT, sequence=2) == 1
        await world.call("add", 5, sequence=3)
        assert await world.call(CHECKPOINT, sequence=4) == 2
        await world.call("add", 5, sequence=5)
        assert await world.call(RESTORE, sequence=6) == 2
        assert await world.call("get", sequence=7) == 10
        assert await world.call("add", 5, sequence=5, attempt=1) == 15
        assert await world.call("get", sequence=8) == 10
        await world.call("add", 1, sequence=9)
        await world.lose()
        assert await world.call("get", sequence=10) == 10

    run(tmp_path, main)


def test_without_a_checkpoint_there_is_nothing_to_go_back_to(tmp_path: Path) -> None:
    """The caller is told, and the state stays."""

    async def main(world: World) -> None:
        await world.call("add", 5, sequence=1)
        with pytest.raises(NotFound, match="has no checkpoint"):
            await world.call(RESTORE, sequence=2)
        assert await world.call("get", sequence=3) == 5
        assert world.files.inner.list("checkpoints/") == []

    run(tmp_path, main)


def test_checkpoints_lie_between_changing_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint waits for the call that runs, and one that keeps running ends it at its deadline."""

    async def main(world: World) -> None:
        Counter.go_on, Counter.entered = asyncio.Event(), asyncio.Event()
        slow = asyncio.create_task(world.call("slow", sequence=1))
        await Counter.entered.wait()
        taken = asyncio.create_task(world.call(CHECKPOINT, sequence=2))
        for _ in range(20):
            await asyncio.sleep(0)
        assert not taken.done()
        Counter.go_on.set()
        assert await taken == 1
        assert slow.done()
        Counter.go_on.clear()
        Counter.entered.clear()
        monkeypatch.setattr(limits, "QUIESCE_TIMEOUT_S", 0.01)
        again = asyncio.create_task(world.call("slow", sequence=3))
        await Counter.entered.wait()
        for topic, sequence in ((CHECKPOINT, 4), (RESTORE, 5)):
            with pytest.raises(NotExecuted, match="kept running"):
                await world.call(topic, sequence=sequence, timeout_s=0.01)
        again.cancel()
        await asyncio.gather(again, return_exceptions=True)
        await world.lose()
        assert await world.call("get", sequence=9) == 1

    run(tmp_path, main)


def test_a_full_store_keeps_the_checkpoint_before(tmp_path: Path) -> None:
    """And the caller is told why."""

    async def main(world: World) -> None:
        await world.call("add", 5, sequence=1)
        await world.call(CHECKPOINT, sequence=2)
        await world.call("add", 5, sequence=3)
        world.files.full = True
        with pytest.raises(StoreFailed, match="No space"):
            await world.call(CHECKPOINT, sequence=4)
        world.files.full = False
        assert await world.call(RESTORE, sequence=5) == 1
        assert await world.call("get", sequence=6) == 5

    run(tmp_path, main)


def test_keeps_as_many_as_told_and_passes_over_damage(tmp_path: Path) -> None:
    """Three of five stay; with the newest damaged it is the one before."""

    async def main(world: World) -> None:
        for n in range(1, 6):
            await world.call("add", 1, sequence=2 * n)
            assert await world.call(CHECKPOINT, sequence=2 * n + 1) == n
        await world.access._idle.wait(5.0)
        files = sorted(file.key for file in world.files.inner.list("checkpoints/"))
        assert len(files) == 3
        world.files.damage(files[-1], b"rubbish")
        assert await world.call(RESTORE, sequence=90) == 4
        assert await world.call("get", sequence=91) == 4

    run(tmp_path, main, keep=3)


def test_going_back_is_one_operation_for_managers_further_out(tmp_path: Path) -> None:
    """A log holds the state that was gone back to: another copy follows without a store."""

    async def main(world: World) -> None:
        LOG.clear()
        await world.call("add", 5, sequence=1)
        await world.call(CHECKPOINT, sequence=2)
        await world.call("add", 5, sequence=3)
        await world.call(RESTORE, sequence=4)
        await world.call("add", 1, sequence=5)
        copy = world.shell()
        world.files.unreachable = True
        for each in LOG:
            operation = decode_operation(each)
            replayed = await copy.replay(operation, 2, 1e9)
            assert (replayed.unfaithful, replayed.digest) == ("", operation.digest)
        world.files.unreachable = False
        assert copy.instance.value == 6
        assert len(LOG) == 4
        checked = call_of(copy, CHECKPOINT, sequence=9)
        assert checked.readonly

    run(tmp_path, main, Logging())
