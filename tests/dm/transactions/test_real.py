"""Transactions on real servers: bank transfers by eight clients while the kernel process is killed again and again."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

import amino
from amino.dm import (
    DHT,
    AtLeastOnceRPC,
    ConsensusRSM,
    DurableSerializableRPC,
    DurableTransactions,
    LockingTransactions,
    OptimisticTransactions,
    PeriodicCheckpoint,
)
from amino.errors import NotExecuted, TransactionAborted
from tests.acceptance.figures import Figures, rounds, slack
from tests.dm.transactions.bank import ACCOUNTS, EACH, Bank, Teller
from tests.dm.transactions.kills import home_of, kill_in_turn
from tests.dm.transactions.ledger import Ledger

pytestmark = [
    pytest.mark.real,
    pytest.mark.timeout(300),
    pytest.mark.keeps("servers that were killed come back for the next test"),
]
amino_cluster = {"app_dirs": [Path(__file__).resolve().parents[3]], "session_ttl_s": 2, "servers": 3}
TELLERS = 8
KILLS = max(4, rounds())
LOCKING = LockingTransactions(lock_s=2.0, wait_s=5.0)
OPTIMISTIC = OptimisticTransactions(retries=3)
DURABLE = DurableTransactions(retries=3, snapshot_every=200)
OUTER = {
    "checkpoint": PeriodicCheckpoint(every=1),
    "consensus": ConsensusRSM(replicas=3),
    "durable": DurableSerializableRPC(),
}


@pytest.fixture
def client(cluster):
    """A connection."""
    with cluster.connect() as connected:
        yield connected


@pytest.mark.parametrize(
    ("manager", "outer"),
    [*((manager, outer) for manager in (LOCKING, OPTIMISTIC) for outer in sorted(OUTER)), (DURABLE, "")],
    ids=lambda each: each if isinstance(each, str) else type(each).__name__,
)
def test_money_is_conserved_while_the_server_is_killed(cluster, client, manager, outer):
    """Every committed transfer is there once, no aborted one is, nobody sees money in between, and work goes on."""
    name = f"bank-{type(manager).__name__}-{outer}".lower()
    bank = client.new(amino.spec(Bank, name=name, dms=[AtLeastOnceRPC(), manager, *([OUTER[outer]] if outer else [])]))
    stop = threading.Event()
    tellers = [Teller(cluster, type(manager), f"t{number}", name, stop) for number in range(TELLERS)]
    for teller in tellers:
        teller.start()
    kill_in_turn(cluster, client, [name] * KILLS, tellers, 20.0)
    stop.set()
    for teller in tellers:
        teller.join(60.0)
    assert [teller.problem for teller in tellers] == [None] * TELLERS
    committed = [each for teller in tellers for each in teller.committed]
    unknown = {each for teller in tellers for each in teller.unknown}
    transfers = bank.transfers()
    assert bank.total() == ACCOUNTS * EACH
    assert [teller.broken for teller in tellers] == [[]] * TELLERS
    assert len(set(transfers)) == len(transfers), "a transfer was applied twice"
    assert set(committed) <= set(transfers), "a committed transfer is lost"
    assert set(transfers) - set(committed) <= unknown, "an aborted transfer is there"
    told = f"of {len(committed)} committed, {KILLS} kills"
    Figures(type(manager).__name__).note(
        f"over {outer or 'its own log'}: wrong transfers", 0, "transfers", at_most=0, note=told
    )


def test_a_lock_whose_client_is_gone_is_free_after_its_time(cluster, client):
    """A client that crashes in a block costs others ``lock_s`` at most."""
    name = "bank-crash"
    bank = client.new(amino.spec(Bank, name=name, dms=[LOCKING]))

    def crash():
        with cluster.connect() as other:
            theirs = other.get(name, Bank)
            amino.control(theirs, LockingTransactions).transaction().__enter__()
            theirs.withdraw(0, 50)

    thread = threading.Thread(target=crash)
    thread.start()
    thread.join(10.0)
    began = time.monotonic()
    assert bank.total() == ACCOUNTS * EACH
    assert 0.5 < time.monotonic() - began < 4.0 * slack()


def test_the_wait_for_a_lock_is_bounded(client):
    """``wait_s``, and then ``NotExecuted`` with reason ``locked``; not the deadline."""
    bank = client.new(amino.spec(Bank, dms=[LockingTransactions(wait_s=0.2)]))
    control = amino.control(bank, LockingTransactions)
    seen = []

    def outside():
        began = time.monotonic()
        with pytest.raises(NotExecuted) as caught:
            bank.total()
        seen.append((caught.value.reason, time.monotonic() - began))

    with control.transaction():
        bank.withdraw(0, 1)
        thread = threading.Thread(target=outside)
        thread.start()
        thread.join(10.0)
    assert seen[0][0] == "locked"
    assert 0.15 < seen[0][1] < 2.0 * slack()


async def test_transactions_from_async_code(cluster):
    """``async with``, async methods, ``amino.aio`` for the others, and ``run`` with its retries."""
    with cluster.connect() as client:
        bank = await amino.aio(client.new)(amino.spec(Bank, dms=[OptimisticTransactions(retries=2)]))
        control = amino.control(bank, OptimisticTransactions)
        async with control.transaction():
            await bank.deposit_soon(0, 5)
            await amino.aio(bank.withdraw)(1, 5)

        async def transfer():
            return await bank.deposit_soon(0, 1)

        assert await amino.aio(control.run)(transfer) == 106
        with pytest.raises(RuntimeError, match="use async with"):
            control.transaction().__enter__()
        assert await amino.aio(bank.total)() == 801


def test_a_block_that_is_cut_off_by_a_failover_publishes_nothing(cluster, client):
    """Its copy died with the server: the next call says so, and the object is what it was."""
    bank = client.new(
        amino.spec(Bank, name="bank-cut", dms=[AtLeastOnceRPC(), OPTIMISTIC, PeriodicCheckpoint(every=1)])
    )
    control = amino.control(bank, OptimisticTransactions)
    server = cluster.server(home_of(client, "bank-cut"))
    before = server.incarnation
    with pytest.raises(TransactionAborted) as caught, control.transaction():
        bank.withdraw(0, 50)
        server.kill_kernel()
        bank.deposit(1, 50)
    assert caught.value.reason == "lost"
    assert bank.total() == ACCOUNTS * EACH
    server.wait_serving(after=before)


@pytest.mark.parametrize("manager", [LOCKING, OPTIMISTIC], ids=["locking", "optimistic"])
def test_over_shards_a_transaction_stays_within_one(client, manager):
    """It commits there; a call for a key of another shard aborts it, and frees what it held on both."""
    ledger = client.new(amino.spec(Ledger, dms=[AtLeastOnceRPC(), manager, DHT(shards=3)]))
    control = amino.control(ledger, type(manager))
    with control.transaction():
        ledger.add("ada", 5)
        assert ledger.add("ada", 5) == 10
    assert ledger.read("ada") == 10
    with pytest.raises(ZeroDivisionError), control.transaction():
        ledger.add("ada", 5)
        raise ZeroDivisionError
    names = [f"account-{number}" for number in range(20)]
    with pytest.raises(TransactionAborted, match="stays within one shard") as caught, control.transaction():
        for name in names:
            ledger.add(name, 1)
    assert caught.value.reason == "refused"
    began = time.monotonic()
    assert [ledger.read(name) for name in ["ada", *names]] == [10, *[0] * 20]
    assert time.monotonic() - began < LOCKING.lock_s, "a lock was waited for"
