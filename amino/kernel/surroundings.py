"""What kernel objects need from the process they live in.

Owns these Protocols. Leaves them to the composition root.
Invariant: a kernel object reaches the world through them only.
Failure behaviour: none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from amino.aio.clock import Clock


class FlightBoard(Protocol):
    """Where running methods are noted, so that a process's death can be laid at somebody's door."""

    def enter(self, microservice: str, method: str) -> int:
        """Note that ``method`` starts; returns a cell for ``leave``."""
        ...

    def leave(self, cell: int) -> None:
        """Note that it ended."""
        ...


class Validity(Protocol):
    """The session, as far as replies go."""

    def valid(self) -> bool:
        """Whether this incarnation may act right now."""
        ...

    async def wait_valid(self, hold_s: float) -> bool:
        """Wait at most ``hold_s`` seconds for validity; returns whether it came."""
        ...


class Surroundings(Protocol):
    """What an object needs from the process it lives in."""

    clock: Clock
    board: FlightBoard
    runtime: Any
    server: str
    incarnation: int
    labels: dict[str, str]
    hold_s: float
    dedup_horizon_s: float
