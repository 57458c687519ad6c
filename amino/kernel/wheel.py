"""What is due when, for all timers of all objects of one kernel server: one heap, one timer of the loop.

Owns waiting, and sending a due timer's call into the dispatcher. Leaves what a timer does to ``own_calls``.
Invariants: an entry that is not its timer's next occurrence any more is dropped; at most ``FIRING_MAX`` calls run at once, and
``PER_OBJECT_MAX`` of one object; memory grows with the timers, not with how often they are set.
Failure behaviour: a call that was refused is sent again, with back-off per object; one whose outcome is not known too, unless
its timer has gone on meanwhile.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
import threading
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from amino import limits
from amino.contracts.calls import CallHead, encode_call_head
from amino.contracts.own import FIRE_CALL
from amino.errors import AminoError
from amino.wire import codec
from amino.wire.frames import FrameKind, Status, decode_error

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from amino.aio.clock import Clock
    from amino.kernel.object import KernelObject
    from amino.kernel.timers import Timer
    from amino.rpc.port import Inbound

_log = logging.getLogger("amino.kernel")
FIRING_MAX = 128
PER_OBJECT_MAX = 16
LOOK_EVERY_S = 1.0  # somebody may set the wall clock
RETRY_S_MIN = 0.05
RETRY_S_MAX = 0.5
_REBUILD_MIN = 1024

Place = tuple[str, str]


class _Entry(NamedTuple):
    due_s: float
    order: int
    place: Place
    name: str
    timer_id: str
    number: int


class _Due:
    """What is due of one object."""

    __slots__ = ("again", "running", "trouble", "waiting")

    def __init__(self) -> None:
        self.waiting: deque[_Entry] = deque()
        self.running = 0
        self.trouble = 0
        self.again: asyncio.TimerHandle | None = None


class TimerWheel:
    """The timers of one kernel server. Made on its loop; ``arm`` may be called from any thread.

    Args:
        find: returns the kernel object at a place, or None.
        handle: runs a call, as if its frame had just been read.
    """

    def __init__(
        self,
        find: Callable[[str, str], KernelObject | None],
        handle: Callable[[Inbound], None],
        clock: Clock,
    ) -> None:
        self._find = find
        self._handle = handle
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._heap: list[_Entry] = []
        self._rebuild_at = _REBUILD_MIN
        self._order = itertools.count()
        self._wake: asyncio.TimerHandle | None = None
        self._wake_s = float("inf")
        self._due: dict[Place, _Due] = {}
        self._ready: deque[Place] = deque()
        self._firing = 0
        self._closed = False

    def __repr__(self) -> str:
        return f"TimerWheel({len(self._heap)} entries, {self._firing} firing)"

    # --- what is due when ------------------------------------------------------------------------------------------

    def arm(self, target: KernelObject, timer: Timer) -> None:
        """Have the next occurrence of ``timer`` fire. From any thread."""
        place = (target.microservice, target.path)
        entry = _Entry(timer.due_s, next(self._order), place, timer.name, timer.id, timer.number)
        with self._lock:
            heapq.heappush(self._heap, entry)
            if len(self._heap) >= self._rebuild_at:
                self._rebuild()
            sooner = entry.due_s < self._wake_s
            if sooner:
                self._wake_s = entry.due_s
        if sooner and not self._closed:
            self._loop.call_soon_threadsafe(self._plan)

    def adopt(self, target: KernelObject) -> None:
        """Have all timers of a replica fire that begins to serve; what was refused before is tried again at once."""
        place = (target.microservice, target.path)
        due = self._due.get(place)
        if due is not None and due.again is not None:
            due.again.cancel()
            due.trouble = 0
            self._loop.call_soon(self._again, place, due)
        if target.tables is not None:
            for timer in target.tables.all_timers():
                self.arm(target, timer)

    def close(self) -> None:
        """Fire nothing more. Idempotent."""
        self._closed = True
        for handle in (self._wake, *(due.again for due in self._due.values())):
            if handle is not None:
                handle.cancel()

    def _rebuild(self) -> None:
        """Drop entries of timers that were cancelled, replaced or done otherwise."""
        self._heap = [entry for entry in self._heap if self._timer(entry) is not None]
        heapq.heapify(self._heap)
        self._rebuild_at = max(_REBUILD_MIN, 2 * len(self._heap))

    def _timer(self, entry: _Entry) -> Timer | None:
        target = self._find(*entry.place)
        if target is None or target.tables is None:
            return None
        return target.tables.pending(entry.name, entry.timer_id, entry.number)

    def _plan(self) -> None:
        """Wait for the first entry; on the loop."""
        if self._wake is not None:
            self._wake.cancel()
            self._wake = None
        with self._lock:
            self._wake_s = self._heap[0].due_s if self._heap else float("inf")
        if self._wake_s < float("inf") and not self._closed:
            delay_s = min(max(self._wake_s - self._clock.wall(), 0.0), LOOK_EVERY_S)
            self._wake = self._loop.call_later(delay_s, self._look)

    def _look(self) -> None:
        self._wake = None
        now_s = self._clock.wall()
        due = []
        with self._lock:
            while self._heap and self._heap[0].due_s <= now_s:
                due.append(heapq.heappop(self._heap))
        for entry in due:
            found = self._due.get(entry.place)
            if found is None:
                found = self._due[entry.place] = _Due()
            found.waiting.append(entry)
            self._ready.append(entry.place)
        self._plan()
        self._fire()

    # --- firing ----------------------------------------------------------------------------------------------------

    def _fire(self) -> None:
        """Start what is due, as far as the bounds allow."""
        while self._ready and self._firing < FIRING_MAX and not self._closed:
            place = self._ready.popleft()
            due = self._due.get(place)
            if due is None or not due.waiting or due.again is not None:
                continue
            if due.running >= (1 if due.trouble else PER_OBJECT_MAX):
                continue  # looked at again when one of them ends
            entry = due.waiting.popleft()
            timer = self._timer(entry)
            if timer is None:
                self._next(place, due)
                continue
            target = self._find(*place)
            assert target is not None
            due.running += 1
            self._firing += 1
            self._handle(_Fired(self, target, timer, entry))

    def ended(self, entry: _Entry, status: int, head: bytes) -> None:
        """A call was answered. From any thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._ended, entry, status, head)

    def _ended(self, entry: _Entry, status: int, head: bytes) -> None:
        self._firing -= 1
        due = self._due[entry.place]
        due.running -= 1
        if status != Status.ERROR:
            due.trouble = 0
        else:
            self._refused(entry, due, decode_error(head))
        self._next(entry.place, due)
        self._fire()

    def _refused(self, entry: _Entry, due: _Due, error: AminoError) -> None:
        if self._timer(entry) is None or self._closed:
            return  # it is not here any more, or has run after all
        due.waiting.appendleft(entry)
        delay_s = min(RETRY_S_MIN * 2**due.trouble, RETRY_S_MAX)
        due.trouble = min(due.trouble + 1, 10)
        if due.trouble == 1:
            _log.info("timer %s of %s is tried again: %s", entry.name, entry.place[0], error)
        if due.again is None:
            due.again = self._loop.call_later(delay_s, self._again, entry.place, due)

    def _again(self, place: Place, due: _Due) -> None:
        due.again = None
        self._next(place, due)
        self._fire()

    def _next(self, place: Place, due: _Due) -> None:
        if due.waiting:
            self._ready.append(place)
        elif not due.running and due.again is None:
            self._due.pop(place, None)


class _Peer:
    trusted = True
    role = "server"
    address = "here"


class _Link:
    peer = _Peer()


class _Fired:
    """The call of a due timer, as the dispatcher takes calls (``rpc.port.Inbound``)."""

    __slots__ = ("_entry", "_wheel", "head", "segments")
    kind = FrameKind.CALL
    link: Any = _Link()

    def __init__(self, wheel: TimerWheel, target: KernelObject, timer: Timer, entry: _Entry) -> None:
        self._wheel = wheel
        self._entry = entry
        number, segments = codec.encode_arguments((timer.name, timer.id, timer.number), {}, trusted=True)
        self.segments = [memoryview(segment) for segment in segments]
        sequence = timer.number + 1
        self.head = encode_call_head(
            CallHead(
                target.microservice,
                target.path,
                target.epoch,
                f"{FIRE_CALL}{timer.method}",
                f"timer-{timer.id}",
                target.microservice,
                sequence,
                (),
                sequence,  # the occurrences before are settled, also where this one makes nested calls
                0,
                0.0,
                limits.DEADLINE_S_DEFAULT,
                number,
            )
        )

    def reply(self, status: int, head: bytes, segments: Sequence[Any] = ()) -> None:  # noqa: ARG002 - see Inbound
        self._wheel.ended(self._entry, status, bytes(head))
