"""A folder for files that a supervisor and its kernel processes share by memory.

Owns making it, removing it, and removing those of supervisors that were killed, which could not do so themselves.
Invariant: what belongs to a living supervisor is never removed: each holds a lock on a file in its folder, which has its name only
once it is locked.
Failure behaviour: what cannot be looked into or removed is left; without file locks (Windows) nothing of others is removed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

if sys.platform != "win32":
    import fcntl

MEMORY = Path("/dev/shm")  # noqa: S108 - private folders are made in it
PREFIX = "amino-"
_OWNER = "owner"


@contextlib.contextmanager
def shared_folder(memory: Path = MEMORY) -> Iterator[Path]:
    """Make a private folder, in memory where the system has such a place; removed at the end, or by whoever comes next.

    Args:
        memory: that place.
    """
    where = memory if memory.is_dir() and os.access(memory, os.W_OK) else Path(tempfile.gettempdir())
    _remove_orphans(where)
    with tempfile.TemporaryDirectory(prefix=PREFIX, dir=where, ignore_cleanup_errors=True) as name:
        folder = Path(name)
        with (folder / f"{_OWNER}.new").open("wb") as owner:
            if sys.platform != "win32":
                fcntl.flock(owner, fcntl.LOCK_EX)
                (folder / f"{_OWNER}.new").rename(folder / _OWNER)
            yield folder


def _remove_orphans(where: Path) -> None:
    if sys.platform == "win32":
        return
    for folder in where.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError), (folder / _OWNER).open("rb") as owner:  # no such file, not ours, or locked
            fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
