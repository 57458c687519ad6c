"""How much memory this process may still take: of the machine, and of the control groups that it is in.

Owns reading what the system says. Leaves what follows from it to ``kernel.pressure``.
Invariant: a container or service with a limit of its own is short of memory when that is nearly used up, however much the machine has.
Failure behaviour: what cannot be read limits nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil

GROUPS = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")
_FILES = (
    ("memory.max", "memory.current", "inactive_file"),  # version 2
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),  # version 1
)


def available_memory(groups: Path = GROUPS, own: Path = OWN) -> float:
    """Return the share of memory that is available to this process, 0 to 1: the least of machine and control groups.

    Args:
        groups: where the system has control groups. own: where it says in which of them this process is.
    """
    memory = psutil.virtual_memory()
    shares = [memory.available / memory.total]
    for folder in _own_groups(groups, own):
        for limit_file, usage_file, cache in _FILES:
            limit = _number(folder / limit_file)
            usage = _number(folder / usage_file)
            if limit is None or usage is None or not 0 < limit < memory.total:
                continue
            free = limit - usage + _noted(folder / "memory.stat", cache)
            shares.append(min(max(free / limit, 0.0), 1.0))
    return float(min(shares))


def _own_groups(groups: Path, own: Path) -> Iterator[Path]:
    """Yield the control groups that count our memory, each with all above it; in a container, its own is the uppermost."""
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers == "":
            root = groups
        elif "memory" in controllers.split(","):
            root = groups / "memory"
        else:
            continue
        folder = root / path.lstrip("/")
        while folder != root:
            yield folder
            folder = folder.parent
        yield root


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # not there, or "max"
        return None


def _noted(file: Path, name: str) -> int:
    try:
        for line in file.read_text(encoding="utf-8").splitlines():
            if line.startswith(f"{name} "):
                return int(line.split()[1])
    except (OSError, ValueError):
        return 0
    return 0
