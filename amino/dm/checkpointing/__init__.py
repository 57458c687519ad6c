"""Managers that keep state in the checkpoint store. Not here: the store and the manifests (``amino.checkpoint``)."""

from amino.dm.checkpointing.explicit import ExplicitCheckpoint
from amino.dm.checkpointing.periodic import PeriodicCheckpoint

__all__ = ["ExplicitCheckpoint", "PeriodicCheckpoint"]
