"""The word that says until when a session is valid: written by who holds the session, read by who acts under it.

Owns how the word is stored: in a file mapped by supervisor and child, or in memory. Leaves its meaning to ``session``.
Invariants: the word is one aligned 64-bit float, stored and loaded at once, so a reader never sees half of it; each
incarnation has its own word, so nothing begun under one is valid under the next.
Failure behaviour: 0.0 (never valid) until the first publication; opening a missing or short file raises ``Invalid``.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Protocol

from amino.errors import Invalid

_SIZE = 8
NEVER = 0.0


class DeadlineWord(Protocol):
    """A place for one deadline, in seconds of ``Clock.boottime``."""

    def publish(self, deadline_boottime_s: float) -> None:
        """Store the deadline; ``NEVER`` ends validity at once."""
        ...

    def read(self) -> float:
        """Load the deadline."""
        ...


class LocalDeadline:
    """A deadline word within one process."""

    __slots__ = ("_deadline",)

    def __init__(self) -> None:
        self._deadline = NEVER

    def publish(self, deadline_boottime_s: float) -> None:
        """See ``DeadlineWord``."""
        self._deadline = deadline_boottime_s

    def read(self) -> float:
        """See ``DeadlineWord``."""
        return self._deadline


class SharedDeadline:
    """A deadline word in a file that supervisor and child map; made by ``create`` and ``open``.

    A memory view stores and loads an item of its own width with one machine instruction on the platforms we support.
    """

    def __init__(self, path: Path, memory: mmap.mmap) -> None:
        self.path = path
        self._memory = memory
        self._words = memoryview(memory).cast("d")
        self.read: Callable[[], float] = partial(self._words.__getitem__, 0)
        """See ``DeadlineWord``. Without a Python frame: this is on the path of every reply."""

    def __repr__(self) -> str:
        return f"SharedDeadline({self.path})"

    @classmethod
    def create(cls, path: str | Path) -> SharedDeadline:
        """Make the file (it must not exist) and map it for writing.

        Raises:
            FileExistsError: a word of another incarnation is there; each has its own file.
        """
        path = Path(path)
        with path.open("x+b") as file:
            path.chmod(0o600)
            file.write(bytes(_SIZE))
            file.flush()
            return cls(path, mmap.mmap(file.fileno(), _SIZE, access=mmap.ACCESS_WRITE))

    @classmethod
    def open(cls, path: str | Path) -> SharedDeadline:
        """Map an existing word for reading only.

        Raises:
            Invalid: there is no such file, or it is too short.
        """
        path = Path(path)
        try:
            with path.open("rb") as file:
                return cls(path, mmap.mmap(file.fileno(), _SIZE, access=mmap.ACCESS_READ))
        except (OSError, ValueError) as error:
            raise Invalid(f"deadline word {path}: {error}; the supervisor makes it before it starts a child") from error

    def publish(self, deadline_boottime_s: float) -> None:
        """See ``DeadlineWord``; only on a word that was created here."""
        self._words[0] = deadline_boottime_s

    def close(self) -> None:
        """Unmap; the word cannot be used after. Idempotent; the file stays for its owner to remove."""
        self._words.release()
        self._memory.close()
