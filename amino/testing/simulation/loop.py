"""Virtual time and simulated processes: an event loop that jumps to the next timer, and contexts that can stand still.

Owns time, the order of everything that happens, and freezing and killing of simulated processes. Leaves what processes
send each other to the memory adapters of the ports.
Invariants: no thread, no wall clock, no system call; one program with one seed runs in one order; nothing of a frozen
process runs before it is thawed, nothing of a killed one ever, not even its clean-up.
Failure behaviour: ``Deadlock`` when nothing is left that could ever happen; what a callback raises goes to the loop's
exception handler.
"""

# ruff: noqa: SLF001 - an event loop is made of the private parts of asyncio's handles

from __future__ import annotations

import asyncio
import contextvars
import heapq
from collections.abc import Callable, Coroutine
from enum import Enum
from typing import Any, TypeVar, cast

from amino.errors import AminoError

T = TypeVar("T")
STARTS_AT_S = 1000.0
WALL_S = 1_700_000_000.0
_CANCELLED_TIMERS_MAX = 256
_TASKS_PRUNED_AT = 128
_ENDINGS_MAX = 100


class Deadlock(AminoError):
    """Every simulated process waits, and nothing is scheduled that could wake one. Never raised outside simulations."""


class State(Enum):
    """Whether a simulated process runs."""

    RUNNING = "running"
    FROZEN = "frozen"
    DEAD = "dead"


class Process:
    """A simulated process: whatever was started in its context, and what that started.

    Args:
        loop: where it runs.
        name: for logs.
    """

    def __init__(self, loop: VirtualLoop, name: str) -> None:
        self.name = name
        self.state = State.RUNNING
        self.context = contextvars.Context()
        self.context.run(PROCESS.set, self)
        self._loop = loop
        self._held: list[asyncio.Handle] = []
        self._tasks: dict[asyncio.Task[Any], None] = {}

    def __repr__(self) -> str:
        return f"Process({self.name}, {self.state.value})"

    @property
    def running(self) -> bool:
        """Whether it runs."""
        return self.state is State.RUNNING

    @property
    def frozen(self) -> bool:
        """Whether it is frozen."""
        return self.state is State.FROZEN

    @property
    def dead(self) -> bool:
        """Whether it was killed."""
        return self.state is State.DEAD

    def run(self, function: Callable[..., T], *args: Any) -> T:
        """Call ``function`` as this process, at once, whatever its state; for setting it up."""
        return self.context.copy().run(function, *args)

    def spawn(self, coroutine: Coroutine[Any, Any, T], name: str = "") -> asyncio.Task[T]:
        """Start ``coroutine`` as a task of this process."""
        return self._loop.create_task(coroutine, name=f"{self.name}:{name}", context=self.context.copy())

    def call_soon(self, callback: Callable[..., object], *args: Any) -> None:
        """Have ``callback`` called by this process as soon as it runs."""
        self._loop.call_soon(callback, *args, context=self.context)

    def freeze(self) -> None:
        """Stop it, as SIGSTOP does; its clocks go on."""
        if self.state is State.RUNNING:
            self.state = State.FROZEN

    def thaw(self) -> None:
        """Let it run on: everything that came due meanwhile happens now, in order."""
        if self.state is State.FROZEN:
            self.state = State.RUNNING
            held, self._held = self._held, []
            self._loop.again(held)

    def kill(self) -> None:
        """End it, as SIGKILL does: nothing of it ever runs again."""
        self.state = State.DEAD

    def own(self, task: asyncio.Task[Any]) -> None:
        """Keep ``task``, so that no collector of garbage runs its clean-up after the process was killed."""
        self._tasks[task] = None
        if len(self._tasks) % _TASKS_PRUNED_AT == 0:
            self._tasks = {one: None for one in self._tasks if not one.done()}

    def hold(self, handle: asyncio.Handle) -> None:
        """Take a callback that came due while the process does not run."""
        self._held.append(handle)

    def end(self) -> list[asyncio.Task[Any]]:
        """Cancel what is left of it once the simulation is over; returns the tasks that end now.

        Only now, and in order: were it left to the garbage collector, clean-up would run at any time.
        """
        self.state = State.RUNNING
        held, self._held = self._held, []
        self._loop.again(held)
        tasks = [task for task in self._tasks if not task.done()]
        for task in tasks:
            task.cancel()
        return tasks


PROCESS: contextvars.ContextVar[Process | None] = contextvars.ContextVar("amino_simulated_process", default=None)


class VirtualLoop(asyncio.BaseEventLoop):
    """An event loop on virtual time: when nothing is ready, time jumps to the next timer.

    Attributes:
        now: virtual seconds.
        steps: callbacks run so far; with ``now`` a fingerprint of a run.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = STARTS_AT_S
        self.steps = 0
        self._selector = None
        self.processes: list[Process] = []

    def time(self) -> float:
        """Return the virtual time in seconds."""
        return self.now

    def process(self, name: str) -> Process:
        """Make a simulated process."""
        process = Process(self, name)
        self.processes.append(process)
        return process

    def again(self, handles: list[asyncio.Handle]) -> None:
        """Put back callbacks that were held."""
        cast("Any", self)._ready.extend(handles)

    def create_task(  # type: ignore[override]
        self, coroutine: Any, *, name: str | None = None, context: contextvars.Context | None = None, **options: Any
    ) -> asyncio.Task[Any]:
        """Start a task; the process in whose context it runs owns it."""
        task = super().create_task(coroutine, name=name, context=context, **options)
        process = PROCESS.get() if context is None else context.get(PROCESS)
        if process is not None:
            process.own(task)
        return task

    def run_in_executor(self, executor: Any, function: Callable[..., T], *args: Any) -> asyncio.Future[T]:  # type: ignore[override] # noqa: ARG002
        """Call ``function`` at once: there are no threads here."""
        future: asyncio.Future[T] = self.create_future()
        try:
            future.set_result(function(*args))
        except Exception as error:  # noqa: BLE001 - handed to whoever waits for it
            future.set_exception(error)
        return future

    def call_soon_threadsafe(self, callback: Callable[..., object], *args: Any, context: Any = None) -> asyncio.Handle:  # type: ignore[override]
        """As ``call_soon``: there are no threads here."""
        return self.call_soon(callback, *args, context=context)

    def _run_once(self) -> None:
        parts = cast("Any", self)
        ready, scheduled = parts._ready, parts._scheduled
        if parts._timer_cancelled_count > _CANCELLED_TIMERS_MAX and 2 * parts._timer_cancelled_count > len(scheduled):
            kept = []
            for timer in scheduled:
                if timer._cancelled:
                    timer._scheduled = False
                else:
                    kept.append(timer)
            heapq.heapify(kept)
            parts._scheduled = scheduled = kept
            parts._timer_cancelled_count = 0
        while scheduled and scheduled[0]._cancelled:
            parts._timer_cancelled_count -= 1
            heapq.heappop(scheduled)._scheduled = False
        if not ready:
            if not scheduled:
                if parts._stopping:
                    return
                raise Deadlock("nothing is scheduled: whatever still waits here waits for ever")
            self.now = max(self.now, scheduled[0]._when)
        while scheduled and scheduled[0]._when <= self.now:
            timer = heapq.heappop(scheduled)
            timer._scheduled = False
            if timer._cancelled:
                parts._timer_cancelled_count -= 1
            else:
                ready.append(timer)
        count = len(ready)
        self.steps += count
        pop = ready.popleft
        running = State.RUNNING
        for _ in range(count):
            handle = pop()
            if handle._cancelled:
                continue
            process = handle._context.get(PROCESS)
            if process is not None and process.state is not running:
                process.hold(handle)
            else:
                handle._run()

    def _process_events(self, event_list: Any) -> None:
        """Nothing happens outside."""

    def _write_to_self(self) -> None:
        """Nobody sleeps."""


class VirtualClock:
    """The loop's time as a clock.

    Args:
        loop: whose time.
        boottime_offset_s: how far this machine's boot time is ahead of the loop's time; differs between machines, so
            that comparing boot times of two machines is noticed.

    Attributes:
        ahead_s: how far somebody has set the wall clock ahead; may be set at any time.
    """

    __slots__ = ("_loop", "_offset_s", "ahead_s")

    def __init__(self, loop: VirtualLoop, boottime_offset_s: float = 0.0) -> None:
        self._loop = loop
        self._offset_s = boottime_offset_s
        self.ahead_s = 0.0

    def monotonic(self) -> float:
        """See ``Clock.monotonic``."""
        return self._loop.now

    def boottime(self) -> float:
        """See ``Clock.boottime``."""
        return self._loop.now + self._offset_s

    def wall(self) -> float:
        """See ``Clock.wall``."""
        return WALL_S + self._loop.now + self.ahead_s


def run_virtual(main: Callable[[VirtualLoop], Coroutine[Any, Any, T]]) -> T:
    """Run ``main(loop)`` on a virtual loop of its own, then end whatever its simulated processes left.

    Raises:
        Deadlock: nothing could happen any more. RuntimeError: tasks outside of simulated processes were left behind.
    """
    loop = VirtualLoop()
    done = False
    try:
        try:
            result = loop.run_until_complete(main(loop))
            done = True
            return result
        finally:
            if not done:
                for task in asyncio.all_tasks(loop):  # what a failure leaves behind must not hide it
                    task.cancel()
            loop.run_until_complete(_end_processes(loop))
            loop.run_until_complete(loop.shutdown_asyncgens())
            left = asyncio.all_tasks(loop)
            if done and left:
                raise RuntimeError(f"left behind: {left}")
            if left:
                loop.run_until_complete(_until_ended(left))
    finally:
        loop.close()


async def _until_ended(tasks: set[asyncio.Task[Any]]) -> None:
    await asyncio.wait(tasks)


async def _end_processes(loop: VirtualLoop) -> None:
    for _ in range(_ENDINGS_MAX):
        tasks = [task for process in loop.processes for task in process.end()]
        if not tasks:
            return
        await asyncio.wait(tasks, timeout=1.0)
    raise RuntimeError(f"tasks of simulated processes do not end: {tasks}")
