"""``OptimisticTransactions``: private copies, first committer wins, one message per commit."""

from __future__ import annotations

import asyncio
import contextvars

import pytest

from amino.contracts.operations import decode_operation
from amino.dm import LockingTransactions, OptimisticTransactions, PeriodicCheckpoint, SerializableRPC
from amino.dm.base import Manager, ServerBase
from amino.dm.chain import compose_client
from amino.dm.registry import check_chain
from amino.errors import Invalid, NotExecuted, OutcomeUnknown, Overloaded, TransactionAborted
from tests.dm.transactions.world import LOG, SEEN, Account, Logging, ManualClock, World


@pytest.fixture(autouse=True)
def _empty_log():
    LOG.clear()
    SEEN.clear()


def optimistic(*more, clock=None, **options):
    return World(Account(), OptimisticTransactions(**options), *more, clock=clock)


async def test_a_block_is_seen_by_nobody_before_its_end_and_by_all_after():
    """Calls of every colour run on the copy; the commit publishes them at once."""
    async with optimistic() as world:
        one, other = world.client(), world.client()
        async with one.transaction():
            assert await one.call("add", 1) == 101
            assert await one.call("add_inline", 10) == 111
            assert await one.call("add_thread", 100) == 211
            assert await one.call("get") == 211
            assert await asyncio.create_task(outside(other)) == 100
        assert await other.call("get") == 211


async def outside(client):
    """Read from a context without the block, as another process does."""
    return await asyncio.get_running_loop().create_task(client.call("get"), context=contextvars.Context())


async def test_the_first_to_commit_wins():
    """The second is aborted and publishes nothing; plain writes count, even if they lead to the same state."""
    async with optimistic() as world:
        one, other = world.client(), world.client()
        first, second = one.transaction(), other.transaction()
        async with first:
            await one.call("add", 1)
        with pytest.raises(TransactionAborted, match="changed by another") as caught:
            async with second:
                await other.call("add", 5)
                await in_context(one, "add", 1)
                await in_context(one, "add", -1)
        assert caught.value.reason == "conflict"
        assert world.target.instance.balance == 101


async def in_context(client, method, *args):
    return await asyncio.get_running_loop().create_task(client.call(method, *args), context=contextvars.Context())


async def test_readers_and_transactions_that_change_nothing_write_nothing():
    """No message that a manager further out would log; and they do not conflict with writers."""
    async with optimistic(Logging()) as world:
        one, other = world.client(), world.client()
        async with one.transaction():
            pass
        async with one.transaction():
            assert await one.call("get") == 100
            await in_context(other, "add", 1)
            assert await one.call("get") == 100
        async with one.transaction():
            await one.call("touch")
        assert SEEN == ["add"]


async def test_a_commit_is_one_logged_call_that_replays_elsewhere():
    """It carries its operations with what they took from outside, and the other copy needs no private one."""
    async with optimistic(Logging()) as world:
        client = world.client()
        async with client.transaction():
            await client.call("add", 1)
            at = await client.call("stamp")
            with pytest.raises(KeyError):
                await client.call("fail", 1)
        assert SEEN == [":OptimisticTransactions:commit"]
        async with optimistic(Logging()) as replica:
            operation = decode_operation(LOG[0])
            found = await replica.target.replay(operation, 1, 1e12)
            assert (found.digest, found.unfaithful) == (operation.digest, "")
            assert replica.target.instance.balance == 102
            assert replica.target.instance.stamps == [at]


async def test_the_verdict_on_an_aborted_commit_is_replayed_too():
    """Replicas agree on what was not done."""
    async with optimistic(Logging()) as world:
        one, other = world.client(), world.client()
        with pytest.raises(TransactionAborted):
            async with one.transaction():
                await one.call("add", 5)
                await in_context(other, "add", 1)
        async with optimistic(Logging()) as replica:
            for each in LOG:
                operation = decode_operation(each)
                assert (await replica.target.replay(operation, 1, 1e12)).digest == operation.digest
            assert replica.target.instance.balance == 101


async def test_a_method_that_cheats_is_found_out_and_undone():
    """Its outcome differs when it is replayed: all or nothing."""
    async with optimistic() as world:
        client = world.client()
        with pytest.raises(
            TransactionAborted, match="cheat, call 2 of the transaction, is not deterministic"
        ) as caught:
            async with client.transaction():
                await client.call("add", 1)
                await client.call("cheat")
        assert caught.value.reason == "diverged"
        assert world.target.instance.balance == 100
        assert await client.call("add", 1) == 101


async def test_an_exception_or_rollback_publishes_nothing():
    """The exception goes on; after ``rollback`` no call joins any more."""
    async with optimistic() as world:
        client = world.client()
        with pytest.raises(ZeroDivisionError):
            async with client.transaction():
                await client.call("add", 1)
                raise ZeroDivisionError
        async with client.transaction() as block:
            await client.call("add", 1)
            await block._rollback()
            with pytest.raises(Invalid, match="has ended"):
                await client.call("add", 1)
        assert world.target.instance.balance == 100
        assert not world.component._open


async def test_an_application_error_inside_is_only_that():
    """What the block catches does not end the transaction, and what the method did before it raised counts."""
    async with optimistic() as world:
        client = world.client()
        async with client.transaction():
            with pytest.raises(KeyError):
                await client.call("fail", 7)
        assert world.target.instance.balance == 107


async def test_a_copy_that_is_gone_aborts():
    """After a failover or restore the next call, or the commit, is refused and nothing is published."""
    async with optimistic() as world:
        client = world.client()
        snapshot = world.target.snapshot_sealed()
        with pytest.raises(TransactionAborted, match="moved or restored") as caught:
            async with client.transaction():
                await client.call("add", 1)
                await world.target.restore(snapshot)
                await client.call("add", 1)
        assert caught.value.reason == "lost"
        with pytest.raises(TransactionAborted, match="moved or restored"):
            async with client.transaction():
                await client.call("add", 1)
                world.component._open.clear()
        assert world.target.instance.balance == 100


async def test_a_repeated_call_runs_once_on_the_copy():
    """A retry of the call whose answer was lost gets that answer."""
    async with optimistic() as world:
        client = world.client()

        async def twice(call, forward):
            await forward(call)
            call.attempt += 1
            return await forward(call)

        send = client._send
        client.forward = compose_client(world.managers, client, lambda call: twice(call, send))
        async with client.transaction():
            assert await client.call("add", 1) == 101
            assert await client.call("add", 1) == 102
        assert world.target.instance.balance == 102


async def test_an_unknown_outcome_dooms_the_transaction():
    """Nobody knows whether the call is in it, so it cannot be published."""
    async with optimistic() as world:
        client = world.client()

        def lose(call):
            if call.method == "add" and call.args == (13,):
                raise OutcomeUnknown("lost")

        world.before_send.append(lose)
        with pytest.raises(TransactionAborted, match="outcome of one of its calls is not known"):
            async with client.transaction():
                await client.call("add", 1)
                with pytest.raises(OutcomeUnknown):
                    await client.call("add", 13)
        assert world.target.instance.balance == 100


async def test_a_lost_answer_of_the_commit_is_said():
    """It may have been published: ``OutcomeUnknown``, never ``TransactionAborted``."""
    async with optimistic() as world:
        client = world.client()

        def lose(call):
            if call.method.endswith("commit"):
                raise OutcomeUnknown("lost")

        world.before_send.append(lose)
        with pytest.raises(OutcomeUnknown):
            async with client.transaction():
                await client.call("add", 1)


async def test_a_transaction_expires():
    """Its copy is dropped when its client went away, and its commit is refused."""
    clock = ManualClock()
    async with optimistic(clock=clock, expires_s=5.0) as world:
        client = world.client()
        with pytest.raises(TransactionAborted) as caught:
            async with client.transaction():
                await client.call("add", 1)
                clock.time += 6.0
        assert caught.value.reason == "expired"
        assert not world.component._open


async def test_the_copies_of_clients_that_went_away_are_dropped():
    """Memory stays bounded without another call."""
    async with optimistic(expires_s=0.02) as world:
        client = world.client()
        block = client.transaction()
        async with block:
            await client.call("add", 1)
            while world.component._open:
                await asyncio.sleep(0.005)
            await block._rollback()


async def test_calls_of_one_block_run_one_at_a_time():
    """Though the block makes them together."""
    async with optimistic() as world:
        client = world.client()
        async with client.transaction():
            await asyncio.gather(*(client.call("add_slowly", 1) for _ in range(5)))
        assert world.target.instance.balance == 105


async def test_nobody_sees_half_a_commit():
    """Readers wait for the few moments of it."""
    async with optimistic() as world:
        client, reader = world.client(), world.client()
        seen = set()
        running = True

        async def read():
            while running:
                seen.add(await in_context(reader, "get"))

        reading = asyncio.create_task(read())
        for _ in range(3):
            async with client.transaction():
                await client.call("add_slowly", 50)
                await client.call("add_slowly", -50)
                await client.call("add_slowly", 1)
        running = False
        await reading
        assert seen <= {100, 101, 102, 103}


async def test_run_begins_again_after_a_conflict():
    """At most ``retries`` times, function and all; the last abort is raised."""
    async with optimistic(retries=2) as world:
        client, other = world.client(), world.client()
        begun = []

        async def transfer():
            begun.append(await client.call("get"))
            await client.call("add", 1)
            if len(begun) < conflicts:
                await in_context(other, "add", 10)
            return "done"

        conflicts = 3
        assert await client.control._run(transfer) == "done"
        assert begun == [100, 110, 120]
        begun.clear()
        conflicts = 4
        with pytest.raises(TransactionAborted):
            await client.control._run(transfer)
        assert len(begun) == 3


async def test_misuse_is_named():
    """Nesting, entering twice, a call of a transaction where none are run, and a malformed header."""
    async with optimistic() as world:
        client = world.client()
        async with client.transaction() as block:
            with pytest.raises(Invalid, match="do not nest"):
                async with client.transaction():
                    pass
        with pytest.raises(Invalid, match="was begun before"):
            async with block:
                pass
        with pytest.raises(Invalid, match="malformed"):
            await world.served.call("get", headers={"txn": 7})
        with pytest.raises(Invalid, match=r"takes \[transaction, ...\]"):
            await world.served.call(":OptimisticTransactions:commit", 7)
    async with World(Account(), Logging()) as plain:
        with pytest.raises(Invalid, match="runs transactions"):
            await plain.served.call("get", headers={"txn": ["t", 1]})


async def test_open_transactions_are_bounded(monkeypatch):
    """Beyond the bound ``Overloaded``."""
    monkeypatch.setattr("amino.dm.transactions.component.OPEN_MAX", 1)
    async with optimistic() as world:
        one, other = world.client(), world.client()
        async with one.transaction():
            await one.call("add", 1)
            with pytest.raises(Overloaded):
                await world.served.call("get", headers={"txn": ["t", 1]})
        async with other.transaction():
            await other.call("add", 1)


async def test_a_second_shard_is_refused():
    """A transaction stays within one group; what was done at the second one is dropped too."""
    async with optimistic() as world:
        client = world.client()
        paths = iter(["/0", "/1", "/0", "/1"])

        def route(call):
            if not call.method.startswith(":"):
                call.path = next(paths)
            ended.append((call.method, call.path))

        ended: list[tuple[str, str]] = []
        send = client._send

        async def sending(call):
            route(call)
            path, call.path = call.path, "/"
            try:
                return await send(call)
            finally:
                call.path = path

        client.forward = compose_client(world.managers, client, sending)
        with pytest.raises(TransactionAborted, match="stays within one shard") as caught:
            async with client.transaction():
                await client.call("add", 1)
                await client.call("add", 1)
        assert caught.value.reason == "refused"
        assert ended[2:] == [(":OptimisticTransactions:end", "/0"), (":OptimisticTransactions:end", "/1")]


def test_what_restores_call_by_call_stands_after_transactions():
    """The reason comes from the declarations."""
    check_chain([OptimisticTransactions(), SerializableRPC(), PeriodicCheckpoint()])
    with pytest.raises(
        Invalid, match="PeriodicCheckpoint stands before OptimisticTransactions: it restores or replicates"
    ):
        check_chain([PeriodicCheckpoint(), OptimisticTransactions()])
    with pytest.raises(Invalid, match="both say: runs several calls as one"):
        check_chain([LockingTransactions(), OptimisticTransactions()])


async def test_a_transaction_within_a_changing_call_of_the_object_is_refused():
    """Its copy would wait for that call's end, and that call for it."""
    async with optimistic() as world:
        client = world.client()
        call = client.new_call("add", 1)
        token = world.target._mutation.enter_nowait(call.request)
        with pytest.raises(Invalid, match="begun within a changing call"):
            async with client.transaction():
                await client.call("add", 1, sequence=call.request.sequence, nested=(1,))
        world.target._mutation.leave(token)


async def test_a_copy_waits_for_a_changing_call_only_so_long(monkeypatch):
    """Then the call was not executed, and may be repeated."""
    monkeypatch.setattr("amino.limits.QUIESCE_TIMEOUT_S", 0.01)
    async with optimistic() as world:
        client, other = world.client(), world.client()
        token = world.target._mutation.enter_nowait(other.new_call("add", 1).request)
        async with client.transaction():
            with pytest.raises(NotExecuted, match="could not be copied"):
                await client.call("add", 1)
            world.target._mutation.leave(token)
            assert await client.call("add", 1) == 101
        assert world.target.instance.balance == 101


async def test_an_aborted_commit_is_no_conflict_for_others():
    """Else losers would abort each other for ever."""
    async with optimistic() as world:
        client = world.client()

        async def commit_in_vain():
            other = world.client()
            block = other.transaction()
            block.begin()
            await other.call("add", 5)
            world.component._open[block.id].fork.mutations -= 1
            verdict = await other.message(type(other.manager), "commit", [block.id, 1])
            assert verdict[:2] == ["aborted", "conflict"]

        async with client.transaction():
            await client.call("add", 1)
            await asyncio.get_running_loop().create_task(commit_in_vain(), context=contextvars.Context())
        assert world.target.instance.balance == 101


async def test_another_call_does_not_get_the_answer_of_one_that_was_said_not_to_have_run():
    """A manager further out may refuse to answer what has run; the caller counts the next call as the same number."""
    async with optimistic(Refusing()) as world:
        one = world.client()
        with pytest.raises(TransactionAborted) as caught:
            async with one.transaction():
                with pytest.raises(NotExecuted):
                    await one.call("add", 5)
                await one.call("add", 7)
        assert caught.value.reason == "lost"
        assert world.target.instance.balance == 100


class Refusing(Manager, frozen=True, kw_only=True):
    """Refuses to answer the first call after it has run."""

    def server(self, context):
        """Return the component."""
        return _Refuser()


class _Refuser(ServerBase):
    def __init__(self):
        self._refused = False

    async def on_call(self, call, forward):
        result = await forward(call)
        if not self._refused:
            self._refused = True
            raise NotExecuted("not the primary any more", reason="deadline")
        return result
