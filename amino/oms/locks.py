"""One lock per microservice, kept only while somebody uses it.

Owns telling when one is free again. Leaves taking turns to ``KeyedLocks`` and what locks protect to ``leader``.
Invariant: one holder per id; first come, first served.
Failure behaviour: a cancelled waiter leaves no trace.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from amino.aio.keyed import KeyedLocks


class Locks(KeyedLocks[str]):
    """Locks by microservice id.

    Attributes:
        released: set (and replaced) whenever a lock nobody waits for is released.
    """

    def __init__(self) -> None:
        super().__init__()
        self.released = asyncio.Event()

    @asynccontextmanager
    async def hold(self, key: str) -> AsyncIterator[None]:
        """Wait for the lock of the microservice ``key`` and hold it."""
        try:
            async with super().hold(key):
                yield
        finally:
            if key not in self:
                released, self.released = self.released, asyncio.Event()
                released.set()
