"""Managers that move objects. Not here: migration itself, which the kernel and the OMS do."""

from amino.dm.mobility.explicit_migration import ExplicitMigration

__all__ = ["ExplicitMigration"]
