"""Checkpoints in a dictionary, for simulation and unit tests only.

Owns nothing outside this process. Leaves faults to wrappers. Invariants: as ``store``, short of surviving the process.
Failure behaviour: none of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from amino.checkpoint.names import check_prefix, parts_of
from amino.checkpoint.store import Buffer, StoredFile
from amino.errors import AlreadyExists


class MemoryCheckpointStore:
    """A store that all kernel servers of a simulated cluster share.

    Args:
        now: the wall clock that stamps files.
    """

    blocks = False
    url = "memory://"

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._files: dict[str, tuple[bytes, float]] = {}

    def __repr__(self) -> str:
        return f"MemoryCheckpointStore({len(self._files)} files)"

    def write(self, key: str, parts: Sequence[Buffer]) -> None:
        """Store ``parts`` under ``key``."""
        parts_of(key)
        if key in self._files:
            raise AlreadyExists(
                f"{key!r} is already in the store; names are written once: choose a fresh one", name=key
            )
        self._files[key] = (b"".join(parts), self._now())

    def read(self, key: str) -> bytes | None:
        """Return the content of ``key``, None if there is no such file."""
        parts_of(key)
        found = self._files.get(key)
        return None if found is None else found[0]

    def exists(self, key: str) -> bool:
        """Return whether ``key`` has been written."""
        return self.read(key) is not None

    def delete(self, key: str) -> None:
        """Remove ``key``."""
        parts_of(key)
        self._files.pop(key, None)

    def list(self, prefix: str) -> list[StoredFile]:
        """Return all files below ``prefix``, in order of their names."""
        check_prefix(prefix)
        return [
            StoredFile(key, len(content), at)
            for key, (content, at) in sorted(self._files.items())
            if key.startswith(prefix)
        ]

    def open_segment(self, key: str) -> MemorySegment:
        """Create the segment ``key``."""
        self.write(key, [b""])
        return MemorySegment(self, key)

    def read_segment(self, key: str) -> tuple[bytes, bool] | None:
        """Return what was appended to ``key``."""
        content = self.read(key)
        return None if content is None else (content, False)

    def delete_segment(self, key: str) -> None:
        """Remove it."""
        self.delete(key)

    def extend(self, key: str, data: Buffer) -> None:
        """Add ``data`` to ``key``, which stays gone if it was deleted."""
        found = self._files.get(key)
        if found is not None:
            self._files[key] = (found[0] + bytes(data), self._now())

    def sweep(self, older_than_s: float) -> int:
        """Do nothing: writes are never interrupted."""
        del older_than_s
        return 0

    def close(self) -> None:
        """Do nothing."""


class MemorySegment:
    """Implements ``store.Segment``."""

    def __init__(self, store: MemoryCheckpointStore, key: str) -> None:
        self._store = store
        self._key = key

    def append(self, data: Buffer) -> None:
        """Add ``data``."""
        self._store.extend(self._key, data)

    def note(self, data: Buffer) -> bool:
        """Add ``data``."""
        self._store.extend(self._key, data)
        return True

    def close(self) -> None:
        """Do nothing."""
