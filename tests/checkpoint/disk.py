"""A model of what a power loss leaves of the files of a store.

Owns following its system calls. Leaves the store as it is. Invariant: pessimistic: what was not synced is never relied on.
Failure behaviour: a name that precedes its content is noted in ``violations``.
"""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import pytest


class Disk:
    """Follows the system calls of a store and knows what a power loss could leave at each moment.

    Content is safe once its file was synced after the last write; an entry of a folder once the folder was synced after
    the entry was made. What is not safe may be there or not, and content that is not safe may be anything.

    Args:
        really: whether syncs are carried out.
    """

    def __init__(self, root: Path, patch: pytest.MonkeyPatch, *, really: bool = True) -> None:
        self.root = str(root)
        self.safe_content: set[int] = set()
        self.safe_entries: set[str] = set()
        self.entries: dict[str, int] = {}
        self._unsafe_entries: set[str] = set()
        self.violations: list[str] = []
        self._open: dict[int, str] = {}
        self._synced_size: dict[int, int] = {}
        real = {name: getattr(os, name) for name in ("open", "write", "fsync", "link", "replace", "mkdir", "close")}

        def opened(path: Any, flags: int, mode: int = 0o777, **more: Any) -> int:
            descriptor: int = real["open"](path, flags, mode, **more)
            self._open[descriptor] = str(path)
            if flags & os.O_CREAT:
                self._made(str(path))
            return descriptor

        def wrote(descriptor: int, data: Any) -> int:
            self.safe_content.discard(os.fstat(descriptor).st_ino)
            return int(real["write"](descriptor, data))

        def synced(descriptor: int) -> None:
            if really:
                real["fsync"](descriptor)
            path = self._open[descriptor]
            if os.path.isdir(path):
                synced_now = {entry for entry in self._unsafe_entries if os.path.dirname(entry) == path}
                self.safe_entries |= synced_now
                self._unsafe_entries -= synced_now
            else:
                status = os.fstat(descriptor)
                self.safe_content.add(status.st_ino)
                self._synced_size[status.st_ino] = status.st_size

        def linked(source: Any, target: Any, **more: Any) -> None:
            real["link"](source, target, **more)
            self._made(str(target))

        def replaced(source: Any, target: Any, **more: Any) -> None:
            real["replace"](source, target, **more)
            self._made(str(target))

        def made_folder(path: Any, mode: int = 0o777, **more: Any) -> None:
            real["mkdir"](path, mode, **more)
            self._made(str(path))

        for name, function in {
            "open": opened,
            "write": wrote,
            "fsync": synced,
            "fdatasync": synced,
            "link": linked,
            "replace": replaced,
            "mkdir": made_folder,
        }.items():
            patch.setattr(os, name, function)

    def _made(self, path: str) -> None:
        inode = os.stat(path).st_ino
        self.entries[path] = inode
        self.safe_entries.discard(path)
        self._unsafe_entries.add(path)
        visible = os.path.isfile(path) and ".partial" not in path and not path.endswith(".log")
        if visible and inode not in self.safe_content:
            self.violations.append(f"{path} got its name before its content was synced")

    def survives(self, path: Path) -> bool:
        """Return whether the file is there, whole, after a power loss now."""
        on_the_way = [path, *[parent for parent in path.parents if str(parent).startswith(self.root)]]
        return os.stat(path).st_ino in self.safe_content and all(
            str(entry) in self.safe_entries or str(entry) not in self.entries for entry in on_the_way
        )

    def lose_power(self, chosen: random.Random) -> None:
        """Leave of each file what was synced, and of the rest something, nothing or zeros, as it happens."""
        for path in [*Path(self.root).rglob("*")]:
            if not path.is_file():
                continue
            if str(path) in self.entries and str(path) not in self.safe_entries and chosen.random() < 0.5:
                path.unlink()
                continue
            status = path.stat()
            kept = self._synced_size.get(status.st_ino, 0)
            rest = status.st_size - kept
            if rest > 0:
                length = kept + chosen.choice([0, rest, chosen.randrange(rest + 1)])
                with path.open("r+b") as file:
                    file.truncate(length)
                    if chosen.random() < 0.3:
                        file.seek(kept)
                        file.write(bytes(length - kept))
