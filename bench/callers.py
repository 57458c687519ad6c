"""Clients that call without a pause while something happens to the cluster, and remember every call.

Owns the threads and tasks that call, and what they saw. Leaves what happens, and judging it, to the benchmarks.
Invariant: an acknowledgement is noted before the next call begins.
Failure behaviour: a call that fails is noted with its error; the caller goes on.
"""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

PAUSE_S = 0.01
"""A caller that fails at once must not spin."""


@dataclass(frozen=True, slots=True)
class Called:
    """One call: when it began and ended (``time.perf_counter``), and its result or error."""

    began: float
    ended: float
    result: Any = None
    error: str = ""

    @property
    def took(self) -> float:
        """Seconds it took."""
        return self.ended - self.began


@dataclass(slots=True)
class Callers:
    """As many threads as there are ``calls``, each calling its own again and again; and tasks that do so on one loop.

    Args:
        calls: what to call.
        calls_max: most calls of each thread and task.
        awaited: what to call and await, each in a task of one event loop; they count on after ``calls``.
    """

    calls: Sequence[Callable[[], Any]]
    calls_max: int = 1_000_000
    awaited: Sequence[Callable[[], Awaitable[Any]]] = ()
    _seen: list[list[Called]] = field(default_factory=list)
    _threads: list[threading.Thread] = field(default_factory=list)
    _progress: threading.Condition = field(default_factory=threading.Condition)
    _stop: bool = False

    def __enter__(self) -> Self:
        self._seen = [[] for _ in (*self.calls, *self.awaited)]
        self._threads = [
            threading.Thread(target=self._run, args=(call, seen), daemon=True)
            for call, seen in zip(self.calls, self._seen, strict=False)
        ]
        if self.awaited:
            self._threads.append(threading.Thread(target=lambda: asyncio.run(self._run_awaited()), daemon=True))
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop = True
        for thread in self._threads:
            thread.join(60)

    @property
    def seen(self) -> list[Called]:
        """All calls of all threads so far, by their end."""
        return sorted((each for calls in self._seen for each in list(calls)), key=lambda each: each.ended)

    def of(self, number: int) -> list[Called]:
        """Return all calls of one caller so far, in their order."""
        return list(self._seen[number])

    def first_good_after(self, moment: float, timeout_s: float) -> Called | None:
        """Wait until some call that began after ``moment`` has succeeded and return the first; None in time-out."""
        end = time.perf_counter() + timeout_s
        with self._progress:
            while True:
                good = [
                    each
                    for calls in self._seen
                    for each in reversed(calls[-1000:])
                    if each.began >= moment and not each.error
                ]
                if good:
                    return min(good, key=lambda each: each.ended)
                left = end - time.perf_counter()
                if left <= 0:
                    return None
                self._progress.wait(min(left, 0.5))

    def _run(self, call: Callable[[], Any], seen: list[Called]) -> None:
        while not self._stop and len(seen) < self.calls_max:
            began = time.perf_counter()
            try:
                result = call()
            except Exception as error:  # noqa: BLE001 - noted; the benchmark judges it
                self._failed(seen, began, error)
                time.sleep(PAUSE_S)
            else:
                self._note(seen, Called(began, time.perf_counter(), result))

    async def _run_awaited(self) -> None:
        async def again(call: Callable[[], Awaitable[Any]], seen: list[Called]) -> None:
            while not self._stop and len(seen) < self.calls_max:
                began = time.perf_counter()
                try:
                    result = await call()
                except Exception as error:  # noqa: BLE001 - as in a thread
                    self._failed(seen, began, error)
                    await asyncio.sleep(PAUSE_S)
                else:
                    self._note(seen, Called(began, time.perf_counter(), result))

        await asyncio.gather(*map(again, self.awaited, self._seen[len(self.calls) :]))

    def _failed(self, seen: list[Called], began: float, error: Exception) -> None:
        self._note(seen, Called(began, time.perf_counter(), error=f"{type(error).__name__}: {error}"))

    def _note(self, seen: list[Called], called: Called) -> None:
        seen.append(called)
        with self._progress:
            self._progress.notify_all()
