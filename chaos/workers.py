"""The workers of a run: each calls its workload, again and again, until it is told to stop.

Owns their tasks and their pace. Leaves what a step is to the workload.
Invariants: a worker has one step at a time; what a worker does is drawn from the seed, its number and its workload.
Failure behaviour: a step that raises, or is not answered long after the end, is told in words; nothing is left running.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Sequence
from typing import Self

from amino.aio.tasks import TaskOwner
from amino.testing.chaos.workloads.base import Workload

STEP_S = 45.0


class Workers:
    """All workers of one run; an async context manager.

    Args:
        count: of each workload. pause_s: longest pause between two steps.

    Attributes:
        problems: what went wrong with them, known after ``finish``.
    """

    def __init__(self, workloads: Sequence[Workload], count: int, seed: int, pause_s: float) -> None:
        self.problems: list[str] = []
        self._workloads = workloads
        self._count, self._seed, self._pause_s = count, seed, pause_s
        self._owner = TaskOwner("chaos workers")
        self._stop = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._tasks = [
            self._owner.spawn(self._work(workload, worker), f"{workload.name} {worker}")
            for workload in self._workloads
            for worker in range(self._count)
        ]
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._owner.aclose()

    async def finish(self) -> None:
        """Let every worker end its step."""
        self._stop.set()
        done, hanging = await asyncio.wait(self._tasks, timeout=STEP_S)
        if hanging:
            self.problems.append(f"{len(hanging)} calls are not answered {STEP_S:g} s after the end")
        for task in done:
            error = task.exception()
            if error is not None:
                self.problems.append(f"{task.get_name()} raised {type(error).__name__}: {error}")

    async def _work(self, workload: Workload, worker: int) -> None:
        drawn = random.Random(f"{self._seed}/{workload.name}/{worker}")
        while not self._stop.is_set():
            await workload.step(worker, drawn)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), drawn.uniform(0.0, self._pause_s))
