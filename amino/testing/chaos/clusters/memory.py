"""Pressing a process by memory: a control group with a limit, nearly used up by a helper beside it.

Owns control groups and the helper. Leaves which process is meant to faults.
Invariants: the process gets back into the group that it came from, and a group that was limited has its limit back; the helper is what
the system would end first, and ends with us; groups of processes that are gone are removed with the next one.
Failure behaviour: ``unusable`` says why there can be no pressure here; what the system refuses is ``OSError``.
"""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
from pathlib import Path

import psutil

from amino.testing.chaos.clusters import hog

GROUPS = Path("/sys/fs/cgroup")
TAKEN_BYTES = 512 << 20
USED_SHARE = 0.97
_PREFIX = "amino-chaos-"
_VERSIONS = (
    ("cgroup.controllers", "memory.max", "memory.current", "inactive_file", "max"),
    ("memory.limit_in_bytes", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file", "-1"),
)


def unusable() -> str:
    """Return why no process can be pressed here, empty if it may well be possible."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "control groups need Linux and root"
    root = _root()
    if root is None or not os.access(root, os.W_OK):
        return "there are no control groups of memory that can be written to"
    return ""


def _root() -> Path | None:
    if "memory" in _read(GROUPS / "cgroup.subtree_control").split():
        return GROUPS
    return GROUPS / "memory" if (GROUPS / "memory" / "memory.limit_in_bytes").exists() else None


class Squeeze:
    """Pressure on one process. All methods block.

    Args:
        pid: of the process. contained: it is pressed in the group that it is in, which is its container's.
    """

    def __init__(self, pid: int, *, contained: bool = False) -> None:
        root = _root()
        if root is None or unusable():
            raise OSError(errno.EPERM, unusable() or "no control groups")
        _remove_left_behind(root)
        self._pid = pid
        self._files = _VERSIONS[root != GROUPS]
        self._before = root / _group_of(pid, first=root != GROUPS).lstrip("/")
        self._group = self._before if contained else root / f"{_PREFIX}{os.getpid()}-{pid}"
        self._limit_before = _read(self._group / self._files[1]).strip() if contained else ""
        self._hog: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        return f"Squeeze({self._pid} in {self._group})"

    def press(self) -> int:
        """Let nearly all be used of what the process may have; returns the limit in bytes."""
        if self._group != self._before:
            self._group.mkdir(exist_ok=True)
            self._move(self._pid, self._group)
        self._hog = subprocess.Popen(
            [sys.executable, "-P", "-S", hog.__file__, str(TAKEN_BYTES)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._hog.stdin is not None
        assert self._hog.stdout is not None
        self._move(self._hog.pid, self._group)
        self._hog.stdin.write(b"take\n")
        self._hog.stdin.flush()
        if not self._hog.stdout.readline():
            raise OSError(errno.ENOMEM, "the helper could not take its memory")
        _, limit_file, usage_file, cache, _ = self._files
        noted = dict(line.split() for line in _read(self._group / "memory.stat").splitlines())
        used = int(_read(self._group / usage_file)) - int(noted.get(cache, 0))
        limit = int(used / USED_SHARE)
        (self._group / limit_file).write_text(str(limit), encoding="ascii")
        return limit

    def release(self) -> None:
        """Take the pressure away. Idempotent."""
        if self._group.exists() and (self._limit_before or self._group != self._before):
            with contextlib.suppress(OSError):
                (self._group / self._files[1]).write_text(self._limit_before or self._files[4], encoding="ascii")
        held, self._hog = self._hog, None
        if held is not None:
            with contextlib.suppress(OSError):
                held.communicate()
        if self._group != self._before and self._group.exists():
            for pid in _read(self._group / "cgroup.procs").split():
                with contextlib.suppress(OSError):  # it has ended meanwhile
                    self._move(int(pid), self._before)
            self._group.rmdir()

    @property
    def presses(self) -> bool:
        """Whether the helper holds its memory."""
        return self._hog is not None and self._hog.poll() is None

    def _move(self, pid: int, group: Path) -> None:
        (group / "cgroup.procs").write_text(str(pid), encoding="ascii")


def _group_of(pid: int, *, first: bool) -> str:
    for line in _read(Path(f"/proc/{pid}/cgroup")).splitlines():
        controllers, _, path = line.partition(":")[2].partition(":")
        if ("memory" in controllers.split(",")) if first else controllers == "":
            return path
    raise OSError(errno.ESRCH, f"process {pid} is in no control group of memory")


def _remove_left_behind(root: Path) -> None:
    for group in root.glob(f"{_PREFIX}*"):
        maker = group.name.removeprefix(_PREFIX).partition("-")[0]
        if maker.isdigit() and not psutil.pid_exists(int(maker)):
            with contextlib.suppress(OSError):  # somebody is still in it
                group.rmdir()


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError:
        return ""
