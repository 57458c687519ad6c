"""What a process remembers of one microservice it calls: location, chain, sequences.

Owns sequence numbers and floors (under one lock), and the cached location. Leaves sending to the runtime.
Invariants: a sequence is given out once; the floor is the lowest sequence not settled.
Failure behaviour: none; a stale location is normal.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from amino.contracts.calls import Forward
    from amino.contracts.documents import DmSpec
    from amino.contracts.services import GroupLocation, Location, ReplicaLocation
    from amino.telemetry.metrics import Series


class Target:
    """The caller's state for one microservice.

    Args:
        after: sequences given out are higher.

    Attributes:
        chain: what ``forward`` was composed of.
        stale: server, incarnation, address and epoch that are known to be out of date.
        class_name: of the user's class, for telemetry. series: counters of its calls by method, while they are counted.
    """

    __slots__ = (
        "_lock", "_outstanding", "_sequence", "chain", "class_name", "forward", "location", "microservice", "name", "series",
        "stale",
    )  # fmt: skip

    def __init__(self, microservice: str, name: str = "", after: int = 0) -> None:
        self.microservice = microservice
        self.name = name
        self.location: Location | None = None
        self.forward: Forward | None = None
        self.chain: tuple[DmSpec, ...] = ()
        self.stale: tuple[str, int, str, int] | None = None
        self.class_name = "?"
        self.series: dict[str, Series] = {}
        self._lock = threading.Lock()
        self._sequence = after
        self._outstanding: dict[int, None] = {}

    def __repr__(self) -> str:
        return f"Target({self.microservice}, {len(self._outstanding)} calls outstanding)"

    @property
    def last(self) -> int:
        """The highest sequence given out."""
        return self._sequence

    def begin(self) -> tuple[int, int]:
        """Start a call; returns (sequence, floor)."""
        outstanding = self._outstanding
        with self._lock:
            self._sequence = sequence = self._sequence + 1
            floor = next(iter(outstanding)) if outstanding else sequence
            outstanding[sequence] = None
            return sequence, floor

    def settle(self, sequence: int) -> None:
        """The caller has its outcome, or gave up: the sequence may be forgotten everywhere."""
        with self._lock:
            self._outstanding.pop(sequence, None)

    def where(self, path: str) -> tuple[GroupLocation, ReplicaLocation] | None:
        """Return group and replica to call, or None when they must be looked up."""
        location = self.location
        return place_in(location, path) if location is not None else None


def place_in(location: Location, path: str, spread: int = -1) -> tuple[GroupLocation, ReplicaLocation] | None:
    """Return the group at ``path`` of ``location`` and its replica to call, None if there is none.

    Args:
        spread: -1 for the primary, else the place of another replica, counted round.
    """
    group = location.groups.get(path)
    if group is None or not group.replicas:
        return None
    primary, first = group.primary, group.replicas[0]
    if spread >= 0:
        others = [replica for replica in group.replicas if replica.id != primary]
        if others:
            return group, others[spread % len(others)]
    if not primary or first.id == primary:
        return group, first
    for replica in group.replicas:
        if replica.id == primary:
            return group, replica
    return group, first
