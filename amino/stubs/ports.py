"""What a runtime needs from the process it lives in.

Owns these Protocols. Leaves them to the composition root.
Invariant: the runtime imports none of their providers.
Failure behaviour: as each method says.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from amino.contracts.calls import Call
    from amino.wire import codec


class Local(Protocol):
    """The kernel server this runtime is part of, for co-located calls."""

    @property
    def server(self) -> str:
        """Its name."""
        ...

    @property
    def incarnation(self) -> int:
        """Its incarnation."""
        ...

    async def serve_local(
        self, call: Call, epoch: int, number: int, segments: Sequence[codec.Buffer]
    ) -> tuple[int, bytes, Sequence[Any]]:
        """Run a call whose arguments are encoded in ``segments``, by codec ``number``; they share nothing with ours."""
        ...

    def valid(self) -> bool:
        """Whether its session is valid: while not, no nested call is sent."""
        ...


class Hosting(Protocol):
    """The device that a client's process is, as its user sees it."""

    @property
    def name(self) -> str:
        """Its name."""
        ...

    @property
    def incarnation(self) -> int:
        """The incarnation that serves; 0 while none does."""
        ...

    @property
    def address(self) -> str:
        """``host:port`` of its peer link; empty while it does not serve."""
        ...

    @property
    def is_serving(self) -> bool:
        """Whether it has a session and answers calls."""
        ...

    def leave(self) -> None:
        """Hand all replicas over, then leave the cluster; the process stays connected as a client. Blocks; idempotent.

        Raises:
            NotExecuted: something could not be handed over in time; nothing is lost, and the device stays.
        """
        ...


class ClassCode(Protocol):
    """How servers can have a class: by import path, or by a bundle too."""

    @property
    def path(self) -> str:
        """``module:QualifiedName``."""
        ...

    @property
    def sha256(self) -> str:
        """Of the bundle; empty when the path is enough."""
        ...

    @property
    def content(self) -> bytes | None:
        """The bundle."""
        ...
