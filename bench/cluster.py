"""A cluster of real processes for the benchmarks, and a client connected to it.

Owns what the benchmarks need to know of the test kit: one place to change. Leaves processes to ``amino.testing``.
Invariant: everything started is ended on leaving, after errors too.
Failure behaviour: as the test kit's.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]


class Running:
    """A running cluster.

    Args:
        local: the test kit's cluster.
        client: what ``amino.connect`` returned.
    """

    def __init__(self, local: Any, client: Any) -> None:
        self.local = local
        self.client = client

    @property
    def servers(self) -> list[str]:
        """Names of the live servers, sorted."""
        return sorted(each.record.name for each in self._members())

    def host_of(self, name: str) -> str:
        """Return the name of the server that has the (unreplicated) microservice called ``name``."""
        from amino.contracts.services import LocateRequest

        return str(self.client.registry.locate(LocateRequest(name=name)).groups["/"].replicas[0].server)

    def hosted_by(self, server: str) -> list[str]:
        """Return the names of the microservices on ``server``."""
        from amino.contracts.services import FindRequest

        found: list[str] = []
        after = ""
        while True:
            page = self.client.registry.find(FindRequest(server=server, after=after))
            found += [row.name for row in page.rows]
            if not page.more:
                return found
            after = page.rows[-1].id

    def move(self, name: str, server: str) -> None:
        """Move the microservice to ``server`` and wait until it is there."""
        from amino.contracts.services import MoveRequest

        self.client.registry.move(MoveRequest(name=name, server=server))

    def kill_kernel(self, server: str) -> float:
        """SIGKILL the kernel process of ``server``; return the moment (``time.perf_counter``) just before."""
        pid = self.local.server(server).kernel_pid
        at = time.perf_counter()
        os.kill(pid, signal.SIGKILL)
        return at

    def await_servers(self, count: int, timeout_s: float = 20.0) -> None:
        """Wait until ``count`` servers are members.

        Raises:
            TimeoutError: not within ``timeout_s`` seconds.
        """
        end = time.perf_counter() + timeout_s
        while len(self._members()) != count:
            if time.perf_counter() > end:
                raise TimeoutError(f"{len(self._members())} of {count} servers after {timeout_s:g} s")
            time.sleep(0.05)

    def kernel_bytes(self) -> int:
        """Return the resident memory of all kernel processes together, in bytes."""
        import psutil

        return sum(
            int(psutil.Process(self.local.server(name).kernel_pid).memory_full_info().uss) for name in self.servers
        )

    def _members(self) -> list[Any]:
        from amino.contracts.services import Empty

        return list(self.client.registry.members(Empty()).servers)


@contextmanager
def running(servers: int = 3) -> Iterator[Running]:
    """Run a cluster with one etcd member and connect to it."""
    import amino
    from amino.testing import LocalCluster

    with LocalCluster(servers=servers, app_dirs=[ROOT]) as local, amino.connect(*local.addresses) as client:
        yield Running(local, client)
