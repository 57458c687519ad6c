"""Microservices and processes that the tests of locks, timers and events run."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import amino


class Guarded:
    """A value that only the holder of a lock may write."""

    def __init__(self) -> None:
        self.value = ""

    def write(self, text: str, lock: amino.Fence) -> str:
        amino.fenced(lock)
        self.value = text
        return self.value

    def write_by_number(self, text: str, name: str, token: int) -> str:
        amino.check_token(name, token)
        self.value = text
        return self.value

    @amino.readonly
    def read(self) -> str:
        return self.value


class Teller:
    """Takes a lock inside its own method, wherever that is replayed."""

    def __init__(self) -> None:
        self.tokens: list[int] = []

    def count(self) -> int:
        with amino.current().cluster.lock("till", ttl_s=5, wait_s=10) as lock:
            self.tokens.append(lock.token)
        return len(self.tokens)

    @amino.readonly
    def seen(self) -> list[int]:
        return self.tokens


def hold(address: str, cluster_name: str, mark: Path, go_on: Path, ttl_s: float) -> None:
    """Take lock ``account``, say so, wait to be told to go on, then write under the lock."""
    with amino.connect(address, cluster=cluster_name) as cluster:
        guarded: Any = cluster.get("guarded", Guarded)
        lock = cluster.lock("account", ttl_s=ttl_s).acquire()
        fence = lock.fence
        mark.write_text(str(fence.token))
        while not go_on.exists():
            time.sleep(0.02)
        try:
            outcome = guarded.write("thawed", fence)
        except amino.StaleToken:
            outcome = "refused"
        try:
            lock.check()
            outcome += " held"
        except amino.LockLost:
            outcome += " lost"
        mark.with_suffix(".outcome").write_text(outcome)


if __name__ == "__main__":
    hold(sys.argv[1], sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]), float(sys.argv[5]))
