"""A checkpoint store with faults on request: full, slow, torn, and one that lies about having synced.

Owns the faults. Leaves files to the store it wraps. Invariant: without a fault it behaves as the wrapped store.
Failure behaviour: as asked for.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from amino.checkpoint.store import Buffer, CheckpointStore, Segment, StoredFile
from amino.errors import StoreFailed


class FaultyStore:
    """Wraps ``inner``.

    Attributes:
        full: writes fail as on a full disk. full_for: ``checkpoint``: those of checkpoints only.
        unreachable: everything fails as when the network is away.
        torn: so many writes from now keep only half of their bytes, although they say that all went well.
        lies: writes are remembered as not synced; ``power_loss`` takes them back.
        gate: operations wait for it to open; ``entered`` tells that one does.
    """

    def __init__(self, inner: CheckpointStore) -> None:
        self.inner = inner
        self.url = inner.url
        self.blocks = inner.blocks
        self.full = False
        self.full_for = ""
        self.unreachable = False
        self.torn = 0
        self.lies = False
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self._unsynced: list[str] = []

    def power_loss(self) -> list[str]:
        """Take back what was never synced; returns the names."""
        lost, self._unsynced = self._unsynced, []
        for key in lost:
            self.inner.delete(key)
        return lost

    def damage(self, key: str, content: bytes) -> None:
        """Put other content where ``key`` is."""
        self.inner.delete(key)
        self.inner.write(key, [content])

    def write(self, key: str, parts: Sequence[Buffer]) -> None:
        self.enter()
        if self.full or (self.full_for == "checkpoint" and ".log" not in key):
            raise StoreFailed("cannot write: No space left on device; free space", kind="full")
        if self.torn:
            self.torn -= 1
            whole = b"".join(parts)
            parts = [whole[: len(whole) // 2]]
        self.inner.write(key, parts)
        if self.lies:
            self._unsynced.append(key)

    def read(self, key: str) -> bytes | None:
        self.enter()
        return self.inner.read(key)

    def exists(self, key: str) -> bool:
        self.enter()
        return self.inner.exists(key)

    def delete(self, key: str) -> None:
        self.enter()
        self.inner.delete(key)

    def list(self, prefix: str) -> list[StoredFile]:
        self.enter()
        return self.inner.list(prefix)

    def open_segment(self, key: str) -> Segment:
        self.enter()
        if self.full:
            raise StoreFailed("cannot write: No space left on device; free space", kind="full")
        return FaultySegment(self, self.inner.open_segment(key))

    def read_segment(self, key: str) -> tuple[bytes, bool] | None:
        self.enter()
        return self.inner.read_segment(key)

    def delete_segment(self, key: str) -> None:
        self.enter()
        self.inner.delete_segment(key)

    def sweep(self, older_than_s: float) -> int:
        return self.inner.sweep(older_than_s)

    def close(self) -> None:
        self.inner.close()

    def enter(self) -> None:
        self.entered.set()
        if not self.gate.wait(30):
            raise StoreFailed("the gate was never opened", kind="timeout")
        if self.unreachable:
            raise StoreFailed("cannot reach the store; check the network", kind="unreachable")


class FaultySegment:
    """A segment of a ``FaultyStore``: as full and as slow as that."""

    def __init__(self, store: FaultyStore, inner: Segment) -> None:
        self._store = store
        self._inner = inner

    def append(self, data: Buffer) -> None:
        self._store.enter()
        if self._store.full:
            raise StoreFailed("cannot append: No space left on device; free space", kind="full")
        self._inner.append(data)

    def note(self, data: Buffer) -> bool:
        return self._inner.note(data)

    def close(self) -> None:
        self._inner.close()
