"""Transactions on real servers, judged by their histories: eight clients append and read while kernel processes are killed."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

import amino
from amino.dm import (
    AtLeastOnceRPC,
    ConsensusRSM,
    DurableTransactions,
    LockingTransactions,
    OptimisticTransactions,
    PeriodicCheckpoint,
    TwoPhaseCommit,
)
from amino.testing.serializability import judge
from tests.acceptance.figures import Figures, rounds
from tests.dm.transactions.kills import kill_in_turn
from tests.dm.transactions.lists import Lists, Scribe, read_all

pytestmark = [
    pytest.mark.real,
    pytest.mark.timeout(300),
    pytest.mark.keeps("servers that were killed come back for the next test"),
]
amino_cluster = {"app_dirs": [Path(__file__).resolve().parents[3]], "session_ttl_s": 2, "servers": 3}
SCRIBES = 8
KILLS = max(4, rounds())
LOCKING = LockingTransactions(lock_s=2.0, wait_s=5.0)
OPTIMISTIC = OptimisticTransactions(retries=3)
DURABLE = DurableTransactions(retries=3, snapshot_every=200)
COHORT = TwoPhaseCommit(timeout_s=2.0)
KEPT = {"checkpoint": [PeriodicCheckpoint(every=1)], "consensus": [ConsensusRSM(replicas=3)], "": []}


@pytest.mark.parametrize(
    ("manager", "kept", "objects"),
    [
        (LOCKING, "checkpoint", 1),
        (LOCKING, "consensus", 1),
        (OPTIMISTIC, "checkpoint", 1),
        (OPTIMISTIC, "consensus", 1),
        (DURABLE, "", 1),
        (COHORT, "checkpoint", 3),
        (COHORT, "consensus", 3),
    ],
    ids=lambda each: str(each) if isinstance(each, str | int) else type(each).__name__,
)
def test_histories_are_strictly_serializable_while_servers_are_killed(cluster, manager, kept, objects):
    """Some order of the transactions, which respects real time, explains every read; what was committed is in it."""
    names = [f"lists-{type(manager).__name__}-{kept}-{number}".lower() for number in range(objects)]

    def begin(connection, stubs):
        if isinstance(manager, TwoPhaseCommit):
            return connection.transaction()
        return amino.control(stubs[0], type(manager)).transaction()

    with cluster.connect() as client:
        stubs = [
            client.new(amino.spec(Lists, name=name, dms=[AtLeastOnceRPC(), manager, *KEPT[kept]])) for name in names
        ]
        stop = threading.Event()
        scribes = [Scribe(cluster, begin, names, f"c{number}", stop) for number in range(SCRIBES)]
        for scribe in scribes:
            scribe.start()
        try:
            kill_in_turn(cluster, client, [names[number % objects] for number in range(KILLS)], scribes, 20.0)
        finally:
            stop.set()
            for scribe in scribes:
                scribe.join(60.0)
        assert [scribe.problem for scribe in scribes] == [None] * SCRIBES
        history = [transaction for scribe in scribes for transaction in scribe.history]
        found = judge([*history, read_all(stubs)], strict=True)
        told = f"{len(history)} transactions, {KILLS} kills"
        what = f"over {kept or 'its own log'}: anomalies of the history"
        Figures(type(manager).__name__).note(what, len(found), "anomalies", at_most=0, note=told)
        assert found == []
