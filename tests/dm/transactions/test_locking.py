"""``LockingTransactions``: everybody else waits, in order, and not for ever."""

from __future__ import annotations

import asyncio
import contextvars

import pytest

from amino.aio.mode import drive
from amino.contracts.calls import RequestId
from amino.dm import LockingTransactions, PeriodicCheckpoint
from amino.dm.transactions.fair_lock import FairLock
from amino.errors import Invalid, NotExecuted, StoreFailed, TransactionAborted
from tests.dm.transactions.world import LOG, SEEN, Account, Logging, ManualClock, World


@pytest.fixture(autouse=True)
def _empty_log():
    LOG.clear()
    SEEN.clear()


def locking(*more, clock=None, **options):
    return World(Account(), LockingTransactions(**options), *more, clock=clock)


def elsewhere(coroutine):
    """Start ``coroutine`` outside of the block we are in."""
    return asyncio.get_running_loop().create_task(coroutine, context=contextvars.Context())


async def waiting(world, count):
    while world.component.lock.waiting < count:
        await asyncio.sleep(0.001)


async def test_others_wait_for_the_end_readers_and_outsiders_too():
    """Nobody runs on the object between a transaction's first call and its commit."""
    async with locking() as world:
        one, other = world.client(), world.client()
        async with one.transaction():
            await one.call("add", 1)
            reader, writer = elsewhere(other.call("get")), elsewhere(other.call("add_thread", 10))
            await waiting(world, 2)
            assert await one.call("add", 1) == 102
            assert not reader.done()
            assert not writer.done()
        assert await reader in {102, 112}  # shared by plain calls
        assert await writer == 112


async def test_a_commit_that_is_in_no_checkpoint_is_in_doubt_and_not_read():
    """Its caller is told what failed; others, plain or in a transaction, are refused until a checkpoint holds it."""
    async with locking(PeriodicCheckpoint(every=1)) as world:
        one, other = world.client(), world.client()
        await one.call("add", 1)
        fails = world.target.context.checkpoints.fails
        block = one.transaction()
        fails += [StoreFailed("disk full")] * 5
        with pytest.raises(StoreFailed, match="kept in memory"):
            async with block:
                await one.call("add", 10)
        assert "in doubt" in repr(block)
        with pytest.raises(StoreFailed, match="not answered"):
            await other.call("get")
        with pytest.raises(TransactionAborted, match="not answered") as aborted:
            async with other.transaction():
                await other.call("get")
        assert aborted.value.reason == "lost"
        fails.clear()
        async with other.transaction():
            assert await other.call("get") == 111


async def test_the_lock_goes_on_in_order_of_arrival():
    """Transactions and plain calls alike."""
    async with locking() as world:
        order = []

        async def transact(name):
            client = world.client()
            async with client.transaction():
                await client.call("get")
                order.append(name)

        async def plain(name):
            await world.client().call("add_inline", 1)
            order.append(name)

        first = world.client()
        async with first.transaction():
            await first.call("get")
            tasks = []
            for number, work in enumerate([transact("a"), plain("b"), transact("c"), transact("d")], 1):
                tasks.append(elsewhere(work))
                await waiting(world, number)
        await asyncio.gather(*tasks)
        assert order == ["a", "b", "c", "d"]


async def test_increments_in_transactions_are_never_lost():
    """Read, then write what was read plus one: eight clients, no lost update, no conflict."""
    async with locking() as world:

        async def increment():
            client = world.client()
            for _ in range(5):
                async with client.transaction():
                    seen = await client.call("get")
                    assert await client.call("add_slowly", 1) == seen + 1

        await asyncio.gather(*(elsewhere(increment()) for _ in range(8)))
        assert world.target.instance.balance == 140


async def test_who_waits_too_long_is_told_why():
    """``NotExecuted`` with reason ``locked`` after ``wait_s``, for plain calls and transactions."""
    async with locking(wait_s=0.01) as world:
        one, other = world.client(), world.client()
        async with one.transaction():
            await one.call("add", 1)
            with pytest.raises(NotExecuted, match=r"for the 0\.01 s that get waits") as caught:
                await elsewhere(other.call("get"))
            assert caught.value.reason == "locked"

            async def transact():
                async with other.transaction():
                    await other.call("add", 1)

            with pytest.raises(NotExecuted):
                await elsewhere(transact())
        assert await other.call("get") == 101


async def test_the_lock_expires():
    """Others go on after ``lock_s``, and the late commit publishes nothing."""
    async with locking(lock_s=0.05) as world:
        one, other = world.client(), world.client()
        with pytest.raises(TransactionAborted, match=r"longer than the 0.05 s") as caught:
            async with one.transaction():
                await one.call("add", 1)
                assert await elsewhere(other.call("add", 10)) == 110
                await one.call("get")
        assert caught.value.reason == "expired"
        with pytest.raises(TransactionAborted):
            async with one.transaction():
                await one.call("add", 1)
                await elsewhere(other.call("get"))
        assert await other.call("get") == 110


@pytest.mark.parametrize("how", ["exception", "rollback"])
async def test_rollback_frees_the_lock_at_once(how):
    """And publishes nothing."""
    async with locking() as world:
        one, other = world.client(), world.client()
        with pytest.raises(ZeroDivisionError):
            async with one.transaction() as block:
                await one.call("add", 1)
                if how == "rollback":
                    await block._rollback()
                raise ZeroDivisionError
        assert await asyncio.wait_for(other.call("get"), 1.0) == 100


async def test_a_commit_that_was_not_executed_frees_the_lock():
    """The block is rolled back, and says why."""
    async with locking() as world:
        one, other = world.client(), world.client()

        def refuse(call):
            if call.method.endswith("commit"):
                raise NotExecuted("no", reason="deadline")

        world.before_send.append(refuse)
        with pytest.raises(TransactionAborted):
            async with one.transaction():
                await one.call("add", 1)
        assert await asyncio.wait_for(other.call("get"), 1.0) == 100


async def test_restoring_the_object_frees_the_lock():
    """As after a failover: the lock is not part of the state."""
    async with locking() as world:
        one, other = world.client(), world.client()
        snapshot = world.target.snapshot_sealed()
        with pytest.raises(TransactionAborted, match="moved or restored"):
            async with one.transaction():
                await one.call("add", 1)
                await world.target.restore(snapshot)
                assert await elsewhere(other.call("add", 1)) == 101
        assert world.target.instance.balance == 101


async def test_a_call_from_within_a_transactions_call_does_not_wait_for_itself():
    """It reads the object as it was before, and must not change it."""
    async with locking() as world:
        client = world.client()
        async with client.transaction():
            await client.call("add", 1)
            call = client.new_call("add", 1)
            world.component._running[call.request] = None
            inner = {"root": call.request.client, "sequence": call.request.sequence, "nested": (1,)}
            assert await elsewhere(world.client().call("get", **inner)) == 100
            with pytest.raises(Invalid, match="from within a call of the transaction"):
                await elsewhere(world.client().call("add", 1, **inner))
            world.component._running.clear()


async def test_a_transaction_within_a_plain_call_of_the_object_is_refused():
    """It would wait for a call that waits for it."""
    async with locking() as world:
        client = world.client()
        call = client.new_call("add_slowly", 1)
        token = await world.component.lock.share(call.request, 1.0)
        with pytest.raises(Invalid, match="begun within a call of it"):
            async with client.transaction():
                await client.call("get", sequence=call.request.sequence, nested=(1,))
        world.component.lock.unshare(token)


async def test_a_log_further_out_sees_one_call_and_readers_wait_before_it():
    """Who waits for the lock holds nothing of managers further out; the commit gets through."""
    async with locking(Logging()) as world:
        one, other = world.client(), world.client()
        async with one.transaction():
            await one.call("add", 1)
            writer = elsewhere(other.call("add", 1))
            await waiting(world, 1)
            assert SEEN == []
        await writer
        assert SEEN == [":LockingTransactions:commit", "add"]


def request(number, *path):
    return RequestId("c", "m", number, path)


def test_the_lock_alone():
    """Shared by many, owned by one, nested calls admitted, expiry, pins."""
    clock = ManualClock()
    lock = FairLock(clock.monotonic)
    one, two = drive(lock.share(request(1), 0)), drive(lock.share(request(2), 0))
    with pytest.raises(TimeoutError):
        drive(lock.own("t", request(3), 5.0, 0))
    assert lock.waiting == 0
    lock.unshare(one)
    lock.unshare(two)
    drive(lock.own("t", request(3), 5.0, 0))
    drive(lock.own("t", request(3), 5.0, 0))
    with pytest.raises(TimeoutError):
        drive(lock.share(request(4), 0))
    assert lock.pin("t")
    clock.time += 6
    assert lock.owned_by("t")
    lock.unpin("t")
    assert not lock.owned_by("t")
    assert not lock.pin("t")
    outer = drive(lock.share(request(5), 0))
    assert lock.has_inside(request(5, 1))
    inner = drive(lock.share(request(5, 1), 0))
    lock.unshare(inner)
    lock.unshare(outer)
    assert "0 sharing" in repr(lock)


async def test_who_gives_up_waiting_is_not_let_in():
    """Nor does it hold up those behind."""
    lock = FairLock(ManualClock().monotonic)
    await lock.own("a", request(1), 5.0, 0)
    impatient = asyncio.create_task(lock.own("b", request(2), 5.0, 5.0))
    await asyncio.sleep(0)
    behind = asyncio.create_task(lock.share(request(3), 5.0))
    await asyncio.sleep(0)
    assert lock.waiting == 2
    impatient.cancel()
    await asyncio.gather(impatient, return_exceptions=True)
    lock.disown("a")
    lock.unshare(await behind)


async def test_the_same_request_sent_twice_owns_once():
    """A retry that came while the first still waited is let in with it."""
    lock = FairLock(ManualClock().monotonic)
    token = await lock.share(request(1), 0)
    twice = [asyncio.create_task(lock.own("t", request(2), 5.0, 5.0)) for _ in range(2)]
    await asyncio.sleep(0)
    lock.unshare(token)
    await asyncio.gather(*twice)
    lock.disown("t")
    assert lock.waiting == 0
