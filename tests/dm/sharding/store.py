"""A sharded class for tests on real servers, and callers that know what it must answer."""

from __future__ import annotations

import fcntl
import threading
from pathlib import Path
from typing import Any, Self

import amino
from amino.errors import AminoError

EACH_ROUND = 50
"""Keys that one caller uses in turn, apart from new ones."""


class Store:
    """Counts per key. A file that a test holds locked keeps it from handing keys over."""

    def __init__(self, gate: str = "", keys: int = 0) -> None:
        self.gate = gate
        self.counts: dict[Any, int] = {f"key-{number}": 1 for number in range(keys)}

    @amino.key
    def add(self, key: Any, by: int = 1) -> int:
        """Count and return the new count."""
        self.counts[key] = self.counts.get(key, 0) + by
        return self.counts[key]

    @amino.key("key")
    def add_at(self, by: int, key: Any) -> int:
        """As ``add``, with the key in another place."""
        return self.add(key, by)

    @amino.key
    def add_behind(self, key: Any, gate: str) -> int:
        """Read, wait until nobody holds the file ``gate`` locked, and write."""
        count = self.counts.get(key, 0)
        wait_for(gate)
        self.counts[key] = count + 1
        return count + 1

    @amino.key
    def remove(self, key: Any) -> None:
        """Forget a key."""
        del self.counts[key]

    @amino.key
    @amino.readonly
    def get(self, key: Any) -> int:
        """Return a count."""
        return self.counts.get(key, 0)

    @amino.broadcast
    def fill(self, keys: int) -> None:
        """Count one for each of so many keys; of use while there is one shard."""
        self.counts.update({f"key-{number}": 1 for number in range(keys)})

    @amino.broadcast
    def tell(self, other: Any) -> int:
        """Have another store count this shard."""
        return int(other.add("told"))

    @amino.broadcast
    @amino.readonly
    def size(self) -> int:
        """Return how many keys there are."""
        return len(self.counts)

    @amino.broadcast
    @amino.readonly
    def all(self) -> dict[Any, int]:
        """Return everything."""
        return self.counts

    @amino.broadcast(fold=list)
    @amino.readonly
    def by_shard(self) -> list[str]:
        """Return the keys of each shard."""
        return sorted(self.counts)

    @amino.broadcast(fold=max)
    @amino.readonly
    def most(self) -> int:
        """Return the highest count."""
        return max(self.counts.values(), default=0)

    @amino.broadcast
    @amino.readonly
    def odd(self) -> Any:
        """Return what has no usual sum."""
        return len(self.counts) if "key-0" in self.counts else "nothing"

    @amino.readonly
    def unmarked(self) -> int:
        """Neither has a key nor is for all."""
        return 0

    def __amino_split__(self, owns: Any) -> dict[Any, int]:
        """Take out what belongs to others, once nobody holds the gate."""
        if self.gate:
            Path(f"{self.gate}.reached").touch()
            wait_for(self.gate)
        leaving = {key: count for key, count in self.counts.items() if owns(key)}
        for key in leaving:
            del self.counts[key]
        return leaving

    def __amino_merge__(self, part: dict[Any, int]) -> None:
        """Put in."""
        self.counts.update(part)


class PlainStore(Store):
    """Leaves the division to Amino."""

    __amino_split__ = None
    __amino_merge__ = None


class Telling(PlainStore):
    """Tells of every count."""

    @amino.key
    def add(self, key: Any, by: int = 1) -> int:
        """Count, and tell."""
        count = super().add(key, by)
        amino.emit("added", (key, count))
        return count


def wait_for(gate: str) -> None:
    """Wait until nobody holds the file locked."""
    with Path(gate).open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)


class Held:
    """Holds a file locked, and knows whether somebody has come to wait for it."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "gate")
        self.reached = Path(f"{self.path}.reached")
        self._file: Any = None

    def close(self) -> None:
        """Lock it."""
        self.reached.unlink(missing_ok=True)
        self._file = Path(self.path).open("a")  # noqa: SIM115 - open until let go
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def open(self) -> None:
        """Let go of it. Idempotent."""
        if self._file is not None:
            self._file.close()
            self._file = None


class Counting:
    """Threads that count on keys of their own, read them back, and compare; with new keys all the time.

    Attributes:
        expected: every count that was acknowledged. problems: what failed or was wrong.
    """

    def __init__(self, store: Any, threads: int = 4) -> None:
        self.expected: dict[str, int] = {}
        self.problems: list[str] = []
        self._store = store
        self._stop = False
        self._more = threading.Condition()
        self._threads = [threading.Thread(target=self._run, args=(number,), daemon=True) for number in range(threads)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop = True
        for thread in self._threads:
            thread.join(60.0)

    def wait_for_more(self, count: int = 40, timeout_s: float = 30.0) -> None:
        """Wait until so many more calls have been answered."""
        with self._more:
            wanted = sum(self.expected.values()) + count
            enough = self._more.wait_for(lambda: self.problems or sum(self.expected.values()) >= wanted, timeout_s)
        assert enough, f"fewer than {count} calls were answered within {timeout_s} s"

    def _run(self, thread: int) -> None:
        number = 0
        while not self._stop:
            number += 1
            every_third = f"new-{thread}-{number}" if number % 3 == 0 else f"own-{thread}-{number % EACH_ROUND}"
            wanted = self.expected.get(every_third, 0) + 1
            try:
                told, read = self._store.add(every_third), self._store.get(every_third)
            except AminoError as error:
                self._problem(f"{every_third}: {error!r}")
                return
            if not told == read == wanted:
                self._problem(f"{every_third} was told as {told}, read as {read}, and is {wanted}")
                return
            with self._more:
                self.expected[every_third] = wanted
                self._more.notify_all()

    def _problem(self, text: str) -> None:
        with self._more:
            self.problems.append(text)
            self._more.notify_all()
