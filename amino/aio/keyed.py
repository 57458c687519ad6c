"""One lock per key, made while somebody wants it.

Owns ``KeyedLocks``. Leaves what is locked to its users.
Invariants: holders of one key take turns in order of arrival; a key that nobody wants takes no memory.
Failure behaviour: a waiter that is cancelled leaves no trace.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Hashable, Iterator
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class KeyedLocks(Generic[K]):
    """Locks by key, on one event loop."""

    def __init__(self) -> None:
        self._locks: dict[K, tuple[asyncio.Lock, list[None]]] = {}

    def __repr__(self) -> str:
        return f"KeyedLocks({len(self._locks)} wanted)"

    def __len__(self) -> int:
        return len(self._locks)

    def __contains__(self, key: object) -> bool:
        return key in self._locks

    def __iter__(self) -> Iterator[K]:
        """Go through the keys whose lock is held or waited for, as they are now."""
        return iter(list(self._locks))

    @asynccontextmanager
    async def hold(self, key: K) -> AsyncIterator[None]:
        """Wait for the lock of ``key`` and hold it. Cancelling the wait gives it up."""
        lock, users = self._locks.setdefault(key, (asyncio.Lock(), []))
        users.append(None)
        try:
            async with lock:
                yield
        finally:
            users.pop()
            if not users:
                del self._locks[key]
