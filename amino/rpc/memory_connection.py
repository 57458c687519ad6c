"""One connection of the memory transport: two ends, ordered bytes each way, delays and faults.

Owns the journey of frames between two simulated processes and how connections break. Leaves which faults hold to
``memory.MemoryNetwork`` and requests to the two ends' owners.
Invariants: what arrives in one direction arrives in the order it was sent; nothing arrives at a closed end; the same
seed and the same sends make the same journey.
Failure behaviour: a lost frame stalls its direction and later breaks the connection, as TCP would; each end hears of
the break once, when its process is not frozen.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from amino.wire.frames import FrameParser

if TYPE_CHECKING:
    import contextvars
    from collections.abc import Callable

    from amino.rpc.memory import MemoryNetwork
    from amino.wire.frames import Buffer, Frame


class MemoryEnd:
    """One end of a connection, as its process sees it.

    Args:
        context: of that process; what it does about arrivals is done in it.
    """

    def __init__(self, network: MemoryNetwork, node: str, context: contextvars.Context) -> None:
        self.network = network
        self.node = node
        self.other: MemoryEnd = self
        self.open = True
        self.close_reason = ""
        self.on_frame: Callable[[Frame], None] | None = None
        self.on_lost: Callable[[], None] | None = None
        self._parser = FrameParser(network.limits.frame_bytes_max)
        self._last_arrival = 0.0
        self._journeys: deque[Callable[[], None]] = deque()
        self._in_transit = 0
        self._stalled = False
        self._lossy = False
        self._patience: asyncio.TimerHandle | None = None
        self._held: list[bytes] = []
        self._context = context
        self._loop = asyncio.get_running_loop()

    def __repr__(self) -> str:
        return f"MemoryEnd({self.node} to {self.other.node}, {'open' if self.open else 'closed'})"

    @property
    def in_transit(self) -> int:
        """Frames sent from here that have not arrived."""
        return self._in_transit

    def send(self, parts: list[Buffer]) -> None:
        """Send one frame; it arrives later, or not at all."""
        if not self.open:
            return
        self._in_transit += 1
        self._depart(b"".join(parts))

    def _depart(self, data: bytes) -> None:
        network = self.network
        if network.is_frozen(self.node):
            network.hold(self.node, lambda: self._depart(data))
            return
        if self._stalled:
            self._held.append(data)
            return
        if network.is_cut(self.node, self.other.node):
            self._stall(data)
            return
        fate = network.random.random()
        if fate < network.loss:
            self._stall(None)
            return
        if fate < network.loss + network.reset:
            if network.random.random() < 0.5:  # half of the time the frame still arrives, and only its answer is lost
                self._travel(lambda: self._arrive(data))
            self._travel(lambda: self.break_both("the connection was reset"))
            return
        self._travel(lambda: self._arrive(data))

    def _travel(self, arrive: Callable[[], None]) -> None:
        """Do ``arrive`` after a delay, and after all that set out before (the loop does not order equal times)."""
        low, high = self.network.delay_s
        self._last_arrival = max(self._last_arrival, self._loop.time() + self.network.random.uniform(low, high))
        self._journeys.append(arrive)
        self._loop.call_at(self._last_arrival, self._next_journey_ends, context=self.network.context)

    def _next_journey_ends(self) -> None:
        self._journeys.popleft()()

    def _stall(self, data: bytes | None) -> None:
        """Hold what follows; without healing, or when a frame was lost, the connection breaks in the end."""
        self._stalled = True
        if data is None:
            self._lossy = True
        else:
            self._held.append(data)
        reason = "no acknowledgement from the peer"
        self._patience = self._loop.call_later(
            self.network.break_after_s, self.break_both, reason, context=self.network.context
        )

    def heal(self) -> None:
        """Let held frames go, late, if the way is free again."""
        if not self._stalled or self._lossy or self.network.is_cut(self.node, self.other.node):
            return
        self._stalled = False
        if self._patience is not None:
            self._patience.cancel()
        held, self._held = self._held, []
        for data in held:
            self._depart(data)

    def _arrive(self, data: bytes) -> None:
        self._in_transit -= 1
        other = self.other
        if not other.open:
            if self.network.is_up(other.node):  # a machine that came back knows nothing of this connection
                self._travel(lambda: self.lose("the connection was reset"))
            return
        if self.network.is_frozen(other.node):
            self.network.hold(other.node, lambda: other.receive(data))
        else:
            other.receive(data)

    def receive(self, data: bytes) -> None:
        """Take bytes that have arrived."""
        self._context.copy().run(self._receive, data)

    def _receive(self, data: bytes) -> None:
        if self.open and self.on_frame is not None:
            for frame in self._parser.feed(data):
                self.on_frame(frame)

    def close(self, reason: str, *, silent: bool = False) -> None:
        """Close this end now; the other hears of it after what was sent before, or never if ``silent``."""
        if not self.open:
            return
        self._end(reason)
        if not silent:
            self._travel(lambda: self._tell_other(reason))

    def _tell_other(self, reason: str) -> None:
        if self.network.is_cut(self.node, self.other.node):
            self._loop.call_later(self.network.break_after_s, self.other.lose, reason, context=self.network.context)
        else:
            self.other.lose(reason)

    def lose(self, reason: str) -> None:
        """Hear that the connection is gone; a frozen process hears it when it thaws."""
        if self.network.is_frozen(self.node):
            self.network.hold(self.node, lambda: self.lose(reason))
        else:
            self._context.copy().run(self._end, reason)

    def break_both(self, reason: str) -> None:
        """Break the connection: both ends hear of it."""
        self.lose(reason)
        self.other.lose(reason)

    def _end(self, reason: str) -> None:
        if not self.open:
            return
        self.open = False
        self.close_reason = reason
        self._held = []
        if self._patience is not None:
            self._patience.cancel()
        self.network.forget(self)
        if self.on_lost is not None:
            self.on_lost()
