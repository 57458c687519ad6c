"""What there is to see while the demo runs.

Owns the state that views show. Leaves showing to ``live`` and ``plain``.
Invariant: written by the scenario's thread, read by views at any moment.
Failure behaviour: none of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, Self

if TYPE_CHECKING:
    from amino.cli.demo.failover import Failover
    from amino.cli.demo.meter import Meter
    from amino.cli.demo.workload import People


@dataclass(slots=True)
class ServerLine:
    """One server: its state, its objects and its incarnation."""

    name: str
    state: str = "starting"
    objects: int = 0
    incarnation: int = 0


@dataclass(slots=True)
class Board:
    """The state shown.

    Args:
        told: called with each new line of the log.
    """

    meter: Meter
    people: People
    clients: int
    began: float = field(default_factory=time.monotonic)
    stage: str = ""
    servers: list[ServerLine] = field(default_factory=list)
    failovers: list[Failover] = field(default_factory=list)
    log: list[tuple[float, str]] = field(default_factory=list)
    told: Callable[[float, str], None] | None = None

    def tell(self, text: str) -> None:
        """Add a line to the log."""
        at = time.monotonic() - self.began
        self.log.append((at, text))
        if self.told is not None:
            self.told(at, text)


class View(Protocol):
    """Shows a board from entering to leaving."""

    def __enter__(self) -> Self:
        """Begin to show."""
        ...

    def __exit__(self, *exc: object) -> None:
        """End."""
        ...

    def tick(self) -> None:
        """Called often; shows what is due."""
        ...
