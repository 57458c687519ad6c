"""Deployment managers: the component model, chain, context and registry, and the managers themselves by family.

Not here: anything that a component could reach without its context: sockets, clocks, threads and etcd belong to the
layers below. Families never import each other.
"""

from amino.dm.base import ClientBase, Manager, ServerBase, Trait
from amino.dm.checkpointing import ExplicitCheckpoint, PeriodicCheckpoint
from amino.dm.control import Control, ControlContext, control, operation
from amino.dm.durability import DurableSerializableRPC
from amino.dm.mobility import ExplicitMigration
from amino.dm.primitives import AtLeastOnceRPC
from amino.dm.replication import ConsensusRSM, ConsensusRSMGeo, ConsensusRSMP2P, LoadBalancedMasterSlave
from amino.dm.serializability import SerializableRPC
from amino.dm.sharding import DHT
from amino.dm.transactions import (
    DurableTransactions,
    LockingTransactions,
    OptimisticTransactions,
    Participant,
    TwoPhaseCommit,
)

__all__ = [
    "DHT",
    "AtLeastOnceRPC",
    "ClientBase",
    "ConsensusRSM",
    "ConsensusRSMGeo",
    "ConsensusRSMP2P",
    "Control",
    "ControlContext",
    "DurableSerializableRPC",
    "DurableTransactions",
    "ExplicitCheckpoint",
    "ExplicitMigration",
    "LoadBalancedMasterSlave",
    "LockingTransactions",
    "Manager",
    "OptimisticTransactions",
    "Participant",
    "PeriodicCheckpoint",
    "SerializableRPC",
    "ServerBase",
    "Trait",
    "TwoPhaseCommit",
    "control",
    "operation",
]
