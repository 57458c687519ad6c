"""Starting coroutines at once, in the place of the caller, instead of a turn of the event loop later.

Owns ``Eager``, which runs a coroutine's first step under a task of its own that was made before, and hands the rest to that
task if the coroutine suspends. Most short coroutines never do, and then cost no task. Leaves answering for tasks that go on to
``aio.tasks``.
Invariants: what a coroutine sees is what it would see in a new task: a context of its own, and a ``current_task`` that is its
alone. A task is used for a second coroutine only if the first has ended and nobody can have kept, cancelled or watched it.
Failure behaviour: what the first step raises is raised to the caller; after that it is the task's.
"""

# ruff: noqa: SLF001 - asyncio keeps what task implementations need under such names, most of it documented

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from sys import getrefcount
from typing import Any, TypeVar
from weakref import getweakrefcount

T = TypeVar("T")

_SPARES_MAX = 4
_enter_task = asyncio._enter_task
_leave_task = asyncio._leave_task
_current_task: Callable[[asyncio.AbstractEventLoop], asyncio.Task[Any] | None] = (
    asyncio.current_task if sys.version_info >= (3, 12) else asyncio.tasks._current_tasks.get  # type: ignore[attr-defined]
)


class _Carrier(Coroutine[Any, Any, Any]):
    """The coroutine of a spare task: waits until it is given a coroutine that has begun, and carries that on."""

    __slots__ = ("__weakref__", "_context", "_first", "_loop", "_over", "_parked", "_rest", "task")
    __name__ = "carrier"
    task: asyncio.Task[Any]

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._parked: asyncio.Future[None] | None = None
        self._rest: Coroutine[Any, Any, Any] | None = None
        self._context: Context | None = None
        self._first: list[Any] = []
        self._over = False

    def __await__(self) -> Any:
        raise TypeError(f"a {self.__name__} coroutine is for a task of its own; nobody awaits it")

    def carry(self, rest: Coroutine[Any, Any, Any], first: Any, context: Context) -> None:
        """Go on with ``rest``, which has begun in ``context`` and waits for ``first``."""
        self._rest, self._context = rest, context
        self._first.append(first)
        self._wake()

    def retire(self) -> None:
        """End the task: its coroutine has ended without it."""
        self._over = True
        self._wake()

    def _wake(self) -> None:
        if self._parked is not None and not self._parked.done():
            self._parked.set_result(None)

    def send(self, value: Any) -> Any:
        """Take a step of what is carried."""
        rest, context = self._rest, self._context
        if rest is None or context is None:
            if self._over:
                raise StopIteration(None)
            parked = self._parked = self._loop.create_future()
            parked._asyncio_future_blocking = True  # what awaiting a future does
            return parked
        if self._first:
            return self._first.pop()
        return context.run(rest.send, value)

    def throw(self, kind: Any, value: Any = None, traceback: Any = None) -> Any:  # noqa: ARG002 - the coroutine's
        """Raise an error, such as the task's cancellation, in what is carried."""
        error = kind if value is None else value
        rest, context = self._rest, self._context
        if rest is None or context is None:
            raise error
        if self._first:  # cancelled before the task came to wait for it
            first = self._first.pop()
            cancel = getattr(first, "cancel", None)
            if cancel is not None:
                if cancel():
                    return first
                first._asyncio_future_blocking = False
        return context.run(rest.throw, error)

    def close(self) -> None:
        """End what is carried."""
        if self._rest is not None:
            self._rest.close()


class Eager:
    """Starts coroutines of one owner on one event loop; use it on that loop."""

    __slots__ = ("_loop", "_retired", "_room", "_spares")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._spares: list[_Carrier] = []
        self._retired: set[asyncio.Task[Any]] = set()
        self._room = _SPARES_MAX

    def __repr__(self) -> str:
        return f"Eager({len(self._spares)} spare tasks)"

    def start(self, coroutine: Coroutine[Any, Any, T]) -> tuple[T] | asyncio.Task[T]:
        """Run ``coroutine`` until it ends or waits for something.

        Returns:
            Its result, in a tuple, if it has ended, else the task that carries it on.

        Raises:
            BaseException: what the coroutine raised in its first step.
        """
        loop = self._loop
        carrier = self._spares.pop() if self._spares else self._spare()
        task = carrier.task
        context = copy_context()
        outer = _current_task(loop)
        if outer is not None:
            _leave_task(loop, outer)
        references, watchers = getrefcount(task), getweakrefcount(task)
        _enter_task(loop, task)
        try:
            first = context.run(coroutine.send, None)
        except StopIteration as stop:
            result: tuple[T] = (stop.value,)
        except BaseException:
            self._retire(carrier)  # the error's traceback may know the task
            raise
        else:
            carrier.carry(coroutine, first, context)
            return task
        finally:
            _leave_task(loop, task)
            if outer is not None:
                _enter_task(loop, outer)
        spares = self._spares
        if (
            getrefcount(task) == references
            and getweakrefcount(task) == watchers
            and not task._callbacks
            and not task.cancelling()
            and len(spares) < self._room
        ):
            spares.append(carrier)
        else:
            self._retire(carrier)
        return result

    def _spare(self) -> _Carrier:
        carrier = _Carrier(self._loop)
        carrier.task = self._loop.create_task(carrier, name="spare")
        return carrier

    def _retire(self, carrier: _Carrier) -> None:
        self._retired.add(carrier.task)
        carrier.task.add_done_callback(self._retired.discard)
        carrier.retire()

    def close(self) -> list[asyncio.Task[Any]]:
        """End the tasks that carry nothing and return them, to be waited for."""
        self._room = 0
        spares, self._spares = self._spares, []
        for spare in spares:
            self._retire(spare)
        return list(self._retired)
