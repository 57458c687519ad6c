"""The table of stacks: which are used by people and so never refused, every pair, and what each promises.

Owns the stacks and what follows from their managers' declarations. Leaves proving it to the tests.
Invariant: a manager that is added to the package is in every pair without anybody's doing.
Failure behaviour: none.
"""

from __future__ import annotations

import itertools

from amino.dm import (
    DHT,
    AtLeastOnceRPC,
    ConsensusRSM,
    ConsensusRSMGeo,
    DurableSerializableRPC,
    ExplicitMigration,
    LoadBalancedMasterSlave,
    LockingTransactions,
    OptimisticTransactions,
    PeriodicCheckpoint,
    SerializableRPC,
    TwoPhaseCommit,
)
from amino.dm.base import Manager, Trait
from amino.dm.registry import builtin, check_chain
from amino.errors import Invalid

Stack = tuple[Manager, ...]
REGIONS = ("eu", "us", "ap")

AGAIN = AtLeastOnceRPC(timeout_s=30.0)
NEVER_REFUSED: tuple[Stack, ...] = (
    (AGAIN, DHT(shards=3), ConsensusRSM()),
    (AGAIN, ConsensusRSM(), PeriodicCheckpoint(every=1)),
    (OptimisticTransactions(), ConsensusRSM()),
    (LockingTransactions(), ConsensusRSM()),
    (AGAIN, LockingTransactions(), DHT(shards=3)),
    (DHT(shards=3), LoadBalancedMasterSlave()),
)
OTHERS: tuple[Stack, ...] = (
    (AGAIN, TwoPhaseCommit(), ConsensusRSM()),
    (AGAIN, TwoPhaseCommit(), DurableSerializableRPC()),
    (AGAIN, DHT(shards=3), OptimisticTransactions(), DurableSerializableRPC()),
    (AGAIN, ExplicitMigration(), SerializableRPC(), PeriodicCheckpoint(every=1)),
    (AGAIN, DHT(shards=2), LoadBalancedMasterSlave(replicas=3), PeriodicCheckpoint(every=1)),
)
SAMPLE = NEVER_REFUSED + OTHERS


def example(name: str) -> Manager:
    """Return a manager of that name, as strict as its options make it."""
    if name == "PeriodicCheckpoint":
        return PeriodicCheckpoint(every=1)
    if name == "ConsensusRSMGeo":
        return ConsensusRSMGeo(regions=REGIONS, preferred_region="eu")
    return builtin()[name]()


def pairs() -> list[Stack]:
    """Return every ordered pair of managers, each with itself too."""
    return [(example(one), example(other)) for one, other in itertools.product(sorted(builtin()), repeat=2)]


def refusal(stack: Stack) -> str:
    """Return why a stack is refused, empty if it is not."""
    try:
        check_chain(stack)
    except Invalid as error:
        return str(error)
    return ""


def title(stack: Stack) -> str:
    """Return a stack's name."""
    return "+".join(type(one).__name__ for one in stack)


def provides(stack: Stack, trait: Trait) -> bool:
    """Return whether one of its managers does."""
    return any(trait in one.provides for one in stack)


def keeps(stack: Stack) -> bool:
    """Return whether what was acknowledged outlives the server that runs it."""
    return any(one.keeps_each_call() for one in stack)
