"""Simulated transactions and durable calls: histories are serializable, and rules broken on purpose are found."""

import logging

import pytest

import amino
from amino.aio.signal import Signal
from amino.checkpoint.operation_log import OperationLog
from amino.dm import AtLeastOnceRPC, LockingTransactions, OptimisticTransactions, PeriodicCheckpoint, TwoPhaseCommit
from amino.dm.transactions.cohort import CohortComponent
from amino.dm.transactions.component import Transactions
from amino.dm.transactions.fair_lock import FairLock
from amino.errors import StoreFailed, TransactionAborted
from amino.testing.simulation import simulate
from amino.testing.simulation.run import run_seed
from tests.simulation.services import Counter

SECONDS = 15.0
SEEDS_MAX = 30


@pytest.fixture(autouse=True)
def _quiet():
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize(
    "load",
    [
        "locking", "locking-replicated", "optimistic", "optimistic-replicated", "two-phase", "durable",
        "durable-transactions",
    ],
)  # fmt: skip
def test_histories_are_serializable(load):
    """One short life of each load, with its faults: no anomaly, no money lost, no lock left."""
    report = run_seed(1, SECONDS, loads=[load])
    assert report.findings == []
    assert report.replies > 50
    assert sum(report.faults.values()) > 1


def first_findings(load, *favoured):
    """Return the findings of the first seed that shows any, with some faults more frequent than usual."""

    def prepare(_cluster, nemesis):
        for fault in nemesis.kinds:
            if fault.__name__ in favoured:
                nemesis.kinds[fault] *= 8

    for seed in range(1, SEEDS_MAX + 1):
        found = run_seed(seed, 2 * SECONDS, loads=[load], prepare=prepare).findings
        if found:
            return "\n".join(found)
    return ""


def test_an_acknowledgement_before_the_sync_is_found(monkeypatch):
    """A call answered before its record is synced is lost with the power."""
    append = OperationLog.append

    def careless(self, record):
        append(self, record)
        synced = Signal()
        synced.set(None)
        return synced

    monkeypatch.setattr(OperationLog, "append", careless)
    assert "not serializable" in first_findings("durable", "power_loss", "torn_log", "crash_kernel")


def test_a_lock_that_does_not_keep_others_out_is_found(monkeypatch):
    """Plain calls that run while a transaction holds the lock change what it has read."""

    async def careless(self, request, wait_s):
        return object()

    monkeypatch.setattr(FairLock, "share", careless)
    monkeypatch.setattr(FairLock, "unshare", lambda self, token: None)
    monkeypatch.setattr(Transactions, "outrun", lambda self, entry: False)  # which would notice it at the commit
    assert "not serializable" in first_findings("locking")


def test_a_commit_that_is_not_validated_is_found(monkeypatch):
    """A transaction that was outrun and commits all the same is not serializable."""
    monkeypatch.setattr(Transactions, "outrun", lambda self, entry: False)
    assert "not serializable" in first_findings("optimistic")


def test_a_promise_that_is_not_kept_is_found(monkeypatch):
    """A cohort whose checkpoint leaves its promise out loses its part of a committed transaction."""
    monkeypatch.setattr(CohortComponent, "on_snapshot", lambda self: None)
    found = first_findings("two-phase", "crash_kernel", "move")
    assert "not serializable" in found or "not conserved" in found


def test_the_key_of_a_commit_goes_also_when_its_initiator_dies_after_telling_everybody():
    """Seed 2 once left it in etcd for ever: no cohort was in doubt, and nobody else removes a commit."""
    assert run_seed(2, SECONDS, loads=["two-phase"]).findings == []


def test_a_decision_that_lands_late_is_not_taken_for_one_that_is_left():
    """Seed 5564: a transaction's key was created by a write that etcd did 4 s late, after the audit had looked for such."""
    assert run_seed(5564, 8.0, loads=["two-phase"]).findings == []


@pytest.mark.parametrize("manager", [LockingTransactions(), OptimisticTransactions(), TwoPhaseCommit()])
def test_nobody_reads_what_a_failed_checkpoint_kept_and_a_loss_takes(manager):
    """Seeds 5073 and 5390: the effect of a call that ended with StoreFailed was read, and gone with its machine."""

    async def main(cluster):
        client, other = cluster.client(), cluster.client("other")
        chain = [AtLeastOnceRPC(), manager, PeriodicCheckpoint(every=1)]
        counter = await amino.aio(client.cluster.new)(amino.spec(Counter, name="hits", dms=chain))
        read = other.cluster.bind(counter)
        assert await amino.aio(read.get)() == 0
        (host,) = [server for server in cluster.servers.values() if len(server.kernel.server.host)]
        host.kernel.access.down = True
        with pytest.raises(StoreFailed):
            await amino.aio(counter.add)()
        with pytest.raises(StoreFailed, match="not answered"):
            await amino.aio(read.get)()
        block = (
            other.cluster.transaction()
            if isinstance(manager, TwoPhaseCommit)
            else amino.control(read, type(manager)).transaction()
        )
        with pytest.raises(TransactionAborted):
            async with block:
                await amino.aio(read.get)()
        host.crash_machine(silent=True)
        with amino.deadline(20.0):
            assert await amino.aio(read.get)() == 0

    simulate(main, 5073)
