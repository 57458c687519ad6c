"""How many servers there should be: a pure decision, from what microservices ask for.

Owns the rule. Leaves finding out the demand to ``microservices`` and changing the number to ``scaling``.
Invariants: within the bounds always; more at once when more are needed, fewer one at a time and only after ``quiet_s`` in which
fewer were enough.
Failure behaviour: none; demand that is not known changes nothing (``step`` is not called).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from amino.errors import Invalid

FULL = 0.8
"""Servers with a capacity are kept below this share of it, so that the replicas of a lost one find room."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """Least and most servers, and the seconds for which fewer must have been enough before one goes."""

    servers_min: int = 3
    servers_max: int = 9
    quiet_s: float = 600.0

    def __post_init__(self) -> None:
        if not 1 <= self.servers_min <= self.servers_max:
            raise Invalid(
                f"from {self.servers_min} to {self.servers_max} servers; give 1 or more, and no less at most than at least"
            )


@dataclass(frozen=True, slots=True)
class Demand:
    """What the cluster's microservices ask for.

    Args:
        widest: how many replicas the largest group wants, each of them on a server of its own.
        replicas: how many there are in all.
        capacity: most replicas of one server, 0 for no bound.
    """

    widest: int = 0
    replicas: int = 0
    capacity: int = 0


@dataclass(frozen=True, slots=True)
class Quiet:
    """Since when fewer servers would have been enough, on a monotonic clock; None: they would not."""

    since: float | None = None


def servers_for(demand: Demand, bounds: Bounds) -> int:
    """Return how many servers ``demand`` needs, within the bounds."""
    by_room = math.ceil(demand.replicas / (demand.capacity * FULL)) if demand.capacity else 0
    return max(bounds.servers_min, min(bounds.servers_max, max(demand.widest, by_room)))


def step(quiet: Quiet, now: float, servers: int, demand: Demand, bounds: Bounds) -> tuple[Quiet, int]:
    """Return what is remembered, and how many servers there should be now, where there are (to be) ``servers``."""
    wanted = servers_for(demand, bounds)
    if wanted >= servers:
        return Quiet(), wanted
    if servers > bounds.servers_max:
        return Quiet(), bounds.servers_max
    if quiet.since is None:
        return Quiet(now), servers
    if now - quiet.since < bounds.quiet_s:
        return quiet, servers
    return Quiet(now), servers - 1
