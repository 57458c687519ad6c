"""One lock per microservice, kept only while somebody uses it.

Owns the locks. Leaves what they protect to ``leader``. Invariant: one holder per id; first come, first served.
Failure behaviour: a cancelled waiter leaves no trace.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Locks:
    """Locks by microservice id.

    Attributes:
        released: set (and replaced) whenever a lock nobody waits for is released.
    """

    def __init__(self) -> None:
        self._locks: dict[str, tuple[asyncio.Lock, list[None]]] = {}
        self.released = asyncio.Event()

    def __repr__(self) -> str:
        return f"Locks({len(self._locks)} held)"

    def ids(self) -> list[str]:
        """Return the ids whose lock is held or waited for."""
        return list(self._locks)

    def is_held(self, ms_id: str) -> bool:
        """Return whether the lock of ``ms_id`` is held."""
        return ms_id in self._locks

    @asynccontextmanager
    async def hold(self, ms_id: str) -> AsyncIterator[None]:
        """Wait for the lock of ``ms_id`` and hold it."""
        lock, users = self._locks.setdefault(ms_id, (asyncio.Lock(), []))
        users.append(None)
        try:
            async with lock:
                yield
        finally:
            users.pop()
            if not users:
                del self._locks[ms_id]
                released, self.released = self.released, asyncio.Event()
                released.set()
