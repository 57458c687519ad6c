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


class Target:
    """The caller's state for one microservice.

    Args:
        after: sequences given out are higher.

    Attributes:
        chain: what ``forward`` was composed of.
        stale: server, incarnation, address and epoch that are known to be out of date.
    """

    __slots__ = ("_lock", "_outstanding", "_sequence", "chain", "forward", "location", "microservice", "name", "stale")

    def __init__(self, microservice: str, name: str = "", after: int = 0) -> None:
        self.microservice = microservice
        self.name = name
        self.location: Location | None = None
        self.forward: Forward | None = None
        self.chain: tuple[DmSpec, ...] = ()
        self.stale: tuple[str, int, str, int] | None = None
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
        with self._lock:
            self._sequence += 1
            self._outstanding[self._sequence] = None
            return self._sequence, next(iter(self._outstanding))

    def settle(self, sequence: int) -> None:
        """The caller has its outcome, or gave up: the sequence may be forgotten everywhere."""
        with self._lock:
            self._outstanding.pop(sequence, None)

    def where(self, path: str) -> tuple[GroupLocation, ReplicaLocation] | None:
        """Return group and replica to call, or None when they must be looked up."""
        location = self.location
        if location is None:
            return None
        group = location.groups.get(path)
        if group is None or not group.replicas:
            return None
        if group.primary:
            for replica in group.replicas:
                if replica.id == group.primary:
                    return group, replica
        return group, group.replicas[0]
