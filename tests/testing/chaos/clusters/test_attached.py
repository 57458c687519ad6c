"""Whose processes an attached cluster takes for its servers': those that run here, and nobody else's of the same numbers."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, Self

import pytest

from amino.contracts.documents import ServerRecord
from amino.testing.chaos.clusters import AttachedCluster, attached
from amino.testing.chaos.clusters.port import Part


class View:
    """Etcd with records of two servers: one runs here, as a child of ours; the other says the same of another machine."""

    def __init__(self, kernel: int) -> None:
        self.records = {
            "here": ServerRecord("here", "127.0.0.1:7400", pid=kernel, supervisor_pid=os.getpid()),
            "there": ServerRecord("there", "s2:7400", pid=8, supervisor_pid=os.getpid()),
        }

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Nothing is open."""

    async def servers(self) -> dict[str, tuple[int, ServerRecord]]:
        """Return the two."""
        return {name: (1, record) for name, record in self.records.items()}


@pytest.fixture
def kernel() -> Iterator[int]:
    """A process that looks like a kernel process of which we are the supervisor."""
    process = subprocess.Popen([sys.executable, "-c", "input()", "amino.node.child"], stdin=subprocess.PIPE)
    yield process.pid
    process.communicate()


async def test_processes_of_other_machines_are_nobody(kernel: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server in a container names numbers that mean other processes here: none of them is killed in its place."""

    def view(*_: Any) -> View:
        return View(kernel)

    monkeypatch.setattr(attached, "ClusterView", view)
    cluster = AttachedCluster(["etcd1:2379"])
    await cluster.start()
    assert cluster.servers == ("here", "there")
    assert (cluster.pid("here", Part.SUPERVISOR), cluster.pid("here", Part.KERNEL)) == (os.getpid(), kernel)
    assert (cluster.pid("there", Part.SUPERVISOR), cluster.pid("there", Part.KERNEL)) == (0, 0)
