"""What a server component sees of the world: clock, randomness, its object, checkpoints, background tasks.

Owns ``ReplicaContext``. Leaves behaviour to the parts it hands out.
Invariant: everything a component starts ends with its replica.
Failure behaviour: a background task that fails is logged with the microservice's id; the replica serves on.
"""

from __future__ import annotations

import asyncio
import logging
import random
from typing import TYPE_CHECKING, Any

from amino.aio.mode import on
from amino.aio.tasks import TaskOwner

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from amino.aio.clock import Clock
    from amino.contracts.component import Checkpoints
    from amino.kernel.object import KernelObject

_log = logging.getLogger("amino.kernel")


class ReplicaContext:
    """Implements ``contracts.component.ServerContext`` for one replica."""

    def __init__(
        self,
        target: KernelObject,
        *,
        server: str,
        clock: Clock,
        checkpoints: Callable[[KernelObject], Checkpoints],
        on_event: Callable[[str, str, str], None],
        seed: int,
    ) -> None:
        self.microservice = target.microservice
        self.path = target.path
        self.replica = target.replica
        self.server = server
        self.clock = clock
        self._seed = seed
        self._random: random.Random | None = None
        self.object = target
        self._make_checkpoints = checkpoints
        self._checkpoints: tuple[int, Checkpoints] | None = None
        self._on_event = on_event
        self._loop = asyncio.get_running_loop()
        self._tasks: TaskOwner | None = None

    @property
    def random(self) -> random.Random:
        """Random numbers, made on first use: most components need none, and the state is large."""
        if self._random is None:
            self._random = random.Random(self._seed)
        return self._random

    @property
    def checkpoints(self) -> Checkpoints:
        """The checkpoints of this replica's group, at its present epoch."""
        if self._checkpoints is None or self._checkpoints[0] != self.object.epoch:
            self._checkpoints = (self.object.epoch, self._make_checkpoints(self.object))
        return self._checkpoints[1]

    def spawn(self, coroutine: Coroutine[Any, Any, None], name: str) -> Callable[[], Awaitable[None]]:
        """Run ``coroutine`` on the server's loop until it ends or the replica leaves; call on that loop."""
        if self._tasks is None:
            self._tasks = TaskOwner(f"replica {self.microservice}")
        task = self._tasks.spawn(coroutine, name)

        async def stop() -> None:
            task.cancel()
            await asyncio.wait([task])

        return stop

    def event(self, kind: str, **fields: Any) -> None:
        """Record something an operator should see; from any thread."""
        text = ", ".join(f"{key}: {value}" for key, value in fields.items())
        _log.info("%s %s %s", kind, self.microservice, text)
        self._on_event(kind, self.microservice, text)

    async def aclose(self) -> None:
        """End everything components started. Idempotent."""
        if self._tasks is not None:
            await on(self._loop, self._tasks.aclose())
