"""A cluster that somebody else started on this machine: its processes can be killed, frozen and pressed, no more.

Owns finding its servers and their processes. Leaves starting and ending them to whoever owns the cluster.
Invariants: nothing is started and nothing but the servers named in etcd gets a signal; on leaving nothing is ended.
Failure behaviour: a server that its owner does not start again is ``ClusterUnavailable`` when it is waited for.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import amino
from amino.errors import AminoError, ClusterUnavailable, Invalid
from amino.testing.chaos.clusters.memory import unusable
from amino.testing.chaos.clusters.port import Ability, Network, Part, is_gone, kernel_of
from amino.testing.chaos.clusters.view import ClusterView

BACK_S = 60.0
_LOOK_EVERY_S = 0.1


class AttachedCluster:
    """Implements ``Cluster`` by the records of the servers that live when it is started.

    Args:
        etcd: ``host:port`` of etcd's members. name: of the cluster. store: the folder of its checkpoint store, if it is on this
            machine and to be broken too. options: of ``amino.connect`` (``tls``, ``insecure``).
    """

    topology = "attached"
    devices: tuple[str, ...] = ()
    members = 0
    network: Network | None = None
    disk = None
    clocks = None
    release: Path | None = None

    def __init__(
        self, etcd: Sequence[str], *, name: str = "amino", store: str | Path | None = None, **options: Any
    ) -> None:
        self.servers: tuple[str, ...] = ()
        self.ttl_s = 3.0
        self.store_folder = Path(store) if store is not None else None
        self.abilities = frozenset({Ability.SIGNALS})
        if store is not None:
            self.abilities |= {Ability.STORE}
        if not unusable():
            self.abilities |= {Ability.MEMORY}
        self.etcd_endpoints = list(etcd)
        self._name = name
        self._options = options
        self._supervisors: dict[str, int] = {}
        self._addresses: dict[str, str] = {}

    def __repr__(self) -> str:
        return f"AttachedCluster({', '.join(self.servers) or 'not started'})"

    async def start(self) -> None:
        """See ``Cluster``: find the servers.

        Raises:
            ClusterUnavailable: there are none.
        """
        async with ClusterView(self.etcd_endpoints, self._name) as view:
            await self._find(view)
        if not self._addresses:
            raise ClusterUnavailable(
                f"no server of {self._name!r} is on record in etcd at {', '.join(self.etcd_endpoints)}"
            )
        self.servers = tuple(sorted(self._addresses))

    async def _find(self, view: ClusterView) -> dict[str, int]:
        found = await view.servers()
        for name, (_, record) in found.items():
            self._addresses[name] = record.address
            here = record.pid and kernel_of(record.supervisor_pid) == record.pid
            self._supervisors[name] = (
                record.supervisor_pid if here else 0
            )  # else it counts in a container or another machine
        return {name: incarnation for name, (incarnation, _) in found.items()}

    async def aclose(self) -> None:
        """See ``Cluster``: nothing of it is ours."""

    def connect(self, **options: Any) -> amino.Cluster:
        """See ``Cluster``."""
        return amino.connect(*self._addresses.values(), **{"cluster": self._name, **self._options, **options})

    def address(self, server: str) -> str:
        """See ``Cluster``."""
        return self._addresses[server]

    def pid(self, server: str, part: Part) -> int:
        """See ``Cluster``: 0 for servers of other machines, and in containers."""
        if part is Part.BOTH:
            raise Invalid("a server has two processes; ask for Part.KERNEL or Part.SUPERVISOR")
        supervisor = self._supervisors.get(server, 0)
        if part is Part.KERNEL:
            return kernel_of(supervisor)
        return 0 if is_gone(supervisor) else supervisor

    async def revive(self, server: str, *, release: Path | None = None) -> None:
        """See ``Cluster``: wait for whoever owns the server to start it."""
        if release is not None:
            raise Invalid(f"which release {server} runs is up to whoever starts it")
        end = time.monotonic() + BACK_S
        async with ClusterView(self.etcd_endpoints, self._name) as view:
            while time.monotonic() < end:
                try:
                    if server in await self._find(view) and self.pid(server, Part.KERNEL):
                        return
                except AminoError:
                    continue
                await asyncio.sleep(_LOOK_EVERY_S)
        raise ClusterUnavailable(f"{server} is not back after {BACK_S:g} s; nobody restarts its supervisor")

    def runs_release(self, server: str) -> bool:  # noqa: ARG002 - nobody can tell from here
        """See ``Cluster``."""
        return False

    async def last_lines(self, server: str) -> str:  # noqa: ARG002 - as above
        """See ``Cluster``."""
        return ""

    async def drain(self, server: str) -> None:
        """See ``Cluster``."""
        raise Invalid(f"{server} belongs to somebody else; amino drain {server} does it")

    def fields(self, server: str) -> Mapping[str, Any]:
        """See ``Cluster``."""
        return {"address": self._addresses[server], "supervisor": self._supervisors[server]}

    def member_pid(self, index: int) -> int:
        """See ``Cluster``."""
        raise Invalid(f"member {index} of etcd belongs to somebody else")

    async def kill_member(self, index: int) -> None:
        """See ``Cluster``."""
        raise Invalid(f"member {index} of etcd belongs to somebody else")

    async def revive_member(self, index: int) -> None:
        """See ``Cluster``."""
        raise Invalid(f"member {index} of etcd belongs to somebody else")
