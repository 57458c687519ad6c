"""What the dashboard needs of the kernel server that serves it.

Owns the port ``Source``. Leaves implementing it to ``amino.node`` and, for tests, to whoever makes clusters up.
Invariant: reading is from what the server knows in memory, wherever ``async`` is not written.
Failure behaviour: as the services' own: ``AminoError``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from amino.contracts.documents import GroupDocument, MicroserviceRecord
from amino.contracts.services import (
    Description,
    EventInfo,
    KernelStatistics,
    Membership,
    ObserveReply,
    Registry,
)


class Source(Protocol):
    """One kernel server's view of its cluster. All methods run on its loop."""

    @property
    def server(self) -> str:
        """The name of the server whose view this is."""
        ...

    @property
    def registry(self) -> Registry:
        """What operators' actions end in."""
        ...

    def on_group(self, callback: Callable[[str], None]) -> None:
        """Call ``callback(id)`` whenever a group of a microservice changed, from now on; it must not wait."""
        ...

    def on_members(self, callback: Callable[[], None]) -> None:
        """Call ``callback()`` whenever servers, cordons, the pause or slot leaders changed, from now on."""
        ...

    def ids(self) -> list[str]:
        """Return the ids of all microservices."""
        ...

    def groups(self, microservice: str) -> dict[str, GroupDocument]:
        """Return a microservice's groups by path, none if there is no such microservice."""
        ...

    def membership(self) -> Membership:
        """Return the live servers."""
        ...

    async def records(self, generations: Mapping[str, int]) -> dict[str, MicroserviceRecord]:
        """Return the records that exist of these ids, each of at least that generation."""
        ...

    async def events(self, after: int, wait_s: float) -> tuple[EventInfo, ...]:
        """Return what happened after the revision ``after``, waiting up to ``wait_s`` seconds while that is nothing."""
        ...

    async def statistics(self) -> tuple[KernelStatistics, ...]:
        """Return the figures of the servers that answer at once."""
        ...

    async def describe(self, microservice: str) -> Description:
        """Tell everything about one microservice. Raises ``NotFound``."""
        ...

    async def observe(self, microservice: str) -> dict[str, ObserveReply]:
        """Return ``path replica`` -> how long calls took there since somebody first looked."""
        ...

    async def checkpoint(self, microservice: str) -> int:
        """Have a checkpoint taken now; returns its sequence number. Raises ``Invalid`` if no manager of it can."""
        ...
