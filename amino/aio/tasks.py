"""The one module that spawns background tasks.

Owns ``TaskGroupOwner``: every task has an owner, which cancels and awaits it. Leaves what tasks do to their owners.
Invariant: after ``aclose`` no task of this owner is left.
Failure behaviour: a task that ends by an unexpected exception, or by a cancellation that nobody asked for, is logged and handed
to ``on_failure``; never dropped.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from amino.aio.eager import Eager

_log = logging.getLogger("amino.tasks")
T = TypeVar("T")


class TaskOwner:
    """Spawns tasks and answers for them.

    Args:
        name: shown in logs.
        on_failure: called on the loop with the exception of a task that failed unexpectedly.

    Attributes:
        closed: whether it starts no more tasks.
    """

    def __init__(self, name: str, on_failure: Callable[[BaseException], None] | None = None) -> None:
        self._name = name
        self._on_failure = on_failure
        self._tasks: dict[asyncio.Task[Any], None] = {}  # a dict keeps the order
        self._eager: Eager | None = None
        self.closed = False

    def __repr__(self) -> str:
        return f"TaskOwner({self._name}, {len(self._tasks)} tasks)"

    @property
    def count(self) -> int:
        """How many tasks are running."""
        return len(self._tasks)

    def spawn(self, coroutine: Coroutine[Any, Any, T], name: str = "") -> asyncio.Task[T]:
        """Start ``coroutine`` as a task of this owner; needs a running loop. Refused after ``aclose``."""
        if self.closed:
            coroutine.close()
            raise RuntimeError(f"{self._name} is closed and starts no more tasks")
        task = asyncio.get_running_loop().create_task(coroutine, name=f"{self._name}:{name}")
        self._tasks[task] = None
        task.add_done_callback(self._ended)
        return task

    def start(self, coroutine: Coroutine[Any, Any, T], name: str = "") -> tuple[T] | asyncio.Task[T]:
        """As ``spawn``, but run ``coroutine`` at once, right here, until it ends or waits for something.

        Returns:
            Its result, in a tuple, if it has ended, else its task.

        Raises:
            BaseException: what it raised before it waited for anything. RuntimeError: as ``spawn``.
        """
        if self.closed:
            coroutine.close()
            raise RuntimeError(f"{self._name} is closed and starts no more tasks")
        eager = self._eager
        if eager is None:
            eager = self._eager = Eager(asyncio.get_running_loop())
        started = eager.start(coroutine)
        if type(started) is tuple:
            return started
        task: asyncio.Task[T] = started  # type: ignore[assignment]
        task.set_name(f"{self._name}:{name}")
        self._tasks[task] = None
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.pop(task, None)
        error: BaseException | None
        if not task.cancelled():
            error = task.exception()
        elif self.closed or task.cancelling():
            return
        else:  # nobody asked for it: something that the task waited for was cancelled under it
            error = asyncio.CancelledError("cancelled, although nobody asked for that")
        if error is not None:
            _log.error("task %s failed", task.get_name(), exc_info=error)
            if self._on_failure is not None:
                self._on_failure(error)

    async def aclose(self) -> None:
        """Cancel all tasks and wait for them, except the one that calls. Idempotent."""
        self.closed = True
        me = asyncio.current_task()
        tasks = [task for task in self._tasks if task is not me]
        for task in tasks:
            task.cancel()
        if self._eager is not None:
            tasks += self._eager.close()
        if tasks:
            await asyncio.wait(tasks)
