"""A small disk for a checkpoint store: a file system of its own in a file, which can be filled, slowed and frozen.

Owns making, filling, freezing and removing it. Leaves what is kept on it to the cluster.
Invariants: what is frozen is thawed when whoever froze it ends, in whatever way; disks of processes that are gone are removed
with the next one.
Failure behaviour: ``unusable`` says why there can be none here; what the system refuses is ``OSError`` with its words.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import selectors
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil

from amino.errors import Invalid
from amino.testing.chaos.clusters import freezer

_PREFIX = "amino-disk-"
_IMAGE = "image"
_MOUNTED = "mounted"
_FILLER = "filler"
_BLOCK_BYTES = 64 << 10
_MOST_S = 60.0
"""Nobody freezes for longer, whatever became of who should have ended it."""


def unusable() -> str:
    """Return why no disk can be made here, empty if it may well be possible."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "mounting a file system needs Linux and root"
    missing = [tool for tool in ("mkfs.ext4", "mount", "umount") if shutil.which(tool) is None]
    return f"there is no {missing[0]}; install it (Debian: apt install e2fsprogs mount)" if missing else ""


class Disk:
    """A file system of some MiB. All methods block.

    Args:
        size_mib: of it, 8 or more.

    Raises:
        OSError: the system does not let us make one.
    """

    def __init__(self, size_mib: int) -> None:
        why = unusable()
        if why:
            raise OSError(errno.EPERM, why)
        _remove_left_behind()
        self._home = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=place_in_memory()))
        self._freezer: subprocess.Popen[bytes] | None = None
        image = self._home / _IMAGE
        self._mounted = self._home / _MOUNTED
        try:
            self._home.chmod(0o755)  # servers in containers run as somebody else
            self._mounted.mkdir()
            with image.open("wb") as file:
                file.truncate(size_mib << 20)
            _do("mkfs.ext4", "-q", "-m", "0", "-O", "^has_journal", str(image))
            _do("mount", "-o", "loop", str(image), str(self._mounted))
            self.folder.mkdir()
            self.folder.chmod(0o777)
        except BaseException:
            self.close()
            raise

    def __repr__(self) -> str:
        return f"Disk({self._mounted})"

    @property
    def folder(self) -> Path:
        """Where to keep files; what fills the disk is not in there."""
        return self._mounted / "store"

    @property
    def free_bytes(self) -> int:
        """How much can still be written."""
        found = os.statvfs(self._mounted)
        return found.f_bavail * found.f_frsize

    def fill(self) -> int:
        """Write until nothing more fits; returns how many bytes that took."""
        written = 0
        with (self._mounted / _FILLER).open("ab", buffering=0) as file:
            size = _BLOCK_BYTES
            while size:
                try:
                    written += file.write(bytes(size))
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    size //= 2
        return written

    def is_full(self) -> bool:
        """Whether the system refuses a file of one block for want of space."""
        probe = self._mounted / "probe"
        try:
            probe.write_bytes(bytes(_BLOCK_BYTES))
        except OSError as error:
            if error.errno == errno.ENOSPC:
                return True
            raise
        finally:
            with contextlib.suppress(FileNotFoundError):
                probe.unlink()
        return False

    def empty(self) -> None:
        """Remove what ``fill`` wrote. Idempotent."""
        with contextlib.suppress(FileNotFoundError):
            (self._mounted / _FILLER).unlink()

    def freeze(self, frozen_s: float = math.inf, thawed_s: float = 0.0) -> None:
        """Let every write wait: for ``frozen_s`` seconds, then none for ``thawed_s``, and again, until ``thaw``.

        Raises:
            Invalid: it is frozen already. OSError: the system refused.
        """
        if self._freezer is not None:
            raise Invalid(f"{self!r} is frozen already; thaw it first")
        seconds = [f"{min(frozen_s, _MOST_S):g}", f"{thawed_s:g}"]
        self._freezer = subprocess.Popen(
            [sys.executable, "-P", "-S", freezer.__file__, str(self._mounted), *seconds],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        assert self._freezer.stdout is not None
        if not self._freezer.stdout.readline():
            _, complaint = self._freezer.communicate()
            self._freezer = None
            raise OSError(errno.EIO, f"{self!r} cannot be frozen: {complaint.decode().strip()[-200:]}")

    def freezes(self, within_s: float) -> bool:
        """Wait, at most so long, until it was frozen once more; returns whether it was."""
        if self._freezer is None or self._freezer.stdout is None:
            return False
        with selectors.DefaultSelector() as ready:
            ready.register(self._freezer.stdout, selectors.EVENT_READ)
            return bool(ready.select(within_s)) and bool(self._freezer.stdout.readline())

    @property
    def is_frozen(self) -> bool:
        """Whether somebody freezes it."""
        return self._freezer is not None and self._freezer.poll() is None

    def thaw(self) -> None:
        """Let all writes go on. Idempotent."""
        held, self._freezer = self._freezer, None
        if held is not None:
            held.communicate()

    def close(self) -> None:
        """Remove it with all that it holds. Idempotent."""
        self.thaw()
        _remove(self._home)


def place_in_memory() -> str:
    """Return where files go that must cost nothing, on a disk that a fault or a start of a container keeps busy: in memory if that can be."""
    memory = Path("/dev/shm")  # noqa: S108 - it is where Linux has it
    return str(memory) if memory.is_dir() and os.access(memory, os.W_OK) else tempfile.gettempdir()


def _do(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        raise OSError(errno.EIO, f"{command[0]} failed: {done.stderr.decode(errors='replace').strip()[-200:]}")


def _remove(home: Path) -> None:
    mounted = home / _MOUNTED
    if mounted.is_mount():
        with contextlib.suppress(OSError):
            _do("umount", "--lazy", str(mounted))
    shutil.rmtree(home, ignore_errors=True)


def _remove_left_behind() -> None:
    for home in Path(place_in_memory()).glob(f"{_PREFIX}*"):
        pid = home.name.removeprefix(_PREFIX).partition("-")[0]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            _remove(home)
