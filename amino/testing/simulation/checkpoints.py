"""Each machine's way to the shared checkpoint store, with the faults of a network file system.

Owns delays, refusals and torn writes. Leaves the files to ``checkpoint.memory_store``.
Invariants: deterministic for a seed; what a machine was doing when it was killed is either done or not, or torn where
that was asked for.
Failure behaviour: ``StoreFailed`` while the store is down.
"""

from __future__ import annotations

import asyncio
import random as random_module
from collections.abc import Callable
from typing import Any, TypeVar

from amino.checkpoint.access import StoreAccess
from amino.checkpoint.memory_store import MemoryCheckpointStore
from amino.errors import StoreFailed

T = TypeVar("T")


class SimulatedAccess(StoreAccess):
    """One machine's access to the shared store.

    Args:
        store: shared by all machines.
        random: of delays.
        delay_s: shortest and longest time of one operation.

    Attributes:
        down: every operation fails.
        slow_s: added to each operation.
        tear: called with the file's name when the next write is to be torn: half of it is stored, and the caller is to
            die.
    """

    def __init__(
        self,
        store: MemoryCheckpointStore,
        random: random_module.Random,
        delay_s: tuple[float, float] = (0.0002, 0.002),
    ) -> None:
        super().__init__(store)
        self.down = False
        self.slow_s = 0.0
        self.tear: Callable[[str], None] | None = None
        self._random = random
        self._delay_s = delay_s

    def calm(self) -> None:
        """End whatever goes wrong."""
        self.down, self.slow_s, self.tear = False, 0.0, None

    async def run(self, function: Callable[..., T], *args: Any, timeout_s: float | None = None) -> T:
        """See ``StoreAccess.run``."""
        limit = self.timeout_s if timeout_s is None else timeout_s
        delay_s = self._random.uniform(*self._delay_s) + self.slow_s
        await asyncio.sleep(min(delay_s, limit) / 2)
        if delay_s > limit:
            raise StoreFailed(f"{self.store.url} did not answer within {limit:g} s", kind="timeout", begun=True)
        if self.down:
            raise StoreFailed(f"{self.store.url} is down, as the simulation wants it", kind="down")
        if self.tear is not None and _writes(function, args):
            tear, self.tear = self.tear, None
            key, content = str(args[0]), bytes(args[1])
            self.store.write(key, [content[: len(content) // 2]])
            tear(key)
            await asyncio.Event().wait()  # the process is dead by now
        result = function(*args)
        await asyncio.sleep(delay_s / 2)
        return result


def _writes(function: Callable[..., Any], args: tuple[Any, ...]) -> bool:
    """Tell the operation that stores a checkpoint, ``ReplicaCheckpoints._store_file(key, snapshot)``, from others."""
    return getattr(function, "__name__", "") == "_store_file" and len(args) == 2
