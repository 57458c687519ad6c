"""What each deployment manager claims, as a workload and a chain that show it: the rows of the matrix.

Owns one claim for every manager there is: from a table, or derived from its declarations. Leaves judging to the workloads' judges and
running to ``matrix``.
Invariants: every manager of the registry has a claim, or a reason why it has none; a claim's chain is one that Amino accepts.
Failure behaviour: an unknown manager is ``Invalid``, with those that have a claim.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from amino.dm import (
    DHT,
    ConsensusRSM,
    ConsensusRSMGeo,
    ConsensusRSMP2P,
    DurableSerializableRPC,
    DurableTransactions,
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
from amino.testing.chaos.faults.catalogue import FAULTS
from amino.testing.chaos.record import WorkloadRecord
from amino.testing.chaos.workloads.promises import promise_of
from chaos.scenarios import AGAIN, DEVICE_FAULTS, MANAGERS, REGIONS, Scenario

DEVICES = 3
ON_DISK = frozenset({"full-disk", "slow-disk", "stuck-disk", "corrupt-checkpoint", "corrupt-snapshot"})
"""Faults of the checkpoint store: they say something about managers that use it."""

OF_DEVICES = frozenset(DEVICE_FAULTS)


@dataclass(frozen=True, slots=True)
class Claim:
    """What shows a manager's claim.

    Args:
        manager: its name. workload: kind. chain: the managers, outermost first.
    """

    manager: str
    workload: str
    chain: tuple[Manager, ...]

    @property
    def name(self) -> str:
        """The name of its workload in a run."""
        return f"{self.workload}@{self.manager.lower()}"

    @property
    def text(self) -> str:
        """Its managers, for people."""
        return WorkloadRecord("", self.workload, [one.to_spec() for one in self.chain]).chain

    def beyond(self, fault: str) -> str:
        """Return why a fault says nothing about it, empty if it applies."""
        keepers = [one for one in self.chain if Trait.CHECKPOINTS in one.provides]
        if fault in OF_DEVICES and not any(isinstance(one, ConsensusRSMP2P) for one in self.chain):
            return "has nothing on devices"
        if fault in ON_DISK and not keepers:
            return "keeps nothing in the checkpoint store"
        logs = any(Trait.DURABLE in one.provides for one in keepers)
        if fault == "corrupt-checkpoint" and not logs:
            return "keeps no log"
        if fault == "corrupt-snapshot" and (logs or promise_of(self.chain).keeps):
            return "takes more than it promises to keep"
        return ""


_KEPT = PeriodicCheckpoint(every=1)
_TABLE = (
    Claim("AtLeastOnceRPC", "counter", (AGAIN, SerializableRPC(), _KEPT)),
    Claim("ConsensusRSM", "register", (AGAIN, ConsensusRSM())),
    Claim("ConsensusRSMGeo", "register", (AGAIN, ConsensusRSMGeo(regions=REGIONS, preferred_region=REGIONS[0]))),
    Claim("ConsensusRSMP2P", "register", (AGAIN, ConsensusRSMP2P())),
    Claim("DHT", "set", (AGAIN, DHT(shards=2), ConsensusRSM())),
    Claim("DurableSerializableRPC", "queue", (AGAIN, DurableSerializableRPC(snapshot_every=30))),
    Claim("DurableTransactions", "list-append", (AGAIN, DurableTransactions(snapshot_every=30))),
    Claim("LoadBalancedMasterSlave", "key-value", (AGAIN, LoadBalancedMasterSlave())),
    Claim("LockingTransactions", "bank", (AGAIN, LockingTransactions(lock_s=2.0, wait_s=5.0), ConsensusRSM())),
    Claim("OptimisticTransactions", "list-append", (AGAIN, OptimisticTransactions(), _KEPT)),
    Claim("PeriodicCheckpoint", "counter", (AGAIN, PeriodicCheckpoint(every=10), SerializableRPC())),
    Claim("SerializableRPC", "register", (AGAIN, SerializableRPC(), _KEPT)),
    Claim("TwoPhaseCommit", "bank", (AGAIN, TwoPhaseCommit(timeout_s=1.0), _KEPT)),  # who is in doubt asks within 2 s
)
_NONE = {
    "ExplicitCheckpoint": "keeps what the application asks it to keep, when it asks; its tests and simulations judge that",
}


def claims() -> tuple[dict[str, Claim], dict[str, str]]:
    """Return the claim of each manager of the registry, by name; and of those that have none, why."""
    table = {one.manager: one for one in _TABLE}
    found: dict[str, Claim] = {}
    without: dict[str, str] = {}
    for name, manager in sorted(builtin().items()):
        if name in _NONE:
            without[name] = _NONE[name]
            continue
        claim = table.get(name) or _derived(name, manager)
        if claim is None:
            without[name] = "cannot be made without options, and has no row in chaos/claims.py yet"
        else:
            found[name] = claim
    return found, without


def _derived(name: str, manager: type[Manager]) -> Claim | None:
    """Return a claim for a manager that has no row: the shortest chain with it that keeps what it acknowledges, in order."""
    try:
        own = manager()
    except (Invalid, TypeError):
        return None
    workload = "list-append" if Trait.TRANSACTIONS in own.provides else "register"
    candidates = (
        (own,),
        (own, _KEPT),
        (SerializableRPC(), own, _KEPT),
        (own, SerializableRPC(), _KEPT),
        (own, ConsensusRSM()),
    )
    for chain in candidates:
        whole = (AGAIN, *chain)
        try:
            check_chain(whole)
        except Invalid:
            continue
        if promise_of(whole).changes:
            return Claim(name, workload, whole)
    return None


def scenario_of(names: Sequence[str]) -> Scenario:
    """Return the scenario in which these managers' claims are put to the test side by side.

    Raises:
        Invalid: one of them has no claim.
    """
    there, _ = claims()
    for name in names:
        if name not in there:
            raise Invalid(f"no manager {name!r} has a claim; those that have are {', '.join(there)}")
    return Scenario(
        MANAGERS + ",".join(names),
        "what these managers claim, side by side",
        {there[name].name: there[name].chain for name in names},
        dict.fromkeys(FAULTS, 1),
        servers=4,
        devices=DEVICES if any(isinstance(dm, ConsensusRSMP2P) for name in names for dm in there[name].chain) else 0,
        workers=2,
        gap_s=(1.0, 2.0),
        pause_s=0.1,
        regions=REGIONS,
        etcd_quota_mib=64,
        disk_mib=64,
        release=True,
        clocks=True,
    )
