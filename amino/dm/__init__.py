"""Deployment managers: the component model, chain, context and registry, and the managers themselves by family.

Not here: anything that a component could reach without its context: sockets, clocks, threads and etcd belong to the
layers below. Families never import each other.
"""

from amino.dm.base import ClientBase, Manager, ServerBase, Trait
from amino.dm.checkpointing import PeriodicCheckpoint
from amino.dm.control import Control, ControlContext, control, operation
from amino.dm.mobility import ExplicitMigration
from amino.dm.primitives import AtLeastOnceRPC
from amino.dm.serializability import SerializableRPC

__all__ = [
    "AtLeastOnceRPC",
    "ClientBase",
    "Control",
    "ControlContext",
    "ExplicitMigration",
    "Manager",
    "PeriodicCheckpoint",
    "SerializableRPC",
    "ServerBase",
    "Trait",
    "control",
    "operation",
]
