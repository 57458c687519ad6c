"""The topology ``containers``: three members of etcd and the kernel servers in a container each, with addresses of their own.

Owns containers, their network and the store they share. Leaves the image to ``deploy/docker``, rules to ``netfilter``.
Invariants: addresses are from 198.18.0.0/15, on a network that is the cluster's own; containers carry the label of the process
that made them, and those of processes that are gone are removed with the next cluster.
Failure behaviour: without Docker, root or the image, ``unusable`` says why and what to do; what does not come up is
``ClusterUnavailable`` with the end of its log.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib
import os
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

import amino
from amino.aio.mode import offload
from amino.errors import AminoError, ClusterUnavailable, Invalid, NotFound
from amino.node.embedded_etcd import MEMBER_OPTIONS
from amino.testing.chaos.clusters.clocks import INSIDE, Clocks
from amino.testing.chaos.clusters.disk import Disk, place_in_memory
from amino.testing.chaos.clusters.disk import unusable as no_disk
from amino.testing.chaos.clusters.memory import unusable as no_pressure
from amino.testing.chaos.clusters.netfilter import Netfilter
from amino.testing.chaos.clusters.port import (
    CLIENTS,
    ETCD,
    LOG_LINES,
    Ability,
    Part,
    is_gone,
    kernel_of,
    labels_of,
    supervisor_of,
)
from amino.testing.chaos.clusters.view import ClusterView

IMAGE = "amino:latest"
LABEL = "amino.chaos"
PORT, ETCD_PORT, PEER_PORT = 7400, 2379, 2380
START_S = 90.0
_FIRST_MEMBER, _FIRST_SERVER = 10, 20
_DATA = ("/etcd-data", "rw")
_STORE = "/var/lib/amino/store"
_FOUND_FIRST = "/var/lib/amino/first"
_INSIDE, _CLOCKS = "/var/lib/amino/inside", "/var/lib/amino/clocks"
_PREFIX = "amino-containers-"


def unusable(image: str = IMAGE, etcd_binary: str | Path | None = None) -> str:
    """Return why clusters of containers cannot be used here, and what to do; empty if they can."""
    if os.name != "posix" or os.geteuid() != 0:
        return "partitions in containers need root; run it as root, or on a machine of your own"
    missing = Netfilter.missing()
    if missing:
        return f"there is no {missing}; install it (Debian: apt install iptables util-linux)"
    if shutil.which(str(etcd_binary or "etcd")) is None:
        return f"there is no etcd to put into containers ({etcd_binary or 'etcd'}); install it (Debian: apt install etcd-server)"
    try:
        docker = importlib.import_module("docker")
        importlib.import_module("testcontainers")
    except ImportError as error:
        return f"{error.name} is not installed; pip install 'amino-run[chaos]'"
    try:
        with contextlib.closing(docker.from_env()) as client:
            client.images.get(image)
    except docker.errors.ImageNotFound:
        return f"there is no image {image}; sh deploy/docker/build.sh {image} makes it"
    except docker.errors.DockerException as error:
        return f"Docker does not answer ({str(error)[:120]}); start dockerd"
    return ""


class ContainerCluster:
    """Implements ``Cluster`` by Docker containers, with testcontainers.

    Args:
        servers: how many. members: of etcd. ttl_s: of sessions. image: of the servers.
        etcd_binary: put into the members' containers; default: found on ``PATH``. etcd_quota_mib: of etcd's data; 0: its default.
        disk_mib: of a disk for the checkpoint store; 0: it has none of its own. release: a folder with the package of another
            release of Amino, for rolling upgrades.
        base: image of the members' containers: any that can run that binary.
        regions: the servers' labels ``region``, one after the other. settings: further options of ``amino server``, without dashes.
    """

    topology = "containers"
    devices: tuple[str, ...] = ()

    def __init__(
        self,
        servers: int = 5,
        *,
        members: int = 3,
        ttl_s: int = 2,
        image: str = IMAGE,
        etcd_binary: str | Path | None = None,
        etcd_quota_mib: int = 0,
        disk_mib: int = 0,
        release: Path | None = None,
        base: str = "debian:bookworm-slim",
        regions: Sequence[str] = (),
        **settings: Any,
    ) -> None:
        self.servers = tuple(f"s{number}" for number in range(1, servers + 1))
        self.members = members
        self.ttl_s = float(ttl_s)
        abilities = {Ability.SIGNALS, Ability.CUTS, Ability.LOSS, Ability.STORE, Ability.DRAIN, Ability.CLOCK}
        abilities.add(Ability.CONTAINERS)
        self.abilities = frozenset(
            abilities | ({Ability.MEMBERS} if members == 3 else set()) | ({Ability.QUOTA} if etcd_quota_mib else set())
        )
        self._image, self._base = image, base
        self._etcd_binary = shutil.which(str(etcd_binary or "etcd"))
        self._quota = etcd_quota_mib << 20
        self._disk_mib = disk_mib
        if disk_mib and not no_disk():
            self.abilities |= {Ability.DISK}
        if not no_pressure():
            self.abilities |= {Ability.MEMORY}
        self.disk: Disk | None = None
        self.release = release
        if release is not None:
            self.abilities |= {Ability.RELEASES}
        self.clocks: Clocks | None = None
        self._settings = settings
        self._labels = labels_of(self.servers, regions)
        self._folder: Path | None = None
        self._docker_network: Any = None
        self._containers: dict[str, Any] = {}
        self._addresses: dict[str, str] = {}
        self._netfilter: Netfilter | None = None

    def __repr__(self) -> str:
        return f"ContainerCluster({', '.join(self.servers)}, etcd x {self.members})"

    @property
    def network(self) -> Netfilter | None:
        """See ``Cluster``."""
        return self._netfilter

    @property
    def store_folder(self) -> Path | None:
        """See ``Cluster``."""
        if self.disk is not None:
            return self.disk.folder
        return self._folder / "store" if self._folder is not None else None

    # --- life ---

    async def start(self) -> None:
        """See ``Cluster``."""
        why = await offload(unusable, self._image, self._etcd_binary)
        if why:
            raise Invalid(f"no containers: {why}")
        os.environ.setdefault("TESTCONTAINERS_RYUK_DISABLED", "true")  # it is an image, and no registry may be there
        try:
            await offload(self._create)
            async with ClusterView(self.etcd_endpoints) as view:
                for name in self.servers:
                    await self._wait_serving(view, name)
                for name in self.servers:
                    await offload(self._net.watch, name)
        except BaseException:
            await self.aclose()
            raise

    @property
    def _net(self) -> Netfilter:
        if self._netfilter is None:
            raise ClusterUnavailable("this cluster is not running; start it")
        return self._netfilter

    def _create(self) -> None:
        _remove_left_behind()
        # In memory: every start of a container syncs the disk, which the machines of a real cluster do not share.
        self._folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=place_in_memory()))
        self._folder.chmod(0o755)
        self.clocks = Clocks(self.servers, self._folder / "clocks")
        store = self._folder / "store"
        if Ability.DISK in self.abilities:
            try:
                self.disk = Disk(self._disk_mib)
                store = self.disk.folder
            except OSError:
                self.abilities -= {Ability.DISK}
        store.mkdir(exist_ok=True)
        store.chmod(0o777)  # the servers' user is nobody here
        subnet = self._make_network()
        host = subnet + ".1"
        for index in range(self.members):
            self._addresses[_member(index)] = f"{subnet}.{_FIRST_MEMBER + index}"
        for number, name in enumerate(self.servers):
            self._addresses[name] = f"{subnet}.{_FIRST_SERVER + number}"
        etcd = [self._addresses[_member(index)] for index in range(self.members)]
        self._netfilter = Netfilter(
            {ETCD: etcd, CLIENTS: [host], **{name: [self._addresses[name]] for name in self.servers}},
            self._init_pid,
        )
        for index in range(self.members):
            places = {str(self._etcd_binary): ("/usr/bin/etcd", "ro"), str(self._folder / _member(index)): _DATA}
            self._run(_member(index), self._base, self._etcd_command(index), places)
        for name in self.servers:
            found_first = self._found_first(name)
            found_first.mkdir(parents=True)
            volumes = {
                str(store): (_STORE, "rw"),
                str(found_first): (_FOUND_FIRST, "ro"),
                str(INSIDE): (_INSIDE, "ro"),
                str(self.clocks.folder): (_CLOCKS, "rw"),
            }
            environment = {
                **self.clocks.environment(_CLOCKS, os.pathsep.join((_FOUND_FIRST, _INSIDE))),
                "AMINO_CHAOS_SERVER": name,
            }
            self._run(name, self._image, self._server_command(name), volumes, environment)

    def _make_network(self) -> str:
        """Make the network; returns the first three parts of its addresses."""
        from docker.errors import APIError
        from docker.types import IPAMConfig, IPAMPool
        from testcontainers.core.network import Network

        problem: Exception | None = None
        for attempt in range(20):
            subnet = f"198.19.{(os.getpid() + 31 * attempt) % 250 + 1}"
            pool = IPAMPool(subnet=f"{subnet}.0/24", gateway=f"{subnet}.1")
            labels = {LABEL: str(os.getpid())}
            network = Network(
                docker_network_kw={"ipam": IPAMConfig(pool_configs=[pool]), "labels": labels, "driver": "bridge"}
            )
            try:
                self._docker_network = network.create()
                return subnet
            except APIError as error:  # another cluster has these addresses
                problem = error
        raise ClusterUnavailable(f"no addresses below 198.19.0.0/16 are free for a network of containers: {problem}")

    def _found_first(self, name: str) -> Path:
        """Return the folder in which a server's Python looks first: empty, or with another release of Amino."""
        assert self._folder is not None
        return self._folder / "first" / name

    def _run(
        self,
        name: str,
        image: str,
        command: list[str],
        volumes: Mapping[str, tuple[str, str]],
        environment: Mapping[str, str] | None = None,
    ) -> None:
        from docker.types import EndpointConfig
        from testcontainers.core.container import DockerContainer

        network = self._docker_network.name
        endpoint = EndpointConfig("1.41", ipv4_address=self._addresses[name], aliases=[name])
        container = (
            DockerContainer(image)
            .with_name(f"amino-chaos-{os.getpid()}-{network[:8]}-{name}")
            .with_command(command)
            .with_kwargs(
                network=network,
                networking_config={network: endpoint},
                hostname=name,
                labels={LABEL: str(os.getpid())},
                stop_signal="SIGKILL",
            )
        )
        for key, value in (environment or {}).items():
            container = container.with_env(key, value)
        for host, (inside, mode) in volumes.items():
            container = container.with_volume_mapping(host, inside, mode)
        self._containers[name] = container.start()

    def _etcd_command(self, index: int) -> list[str]:
        name, address = _member(index), self._addresses[_member(index)]
        peers = ",".join(
            f"{_member(one)}=http://{self._addresses[_member(one)]}:{PEER_PORT}" for one in range(self.members)
        )
        return [
            "etcd", "--name", name, "--data-dir", _DATA[0],
            "--listen-client-urls", f"http://0.0.0.0:{ETCD_PORT}", "--advertise-client-urls", f"http://{address}:{ETCD_PORT}",
            "--listen-peer-urls", f"http://0.0.0.0:{PEER_PORT}", "--initial-advertise-peer-urls", f"http://{address}:{PEER_PORT}",
            "--initial-cluster", peers, *MEMBER_OPTIONS,
            *(("--quota-backend-bytes", str(self._quota)) if self._quota else ()),
        ]  # fmt: skip

    def _server_command(self, name: str) -> list[str]:
        etcd = [part for endpoint in self.etcd_endpoints for part in ("--etcd", endpoint)]
        settings = [
            part for key, value in self._settings.items() for part in (f"--{key.replace('_', '-')}", str(value))
        ]
        labels = [part for key, value in self._labels[name].items() for part in ("--label", f"{key}={value}")]
        return [
            "server", "--name", name, "--listen", f"0.0.0.0:{PORT}", "--advertise", self._addresses[name], "--grpc-listen", "",
            "--label", f"host={name}", "--session-ttl-s", f"{self.ttl_s:g}", "--store", f"file://{_STORE}", "--insecure",
            *labels, *etcd, *settings,
        ]  # fmt: skip

    async def aclose(self) -> None:
        """See ``Cluster``."""
        await offload(self._remove)

    def _remove(self) -> None:
        from docker.errors import DockerException

        for container in self._containers.values():
            with contextlib.suppress(DockerException):
                container.stop(force=True)
        self._containers.clear()
        if self._docker_network is not None:
            with contextlib.suppress(DockerException):
                self._docker_network.remove()
            self._docker_network = None
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None
        if self.disk is not None:
            self.disk.close()

    # --- from outside ---

    @property
    def etcd_endpoints(self) -> list[str]:
        """See ``Cluster``."""
        return [f"{self._addresses[_member(index)]}:{ETCD_PORT}" for index in range(self.members)]

    def connect(self, **options: Any) -> amino.Cluster:
        """See ``Cluster``."""
        return amino.connect(*(self.address(name) for name in self.servers), **{"insecure": True, **options})

    def address(self, server: str) -> str:
        """See ``Cluster``."""
        return f"{self._addresses[server]}:{PORT}"

    def fields(self, server: str) -> Mapping[str, Any]:
        """See ``Cluster``."""
        return {"address": self.address(server), "container": self.container(server).name}

    # --- containers ---

    def container(self, name: str) -> Any:
        """Return the container of a server, or of a member (``m0``), as the ``docker`` package has it."""
        try:
            return self._containers[name].get_wrapped_container()
        except KeyError:
            raise NotFound(f"no container {name!r}; there are {', '.join(self._containers)}") from None

    def state(self, name: str) -> str:
        """Return what Docker says of a container: ``running``, ``paused``, ``exited``, ..."""
        container = self.container(name)
        container.reload()
        return str(container.status)

    def address_of(self, name: str) -> str:
        """Return the address that a container has on the network now, empty if it is disconnected."""
        container = self.container(name)
        container.reload()
        networks = container.attrs["NetworkSettings"]["Networks"]
        return str(networks.get(self._docker_network.name, {}).get("IPAddress", ""))

    def connect_network(self, name: str, *, on: bool) -> None:
        """Connect a container to the network, with the address it had, or disconnect it."""
        network = self._docker_network._unwrap_network  # noqa: SLF001 - it has no method that disconnects
        if on:
            network.connect(self.container(name), ipv4_address=self._addresses[name], aliases=[name])
        else:
            network.disconnect(self.container(name))

    def _init_pid(self, name: str) -> int:
        if name not in self._containers:
            return 0
        container = self.container(name)
        container.reload()
        return int(container.attrs["State"]["Pid"])

    # --- servers ---

    def pid(self, server: str, part: Part) -> int:
        """See ``Cluster``."""
        if part is Part.BOTH:
            raise Invalid("a server has two processes; ask for Part.KERNEL or Part.SUPERVISOR")
        first = self._init_pid(server)
        supervisor = supervisor_of(first) if first else 0
        if part is Part.SUPERVISOR or not supervisor:
            return supervisor
        return kernel_of(supervisor)

    async def revive(self, server: str, *, release: Path | None = None) -> None:
        """See ``Cluster``."""
        if await offload(self._start_again, server, release):
            async with ClusterView(self.etcd_endpoints) as view:
                await self._wait_serving(view, server)

    def runs_release(self, server: str) -> bool:
        """See ``Cluster``."""
        return any(self._found_first(server).iterdir())

    def _put_first(self, name: str, release: Path | None) -> None:
        """Have a server that does not run find ``release`` when it starts, or what its image has."""
        place = self._found_first(name)
        for old in place.iterdir():
            shutil.rmtree(old)
        if release is not None:
            shutil.copytree(release, place, dirs_exist_ok=True)

    def _start_again(self, name: str, release: Path | None = None) -> bool:
        """Start a container that has ended; returns whether it had."""
        if self.state(name) == "paused":
            self.container(name).unpause()
        main = self.pid(name, Part.SUPERVISOR) if name in self.servers else self._init_pid(name)
        if self.state(name) == "running" and not is_gone(main):
            return False
        self.container(name).wait(
            timeout=START_S
        )  # it ends soon after what it is for, and Docker takes a moment to notice
        if name in self.servers:
            self._put_first(name, release)
        self.container(name).start()
        if name in self.servers:
            self._net.watch(name)
        return True

    async def _wait_serving(self, view: ClusterView, name: str) -> None:
        end = time.monotonic() + START_S
        host, _, port = self.address(name).rpartition(":")
        while time.monotonic() < end:
            with contextlib.suppress(AminoError, OSError, TimeoutError):
                if name in await view.servers():
                    async with asyncio.timeout(1.0):
                        _, writer = await asyncio.open_connection(host, int(port))
                    writer.close()
                    return
            if await offload(self.state, name) == "exited":
                break
            await asyncio.sleep(0.1)
        raise ClusterUnavailable(f"server {name} did not come up; its log ends: {await self.last_lines(name)}")

    async def last_lines(self, server: str) -> str:
        """See ``Cluster``."""
        log: bytes = await offload(functools.partial(self.container(server).logs, tail=LOG_LINES))
        return log.decode(errors="replace")

    async def drain(self, server: str) -> None:
        """See ``Cluster``."""
        container = self.container(server)
        await offload(functools.partial(container.kill, signal="SIGTERM"))
        await offload(functools.partial(container.wait, timeout=START_S))

    # --- members of etcd ---

    def member_pid(self, index: int) -> int:
        """See ``Cluster``."""
        return self._init_pid(_member(index))

    async def kill_member(self, index: int) -> None:
        """See ``Cluster``."""
        container = self.container(_member(index))
        await offload(container.kill)
        await offload(container.wait)

    async def revive_member(self, index: int) -> None:
        """See ``Cluster``."""
        await offload(self._start_again, _member(index))


def _member(index: int) -> str:
    return f"m{index}"


def _remove_left_behind() -> None:
    """Remove containers, networks and folders of processes that are gone."""
    import docker

    client = docker.from_env()
    try:
        kept = {"filters": {"label": LABEL}}
        for container in client.containers.list(all=True, **kept):
            if not psutil.pid_exists(int(container.labels[LABEL])):
                with contextlib.suppress(docker.errors.DockerException):
                    container.remove(force=True, v=True)
        for network in client.networks.list(**kept):
            if not psutil.pid_exists(int(network.attrs["Labels"][LABEL])):
                with contextlib.suppress(docker.errors.DockerException):
                    network.remove()
    finally:
        client.close()
    for folder in Path(place_in_memory()).glob(f"{_PREFIX}*"):
        maker = folder.name.removeprefix(_PREFIX).partition("-")[0]
        if maker.isdigit() and not psutil.pid_exists(int(maker)):
            shutil.rmtree(folder, ignore_errors=True)
