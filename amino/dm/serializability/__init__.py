"""Managers that order calls. Not here: durability and replication."""

from amino.dm.serializability.serializable_rpc import SerializableRPC

__all__ = ["SerializableRPC"]
