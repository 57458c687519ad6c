"""The levels of a chain: which of its managers form groups, and what each group is made of.

Owns the shape of ``Level``. Leaves deriving levels to ``amino.dm`` and acting on them to the OMS.
Invariant: levels are in the chain's order; the last one's replicas are kernel objects, each member of an earlier one is a
whole group of the next.
Failure behaviour: none.
"""

from __future__ import annotations

from typing import Literal

import msgspec


class Level(msgspec.Struct, frozen=True, omit_defaults=True):
    """One manager that forms a group.

    Args:
        manager: its name. place: its place in the chain, from 0.
        kind: ``replicated`` (alike copies, one of them primary) or ``shards`` (each holds a part).
        members: how many replicas or shards are wanted.
        min_in_sync: fewest in-sync replicas with which writes are accepted.
        regions: the regions that replicas must be in, one each where possible; empty for anywhere.
        preferred_region: where the primary should be; empty for anywhere.
        early: writes are acknowledged before the others have them: the one that has most follows a lost primary.
        devices: replicas belong on devices; servers stand in up to ``min_in_sync``.
    """

    manager: str
    place: int
    kind: Literal["replicated", "shards"]
    members: int = 1
    min_in_sync: int = 1
    regions: tuple[str, ...] = ()
    preferred_region: str = ""
    devices: bool = False
    early: bool = False


def leaf(levels: tuple[Level, ...]) -> Level | None:
    """Return the level whose members are kernel objects, None where there is one replica only."""
    return levels[-1] if levels and levels[-1].kind == "replicated" else None


def sharding(levels: tuple[Level, ...]) -> Level | None:
    """Return the level of shards, None if there is none."""
    return next((level for level in levels if level.kind == "shards"), None)
