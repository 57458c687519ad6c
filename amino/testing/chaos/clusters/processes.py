"""The topology ``processes``: real processes on loopback, faults by signals and through loopback proxies.

Owns composing ``LocalCluster`` and ``FaultyNetwork`` to a ``Cluster``. Leaves both to themselves.
Invariants: everybody's way to a server, and a server's to etcd, passes a proxy; ours to etcd does not.
Failure behaviour: as ``LocalCluster``; a disk for the store that cannot be made is left out, and so is its ability.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

import amino
from amino.aio.mode import offload
from amino.errors import Invalid
from amino.testing.chaos.clusters.clocks import Clocks
from amino.testing.chaos.clusters.device_client import Task
from amino.testing.chaos.clusters.devices import Devices
from amino.testing.chaos.clusters.disk import Disk
from amino.testing.chaos.clusters.disk import unusable as no_disk
from amino.testing.chaos.clusters.memory import unusable
from amino.testing.chaos.clusters.port import LOG_LINES, Ability, Part, labels_of
from amino.testing.local_cluster import LocalCluster
from amino.testing.proxy import FaultyNetwork

_MEMBERS = 3


class ProcessCluster:
    """Implements ``Cluster`` by processes on this machine.

    Args:
        servers: how many. members: of etcd, 1 or 3. ttl_s: of sessions. devices: how many client processes that are devices.
        etcd_binary: default: found on ``PATH``. app_dirs: folders that servers import classes from.
        etcd_quota_mib: of etcd's data; 0: etcd's own default. disk_mib: of a disk for the checkpoint store; 0: it has none of its
            own. release: a folder with the package of another release of Amino, for rolling upgrades.
            clocks: the servers' wall clocks can be set. regions: their labels ``region``, one server after the other. fields: of every server's ``ServerConfig``.
    """

    topology = "processes"

    def __init__(
        self,
        servers: int = 3,
        *,
        devices: int = 0,
        members: int = 3,
        ttl_s: int = 2,
        etcd_binary: str | Path | None = None,
        etcd_quota_mib: int = 0,
        disk_mib: int = 0,
        release: Path | None = None,
        clocks: bool = False,
        regions: Sequence[str] = (),
        app_dirs: Sequence[str | Path] = (),
        **fields: Any,
    ) -> None:
        self.servers = tuple(f"s{number}" for number in range(1, servers + 1))
        self.devices = tuple(f"d{number}" for number in range(1, devices + 1))
        self.members = members
        self.ttl_s = float(ttl_s)
        self._network: FaultyNetwork | None = None
        self.abilities = _abilities(members, network=True, quota=bool(etcd_quota_mib))
        self.disk: Disk | None = None
        self.release = release
        if release is not None:
            self.abilities |= {Ability.RELEASES}
        if devices:
            self.abilities |= {Ability.DEVICES}
        self._carried: Devices | None = None
        self._disk_mib = disk_mib
        if disk_mib and not no_disk():
            self.abilities |= {Ability.DISK}
        self._labels = labels_of(self.servers, regions)
        self.clocks: Clocks | None = None
        if clocks:
            self.abilities |= {Ability.CLOCK}
        self._options: dict[str, Any] = {
            "etcd_members": members,
            "etcd_binary": etcd_binary,
            "etcd_options": ("--quota-backend-bytes", str(etcd_quota_mib << 20)) if etcd_quota_mib else (),
            "app_dirs": app_dirs,
            "session_ttl_s": ttl_s,
            **fields,
        }
        self.local = LocalCluster(servers=0, **self._options)
        self._running = contextlib.ExitStack()

    def __repr__(self) -> str:
        return f"ProcessCluster({', '.join(self.servers + self.devices)}, etcd x {self.members})"

    @classmethod
    def around(cls, local: LocalCluster, network: FaultyNetwork | None = None) -> ProcessCluster:
        """Return a cluster that already runs as one to be broken; starting and ending it stays with its owner.

        Args:
            network: that its servers were added through; without, ways cannot be cut.
        """
        made = cls(0, members=1)
        made.local, made._network = local, network
        made.servers = tuple(local.servers)
        made.members, made.ttl_s = len(local.etcd_endpoints), local.session_ttl_s
        made.abilities = _abilities(made.members, network=network is not None, quota=False)
        return made

    @property
    def network(self) -> FaultyNetwork | None:
        """Its proxies, None before it is started."""
        return self._network

    @property
    def store_folder(self) -> Path | None:
        """Where checkpoints are."""
        return self.disk.folder if self.disk is not None else self.local.folder / "checkpoints"

    async def start(self) -> None:
        """See ``Cluster``."""
        network = self._network = self._running.enter_context(FaultyNetwork())
        try:
            await offload(self._make_local)
            await amino.aio(self.local.start)()
            for name in self.servers:
                await offload(
                    functools.partial(network.add_server, self.local, name, wait=False, labels=self._labels[name])
                )
            for name in self.servers:
                await amino.aio(self.local.server(name).wait_serving)()
            if self.devices:
                self._carried = await offload(self._make_devices, network)
                await offload(self._carried.revive, self.devices)
        except BaseException:
            await self.aclose()
            raise

    def _make_local(self) -> None:
        """Make what its servers need before they are started."""
        if Ability.DISK in self.abilities:
            try:
                self.disk = Disk(self._disk_mib)
                self._options["store"] = self.disk.folder.as_uri()
            except OSError:  # then the store is where the rest is
                self.abilities -= {Ability.DISK}
        if Ability.CLOCK in self.abilities:
            self.clocks = Clocks(self.servers)
            self._options["environment"] = self.clocks.environment()
        self.local = LocalCluster(servers=0, **self._options)

    def _make_devices(self, network: FaultyNetwork) -> Devices:
        tasks = {}
        for name in self.devices:
            ways = network.reach(name, self.local.etcd_endpoints)
            device = amino.Device(
                name=name, etcd=",".join(ways.etcd), listen=ways.listen, advertise=ways.advertise,
                session_ttl_s=int(self.ttl_s),
            )  # fmt: skip
            tasks[name] = Task(network.addresses, device)
        return Devices(tasks, self.local.folder)

    async def aclose(self) -> None:
        """See ``Cluster``."""
        try:
            if self._carried is not None:
                await offload(self._carried.close)
            await amino.aio(self.local.stop)()
        finally:
            await offload(self._running.close)
            if self.disk is not None:
                await offload(self.disk.close)
            if self.clocks is not None:
                self.clocks.close()

    @property
    def etcd_endpoints(self) -> list[str]:
        """See ``Cluster``."""
        return list(self.local.etcd_endpoints)

    def connect(self, **options: Any) -> amino.Cluster:
        """See ``Cluster``."""
        addresses = self._network.addresses if self._network is not None else self.local.addresses
        return amino.connect(*addresses, **options)

    # --- servers ---

    def address(self, server: str) -> str:
        """See ``Cluster``."""
        return f"127.0.0.1:{self.local.server(server).address.rpartition(':')[2]}"

    def pid(self, server: str, part: Part) -> int:
        """See ``Cluster``."""
        if part is Part.BOTH:
            raise Invalid("a server has two processes; ask for Part.KERNEL or Part.SUPERVISOR")
        if self._carried is not None and server in self.devices:
            return self._carried.pid(server)
        one = self.local.server(server)
        pid = one.supervisor_pid if part is Part.SUPERVISOR else one.kernel_pid
        return pid if psutil.pid_exists(pid) else 0

    async def revive(self, server: str, *, release: Path | None = None) -> None:
        """See ``Cluster``."""
        if self._carried is not None and server in self.devices:
            await offload(self._carried.revive, [server])
            return
        one = self.local.server(server)
        supervisor = self.pid(server, Part.SUPERVISOR)
        if not supervisor or psutil.Process(supervisor).status() == psutil.STATUS_ZOMBIE:
            await amino.aio(one.wait_ended)()
            await amino.aio(one.start)(release=release)
        await amino.aio(one.wait_serving)()

    def runs_release(self, server: str) -> bool:
        """See ``Cluster``: what its process finds first is told by the system."""
        try:
            paths = psutil.Process(self.pid(server, Part.KERNEL)).environ().get("PYTHONPATH", "")
        except psutil.Error:
            return False
        return self.release is not None and paths.split(os.pathsep)[0] == str(self.release)

    async def drain(self, server: str) -> None:
        """See ``Cluster``."""
        if self._carried is not None and server in self.devices:
            await offload(self._carried.leave, server)
            return
        await amino.aio(self.local.server(server).drain)()

    async def last_lines(self, server: str) -> str:
        """See ``Cluster``."""
        path = self.local.server(server).log_path
        try:
            text = await offload(functools.partial(path.read_text, errors="replace"))
        except OSError:
            return ""
        return "\n".join(text.splitlines()[-LOG_LINES:])

    def fields(self, server: str) -> Mapping[str, Any]:
        """See ``Cluster``."""
        one = self.local.server(server)
        return {"pid": one.kernel_pid, "supervisor": one.supervisor_pid, "log": str(one.log_path)}

    # --- members of etcd ---

    def member_pid(self, index: int) -> int:
        """See ``Cluster``."""
        return self.local.etcd.pid(index)

    async def kill_member(self, index: int) -> None:
        """See ``Cluster``."""
        await amino.aio(self.local.etcd.kill)(index)

    async def revive_member(self, index: int) -> None:
        """See ``Cluster``."""
        await amino.aio(self.local.etcd.start)(index)


def _abilities(members: int, *, network: bool, quota: bool) -> frozenset[Ability]:
    found = {Ability.SIGNALS, Ability.STORE, Ability.DRAIN}
    if network:
        found |= {Ability.CUTS, Ability.DELAYS, Ability.LOSS}
    if members == _MEMBERS:
        found.add(Ability.MEMBERS)
    if not unusable():
        found.add(Ability.MEMORY)
    if quota:
        found.add(Ability.QUOTA)
    return frozenset(found)
