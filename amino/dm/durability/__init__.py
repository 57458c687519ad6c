"""Managers that make each call durable before it is acknowledged. Not here: the log itself (``amino.dm.durable_log``)."""

from amino.dm.durability.durable_serializable import DurableSerializableRPC

__all__ = ["DurableSerializableRPC"]
