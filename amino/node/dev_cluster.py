"""A whole cluster on this machine: etcd and kernel servers as real processes on loopback, for development and tests.

Owns folders, configurations and processes of the servers, and knowing when each serves. Leaves etcd to
``embedded_etcd`` and each server to its own supervisor process. All methods belong to one event loop.
Invariants: everything started is ended by ``aclose``, and by the death of this process; a server keeps its name, its
ports and its log across restarts.
Failure behaviour: a server that ends while it is waited for raises ``ClusterUnavailable`` with the reason it gave.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import psutil

from amino.aio.tasks import TaskOwner
from amino.config import DashboardConfig, EtcdConfig, ServerConfig, SessionConfig
from amino.errors import AlreadyExists, ClusterUnavailable, NotFound
from amino.node import keeper
from amino.node.child_process import python_environment
from amino.node.embedded_etcd import EmbeddedEtcd
from amino.node.reports import REPORTS, ServerDown, ServerEnded, ServerServes

START_TIMEOUT_S = 60.0
_LOG_LINES = 5


@dataclass(slots=True, eq=False)
class DevServer:
    """One server of the cluster: its configuration, its supervisor process, and what that reported last."""

    name: str
    config: ServerConfig
    log: Path
    process: asyncio.subprocess.Process | None = None
    serves: ServerServes | None = None
    last: ServerServes | None = None
    ended: ServerEnded | None = None
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    def __repr__(self) -> str:
        return f"DevServer({self.name}, {'serves' if self.serves is not None else 'down'})"

    @property
    def is_running(self) -> bool:
        """Whether its supervisor process lives."""
        return self.process is not None and self.process.returncode is None

    def last_lines(self) -> str:
        """The end of its log."""
        with contextlib.suppress(OSError):
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-_LOG_LINES:])
        return ""


class DevCluster:
    """A cluster on loopback; made by ``start``.

    Args:
        etcd: of its own, or None when ``endpoints`` are those of another.
        fields: what all servers' configurations have in common.
        environment: what all servers' processes find in their environment, beside this process's.
    """

    def __init__(
        self,
        folder: Path,
        etcd: EmbeddedEtcd | None,
        fields: Mapping[str, Any],
        child: Sequence[str],
        environment: Mapping[str, str],
    ) -> None:
        self.folder = folder
        self.etcd = etcd
        self.servers: dict[str, DevServer] = {}
        self._fields = dict(fields)
        self._child = tuple(child)
        self._environment = dict(environment)
        self._own_folder = False
        self._keeper: asyncio.subprocess.Process | None = None
        self._tasks = TaskOwner("dev cluster")

    def __repr__(self) -> str:
        return f"DevCluster({', '.join(self.servers)})"

    @classmethod
    async def start(
        cls,
        *,
        servers: int = 3,
        etcd_members: int = 1,
        etcd_binary: str | Path | None = None,
        etcd_options: Sequence[str] = (),
        etcd: EtcdConfig | None = None,
        folder: Path | None = None,
        port: int = 0,
        child: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        dashboard: DashboardConfig | None = None,
        **fields: Any,
    ) -> DevCluster:
        """Start etcd and ``servers`` kernel servers ``s1``, ``s2``, ... and wait until all serve.

        Args:
            etcd_members: 1 or 3. etcd_binary: see ``find_etcd``. etcd_options: further options of every member.
            etcd: use this one instead of an embedded one.
            folder: for etcd's data, checkpoints and logs, kept; None makes a temporary one.
            port: of the first server's peer link, gRPC one above; 0 takes free ones.
            child: command line of the kernel process, for tests.
            environment: what all servers' processes find in their environment, beside this process's.
            dashboard: of the first server.
            fields: of every ``ServerConfig``.

        Raises:
            Invalid: a field is out of range, or no etcd is found.
            ClusterUnavailable: a server did not come up; says why.
        """
        own = Path(tempfile.mkdtemp(prefix="amino-cluster-")) if folder is None else None
        place = own if own is not None else Path(folder or "")
        place.mkdir(parents=True, exist_ok=True)
        cluster = cls(place, None, {"store": (place / "checkpoints").as_uri(), **fields}, child, environment or {})
        cluster._own_folder = own is not None
        try:
            cluster._config("s1", port, {}, {})  # refused fields are refused before anything is started
            await cluster._start_keeper()
            if etcd is None:
                cluster.etcd = await EmbeddedEtcd.start(
                    members=etcd_members, binary=etcd_binary, folder=place / "etcd", extra=etcd_options
                )
                etcd = EtcdConfig(endpoints=tuple(cluster.etcd.endpoints))
            cluster._fields["etcd"] = etcd
            (place / "checkpoints").mkdir(exist_ok=True)
            for number in range(servers):
                own_fields: dict[str, Any] = {"dashboard": dashboard} if dashboard is not None and number == 0 else {}
                await cluster.add_server(port=port if number == 0 else 0, wait=False, **own_fields)
            for server in list(cluster.servers.values()):
                await cluster.wait_serving(server.name)
        except BaseException:
            await cluster.aclose()
            raise
        return cluster

    async def _start_keeper(self) -> None:
        """Have a process that ends etcd should this one be killed: etcd does not notice that by itself."""
        self._keeper = await asyncio.create_subprocess_exec(
            sys.executable, "-P", keeper.__file__, str(self.folder), "remove" if self._own_folder else "keep",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL, start_new_session=sys.platform != "win32",
        )  # fmt: skip

    @property
    def addresses(self) -> list[str]:
        """Peer link addresses of the servers that serve, or served last."""
        return [server.last.address for server in self.servers.values() if server.last is not None]

    @property
    def endpoints(self) -> list[str]:
        """Addresses of etcd's members."""
        return list(self._fields["etcd"].endpoints)

    def server(self, name: str) -> DevServer:
        """Return the server called ``name``; ``NotFound`` names those that exist."""
        try:
            return self.servers[name]
        except KeyError:
            raise NotFound(f"no server {name!r} in this cluster; it has {', '.join(self.servers)}") from None

    async def add_server(
        self,
        name: str = "",
        *,
        port: int = 0,
        wait: bool = True,
        labels: Mapping[str, str] | None = None,
        **fields: Any,
    ) -> DevServer:
        """Start one more server.

        Args:
            name: default: the next of ``s1``, ``s2``, ...
            labels: beside ``host``, which is the server's name: each counts as a machine of its own.
            wait: until it serves.
        """
        name = name or next(f"s{n}" for n in range(1, len(self.servers) + 2) if f"s{n}" not in self.servers)
        if name in self.servers:
            raise AlreadyExists(f"server {name!r} exists in this cluster; choose another name")
        config = self._config(name, port, labels or {}, fields)
        server = self.servers[name] = DevServer(name, config, self.folder / f"{name}.log")
        await self.start_server(name, wait=wait)
        return server

    def _config(self, name: str, port: int, labels: Mapping[str, str], fields: Mapping[str, Any]) -> ServerConfig:
        merged = {
            "listen": f"127.0.0.1:{port}",
            "grpc_listen": f"127.0.0.1:{port + 1 if port else 0}",
            **self._fields,
            **fields,
        }
        merged["labels"] = {"host": name, **self._fields.get("labels", {}), **labels}
        if "session_ttl_s" in merged:
            merged["session"] = SessionConfig(ttl_s=merged.pop("session_ttl_s"))
        return ServerConfig(name=name, **merged)

    async def start_server(
        self, name: str, *, wait: bool = True, release: Path | None = None, **fields: Any
    ) -> DevServer:
        """Start a server, for the first time or again after both its processes ended.

        Args:
            release: a folder with the package of another release of Amino, to run that.
            fields: of its ``ServerConfig``, which are another from now on.
        """
        server = self.server(name)
        if server.is_running:
            return server
        config = server.config = msgspec.structs.replace(server.config, **fields)
        if server.last is not None:  # the same ports again
            config = msgspec.structs.replace(
                config,
                listen=_at_port_of(config.listen, server.last.address),
                grpc_listen=_at_port_of(config.grpc_listen, server.last.grpc_address),
            )
        path = self.folder / f"{name}.json"
        path.touch(mode=0o600)  # it may hold a password
        path.write_bytes(msgspec.json.encode(_given(config)))
        server.ended = None
        with server.log.open("ab") as log:
            server.process = await asyncio.create_subprocess_exec(
                sys.executable, "-P", "-m", "amino.node.server_process", str(path), *self._child,
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=log,
                env=python_environment(release, **self._environment), start_new_session=sys.platform != "win32",
            )  # fmt: skip
        self._tasks.spawn(self._follow(server, server.process), name)
        if wait:
            await self.wait_serving(name)
        return server

    async def _follow(self, server: DevServer, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        while line := await process.stdout.readline():
            report = REPORTS.decode(line)
            async with server.changed:
                match report:
                    case ServerServes():
                        server.serves = server.last = report
                    case ServerDown():
                        server.serves = None
                    case ServerEnded():
                        server.ended = report
                server.changed.notify_all()
        await process.wait()
        async with server.changed:
            server.serves = None
            server.changed.notify_all()

    async def wait_serving(self, name: str, *, after: int = 0, timeout_s: float = START_TIMEOUT_S) -> ServerServes:
        """Wait until a server serves as an incarnation later than ``after``.

        Raises:
            ClusterUnavailable: its supervisor ended, or it did not serve in time.
        """
        server = self.server(name)

        def settled() -> bool:
            return (server.serves is not None and server.serves.incarnation > after) or not server.is_running

        try:
            async with asyncio.timeout(timeout_s), server.changed:
                await server.changed.wait_for(settled)
        except TimeoutError:
            raise ClusterUnavailable(
                f"server {name} did not serve within {timeout_s:g} s; its log ends: {server.last_lines()}"
            ) from None
        if server.serves is None:
            why = server.ended.message if server.ended is not None and server.ended.message else server.last_lines()
            raise ClusterUnavailable(f"server {name} ended: {why}")
        return server.serves

    async def wait_ended(self, name: str, *, timeout_s: float = START_TIMEOUT_S) -> None:
        """Wait until a server's supervisor has ended (after a drain, or a kill)."""
        process = self.server(name).process
        if process is not None:
            async with asyncio.timeout(timeout_s):
                await process.wait()

    async def aclose(self) -> None:
        """End all processes at once, without draining, and remove a temporary folder. Idempotent."""
        for server in self.servers.values():
            _kill_tree(server)
        for server in self.servers.values():
            if server.process is not None:
                await server.process.wait()
                if server.process.stdin is not None:
                    server.process.stdin.close()
        await self._tasks.aclose()
        try:
            if self.etcd is not None:
                await self.etcd.aclose()
        finally:
            if self._own_folder:
                await asyncio.get_running_loop().run_in_executor(None, _remove, self.folder)
            if self._keeper is not None:
                await self._keeper.communicate(b"done")
                self._keeper = None

    async def drain(self, name: str) -> None:
        """Tell a server to drain and end (SIGTERM), and wait until it has."""
        process = self.server(name).process
        if process is not None and process.returncode is None:
            process.terminate()
            await process.wait()


def _given(config: ServerConfig) -> dict[str, Any]:
    """Return what differs from the defaults: another release may not have all fields."""
    default = ServerConfig()
    return {
        field: getattr(config, field)
        for field in config.__struct_fields__
        if getattr(config, field) != getattr(default, field)
    }


def _at_port_of(listen: str, address: str) -> str:
    """Return ``listen`` with the port of ``address`` (whose host is what others reach the server by)."""
    return f"{listen.rpartition(':')[0]}:{address.rpartition(':')[2]}" if listen and address else listen


def _kill_tree(server: DevServer) -> None:
    """Kill supervisor and kernel process, stopped ones too; the supervisor first, or it would start another child."""
    if server.process is None or server.process.returncode is not None:
        return
    victims: list[psutil.Process] = []
    with contextlib.suppress(psutil.Error):
        victims = psutil.Process(server.process.pid).children(recursive=True)
    with contextlib.suppress(ProcessLookupError):
        server.process.kill()
    for victim in victims:
        with contextlib.suppress(psutil.Error):
            victim.kill()


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
