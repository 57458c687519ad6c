"""Each machine's way to the shared checkpoint store, with the faults of a network file system.

Owns delays, refusals, torn writes, and what a loss of power leaves. Leaves the files to ``checkpoint.memory_store``.
Invariants: deterministic for a seed; what a machine was doing when it was killed is either done or not, or torn where
that was asked for.
Failure behaviour: ``StoreFailed`` while the store is down.
"""

from __future__ import annotations

import asyncio
import contextlib
import random as random_module
from collections.abc import Callable
from typing import Any, TypeVar

from amino.checkpoint.access import StoreAccess
from amino.checkpoint.memory_store import MemoryCheckpointStore, MemorySegment
from amino.checkpoint.store import Buffer
from amino.errors import StoreFailed

T = TypeVar("T")
ZEROS_ONLY, ZEROS_BEHIND = 0.3, 0.6
"""Up to which draw of 1 a loss of power leaves zeros, and up to which a part with zeros behind it, as long as what was written."""


class _TornError(Exception):
    pass


class SimulatedCheckpoints(MemoryCheckpointStore):
    """The store behind all machines. It knows what of a segment was synced: all but notes after the last append."""

    def __init__(self, now: Callable[[], float]) -> None:
        super().__init__(now)
        self._unsynced: dict[str, int] = {}
        self.tears: random_module.Random | None = None

    def open_segment(self, key: str) -> MemorySegment:
        """Create the segment ``key``."""
        self.write(key, [b""])
        return _SyncedSegment(self, key)

    def extend(self, key: str, data: Buffer) -> None:
        """Add ``data``, which is not synced yet; while it ``tears``, all or a part of it, and whoever writes is to die."""
        content = bytes(data)
        torn, self.tears = self.tears, None
        if torn is not None:
            content = content[: torn.randrange(2 * len(content) + 1)]
        super().extend(key, content)
        self._unsynced[key] = self._unsynced.get(key, 0) + len(content)
        if torn is not None:
            raise _TornError

    def sync(self, key: str) -> None:
        """Keep what ``key`` holds now through any loss of power."""
        self._unsynced.pop(key, None)

    def lose_power(self, random: random_module.Random) -> None:
        """Leave of what was not synced a part, or nothing, or zeros in its place or behind it."""
        for key, length in self._unsynced.items():
            content = self.read(key)
            if content is not None:
                synced, kept = len(content) - length, random.randrange(length + 1)
                what = random.random()
                tail = bytes(kept) if what < ZEROS_ONLY else content[synced : synced + kept]
                if ZEROS_ONLY <= what < ZEROS_BEHIND:
                    tail += bytes(length - kept)
                self.delete(key)
                self.write(key, [content[:synced], tail])
        self._unsynced.clear()


class _SyncedSegment(MemorySegment):
    def append(self, data: Buffer) -> None:
        super().append(data)
        self._checkpoints.sync(self._key)

    @property
    def _checkpoints(self) -> SimulatedCheckpoints:
        assert isinstance(self._store, SimulatedCheckpoints)
        return self._store


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
        tear_log: called when the next frame of an operation log is to be torn: all or a part of it is stored, as above.
        slow_until_s: when the last operation ends that was begun while the store was slow, in the loop's time.
    """

    def __init__(
        self,
        store: SimulatedCheckpoints,
        random: random_module.Random,
        delay_s: tuple[float, float] = (0.0002, 0.002),
    ) -> None:
        super().__init__(store)
        self.down = False
        self.slow_s = self.slow_until_s = 0.0
        self.tear: Callable[[str], None] | None = None
        self.tear_log: Callable[[], None] | None = None
        self._checkpoints = store
        self._random = random
        self._delay_s = delay_s

    def calm(self) -> None:
        """End whatever goes wrong."""
        self.down, self.slow_s, self.tear = False, 0.0, None
        self.tear_log = None

    async def run(self, function: Callable[..., T], *args: Any, timeout_s: float | None = None) -> T:
        """See ``StoreAccess.run``."""
        limit = self.timeout_s if timeout_s is None else timeout_s
        delay_s = self._random.uniform(*self._delay_s) + self.slow_s
        if self.slow_s:
            end_s = asyncio.get_running_loop().time() + min(delay_s, limit)
            self.slow_until_s = max(self.slow_until_s, end_s)
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
        if self.tear_log is not None and getattr(function, "__qualname__", "") == "OperationLog._write":
            tear_log, self.tear_log = self.tear_log, None
            self._checkpoints.tears = self._random
            with contextlib.suppress(_TornError):
                function(*args)
            tear_log()
            await asyncio.Event().wait()
        result = function(*args)
        await asyncio.sleep(delay_s / 2)
        return result


def _writes(function: Callable[..., Any], args: tuple[Any, ...]) -> bool:
    """Tell the operation that stores a checkpoint, ``ReplicaCheckpoints._store_file(key, snapshot)``, from others."""
    return getattr(function, "__name__", "") == "_store_file" and len(args) == 2
