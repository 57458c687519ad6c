"""``DurableTransactions``: a commit that was acknowledged survives, whole; what had not committed leaves nothing."""

from __future__ import annotations

import asyncio
from contextvars import Context
from pathlib import Path
from typing import Self

import pytest

import amino
from amino.dm import DurableTransactions
from amino.dm.durable_log import DurableLog
from amino.errors import StoreFailed, TransactionAborted
from tests.dm import durable_world
from tests.dm.transactions.world import Account, World
from tests.kernel.world import serving


class Durable(World):
    """A world of transactions on real checkpoints."""

    def __init__(self, folder: Path) -> None:
        super().__init__(Account(), DurableTransactions(snapshot_every=4))
        self.kept = durable_world.World(folder, Account)

    async def __aenter__(self) -> Self:
        await self.kept.__aenter__()
        self.target.context.checkpoints = self.kept.checkpoints()
        await self.target.chain.on_create()
        await super().__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.target.chain.on_stop()
        await super().__aexit__(*exc)
        await self.kept.__aexit__(*exc)

    async def recovered(self) -> Account:
        """Return the object as it comes back from the store, elsewhere."""
        await self.kept.place()
        other = serving(Account(), *self.managers, around=self.around)
        other.context.checkpoints = self.kept.checkpoints()
        other.context.run = None
        newest = await other.context.checkpoints.newest()
        assert newest is not None
        other.restore_sealed(newest[0])
        await other.chain.on_recover()
        await other.chain.on_stop()
        return other.instance


async def test_commits_survive_and_nothing_else_does(tmp_path: Path) -> None:
    """Committed transactions and plain calls are there after a loss; open, rolled back and failed ones are not."""
    async with Durable(tmp_path) as world:
        client, other = world.client(), world.client()
        async with client.transaction():
            await client.call("add", 10)
            await client.call("add_inline", 5)
        await other.call("add_thread", 1)
        with pytest.raises(KeyError):
            await other.call("fail", 500)
        with pytest.raises(KeyError):
            async with client.transaction():
                await client.call("add", 100)
                await client.call("fail", 100)
        for n in range(6):  # over the end of a segment
            async with client.transaction():
                await client.call("add", n)
                await client.call("stamp")
        async with client.transaction() as unfinished:
            await client.call("add", 1000)
            came_back = await world.recovered()
            await amino.aio(unfinished.rollback)()
        assert came_back.balance == 100 + 15 + 1 + 15
        assert came_back.balance == world.target.instance.balance
        assert came_back.stamps == world.target.instance.stamps
        assert len(came_back.stamps) == 6


async def test_conflicts_are_judged_as_without_a_log(tmp_path: Path) -> None:
    """The first committer wins; the loser's abort is replayed as one."""
    async with Durable(tmp_path) as world:
        first, second = world.client(), world.client()
        with pytest.raises(TransactionAborted):
            async with first.transaction():
                await first.call("add", 1)
                await asyncio.create_task(second.call("add", 10), context=Context())  # outside the block
        async with first.transaction():
            await first.call("add", 2)
        assert world.target.instance.balance == 112
        assert (await world.recovered()).balance == 112


async def test_after_a_full_disk_transactions_go_on(tmp_path: Path) -> None:
    """While nothing can be made durable no transaction begins, none is left open, and with room they are back by themselves.

    Found by the matrix of chaos: each began, ran its first call, failed and stayed open, up to the bound; and as calls of
    transactions never asked for a new log, an object that takes nothing else never got one.
    """
    async with Durable(tmp_path) as world:
        client = world.client()
        async with client.transaction():
            await client.call("add", 10)
        world.kept.files.full = True
        with pytest.raises(StoreFailed, match="kept in memory"):
            async with client.transaction():
                await client.call("add", 5)
        for _ in range(3):
            with pytest.raises(StoreFailed, match="was not run"):
                async with client.transaction():
                    await client.call("add", 1)
        assert not world.component._open
        world.kept.files.full = False
        async with client.transaction():
            assert await client.call("add", 2) == 117
        assert (await world.recovered()).balance == 117


def test_the_log_stands_further_out(tmp_path: Path) -> None:
    """To the log, private copies and object are the object: it is the second component of the manager."""
    world = World(Account(), DurableTransactions())
    names = [(name, type(each)) for name, _, each in world.target.chain._components]
    assert names[1] == ("DurableTransactions+@0", DurableLog)
