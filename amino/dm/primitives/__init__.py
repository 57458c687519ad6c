"""Managers that stand alone: retries. Not here: anything that keeps state."""

from amino.dm.primitives.at_least_once import AtLeastOnceRPC

__all__ = ["AtLeastOnceRPC"]
