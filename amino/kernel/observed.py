"""How long calls of one replica take, measured only while somebody wants to know.

Owns the measuring of one replica. Leaves who asks, and when it ends, to the host.
Invariants: a replica that nobody observes pays one comparison per call; what is kept is bounded.
Failure behaviour: none.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from amino.contracts.services import ObserveReply

if TYPE_CHECKING:
    from amino.rpc.port import Buffer, Inbound, Link

OBSERVED_S = 30.0
"""Measuring ends when nobody has asked for so long."""
OBSERVED_MAX = 1024


class Observed:
    """Durations of one replica's calls; they are noted from any thread."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.now = now
        self._since = now()
        self._durations: deque[float] = deque(maxlen=OBSERVED_MAX)  # one atomic operation each: no lock
        self._calls = 0
        self._ends: asyncio.TimerHandle | None = None

    def note(self, began: float) -> None:
        """Note a call that began then and ends now."""
        self._durations.append(self.now() - began)
        self._calls += 1

    def end_later(self, end: Callable[[], None]) -> None:
        """Call ``end`` in ``OBSERVED_S`` seconds, unless this is called again; on the loop."""
        self.cancel()
        self._ends = asyncio.get_running_loop().call_later(OBSERVED_S, end)

    def cancel(self) -> None:
        """Forget about the end. Idempotent."""
        if self._ends is not None:
            self._ends.cancel()
            self._ends = None

    def reply(self, replica: str, in_flight: int) -> ObserveReply:
        """Return what was measured."""
        durations = sorted(self._durations)
        last = len(durations) - 1

        def at(share: float) -> float:
            return durations[round(last * share)] * 1000.0 if durations else 0.0

        return ObserveReply(replica, self.now() - self._since, self._calls, at(0.5), at(0.99), at(1.0), in_flight)


class Timed:
    """A request whose answer is timed; stands for the ``Inbound`` it was made of."""

    __slots__ = ("_began", "_inbound", "_observed", "head", "link", "segments")

    def __init__(self, inbound: Inbound, observed: Observed) -> None:
        self._inbound = inbound
        self._observed = observed
        self._began = observed.now()
        self.link: Link = inbound.link
        self.head: bytes = inbound.head
        self.segments: list[memoryview] = inbound.segments

    @property
    def kind(self) -> int:
        """See ``Inbound.kind``."""
        return self._inbound.kind

    def reply(self, status: int, head: bytes, segments: Sequence[Buffer] = ()) -> None:
        """See ``Inbound.reply``."""
        self._observed.note(self._began)
        self._inbound.reply(status, head, segments)
