"""Every workload on simulated clusters, over chains that fit it."""

from __future__ import annotations

import msgspec
import pytest

from amino.dm import (
    DHT,
    AtLeastOnceRPC,
    ConsensusRSM,
    DurableTransactions,
    LoadBalancedMasterSlave,
    LockingTransactions,
    OptimisticTransactions,
    PeriodicCheckpoint,
    SerializableRPC,
    TwoPhaseCommit,
)
from amino.errors import Invalid
from amino.testing.chaos.history import Recorder
from amino.testing.chaos.record import RunRecord
from amino.testing.chaos.workloads.registry import make, workload
from tests.testing.chaos.workloads.world import recorded

AGAIN = AtLeastOnceRPC(timeout_s=6.0)
CHAINS = {
    "checkpointed": [AGAIN, SerializableRPC(), PeriodicCheckpoint(every=1)],
    "replicated": [AGAIN, ConsensusRSM()],
    "sharded": [AGAIN, DHT(shards=2), ConsensusRSM()],
    "slaves": [AGAIN, LoadBalancedMasterSlave(staleness_s=1.0)],
    "locking": [AGAIN, LockingTransactions(lock_s=2.0, wait_s=5.0), ConsensusRSM()],
    "optimistic": [AGAIN, OptimisticTransactions(), PeriodicCheckpoint(every=1)],
    "logged": [AGAIN, DurableTransactions()],
    "two-phase": [AGAIN, TwoPhaseCommit(timeout_s=2.0), PeriodicCheckpoint(every=1)],
}
RUNS = [
    ("set", "checkpointed", ["exactly-once", "set"]),
    ("set", "sharded", ["exactly-once", "set"]),
    ("queue", "replicated", ["queue"]),
    ("queue", "sharded", ["queue"]),
    ("key-value", "replicated", ["linearizability", "read-your-writes"]),
    ("key-value", "slaves", ["linearizability", "bounded staleness"]),
    ("register", "slaves", ["linearizability"]),
    ("bank", "checkpointed", ["exactly-once", "conservation"]),
    ("bank", "locking", ["exactly-once", "conservation"]),
    ("bank", "two-phase", ["exactly-once", "conservation"]),
    ("list-append", "replicated", ["serializability"]),
    ("list-append", "locking", ["serializability"]),
    ("list-append", "optimistic", ["serializability"]),
    ("list-append", "logged", ["serializability"]),
    ("list-append", "two-phase", ["serializability"]),
]


@pytest.mark.parametrize(("kind", "chain", "judges"), RUNS, ids=lambda each: each if isinstance(each, str) else "")
def test_every_workload_passes_its_judges(kind, chain, judges):
    """Servers crash under five workers, many operations are answered, and the judges that fit are content."""
    record = recorded(kind, CHAINS[chain], seconds=15.0)
    verdicts = make(record.workloads[0]).judge(record)
    assert [(one.judge, one.ok) for one in verdicts] == [(name, True) for name in judges], "\n".join(map(str, verdicts))
    assert sum(one.outcome == "ok" for one in record.operations) > 100
    saved = msgspec.json.decode(msgspec.json.encode(record), type=RunRecord)
    assert make(saved.workloads[0]).judge(saved) == verdicts


def spoiled(kind, chain, function, change):
    """Return the bad verdicts of a run of which the answers to ``function`` were changed by ``change``."""
    record = recorded(kind, CHAINS[chain], seconds=8.0, crashes=0)
    change([one for one in record.operations if one.function == function and one.outcome == "ok"])
    return [one.judge for one in make(record.workloads[0]).judge(record) if not one.ok]


def test_planted_bugs_are_caught_in_every_workload():
    """A lost element, an exchanged take, an old entry, money from nowhere, a list without its last element."""

    def lose(reads):
        reads[-1].value = reads[-1].value[1:]

    def exchange(takes):
        one, other = [take for take in takes if take.value[0]][:2]
        one.value, other.value = other.value, one.value

    def age(gets):
        late = [one for one in gets if one.key == gets[-1].key]
        late[-1].value = late[0].value

    def print_money(looks):
        looks[3].value[0] += 1

    def cut(transactions):
        reads = [step for one in transactions for step in one.value if step[0] == "read" and len(step[2]) > 2]
        reads[-1][2].pop(0)

    assert "set" in spoiled("set", "checkpointed", "all", lose)
    assert "queue" in spoiled("queue", "replicated", "take", exchange)
    assert "linearizability" in spoiled("key-value", "replicated", "get", age)
    assert "conservation" in spoiled("bank", "checkpointed", "balances", print_money)
    assert "serializability" in spoiled("list-append", "locking", "transaction", cut)


def test_a_bank_is_not_divided():
    """Accounts of different shards cannot be looked at together."""
    with pytest.raises(Invalid, match="DHT"):
        workload("bank", Recorder(), CHAINS["sharded"])
