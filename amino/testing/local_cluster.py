"""``LocalCluster``: a real cluster on this machine, and the handles to break it.

Owns a background event loop on which the cluster's processes are started, watched and ended, and what a test may do to
each process. Leaves starting them to ``node.dev_cluster``.
Invariants: everything started is ended on leaving, after exceptions too; signals are sent to processes of this cluster
only, by id.
Failure behaviour: what does not come up raises ``ClusterUnavailable`` with the reason; nothing is left then.

Methods that wait block; ``await amino.aio(cluster.add_server)()`` is their form for async code.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import importlib
import os
import signal
import threading
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from amino.aio.mode import on
from amino.config import EtcdConfig
from amino.errors import ClusterUnavailable, Invalid
from amino.stubs.stub import blocking

if TYPE_CHECKING:
    from amino.node.dev_cluster import DevCluster, DevServer
    from amino.node.embedded_etcd import EmbeddedEtcd
    from amino.node.reports import ServerServes

T = TypeVar("T")


class LocalServer:
    """One kernel server of a ``LocalCluster``: kernel process and supervisor, to be looked at, killed and stopped."""

    def __init__(self, cluster: LocalCluster, name: str) -> None:
        self._cluster = cluster
        self.name = name

    def __repr__(self) -> str:
        return f"LocalServer({self.name})"

    @property
    def _server(self) -> DevServer:
        return self._cluster._started().server(self.name)  # noqa: SLF001 - two classes of one thing

    @property
    def _last(self) -> ServerServes:
        last = self._server.last
        if last is None:
            raise ClusterUnavailable(f"server {self.name} has not served yet; wait_serving first")
        return last

    @property
    def address(self) -> str:
        """``host:port`` of its peer link."""
        return self._last.address

    @property
    def grpc_address(self) -> str:
        """``host:port`` of its gRPC."""
        return self._last.grpc_address

    @property
    def incarnation(self) -> int:
        """The incarnation that serves, or served last."""
        return self._last.incarnation

    @property
    def kernel_pid(self) -> int:
        """Process id of the kernel process that serves, or served last."""
        return self._last.pid

    @property
    def supervisor_pid(self) -> int:
        """Process id of its supervisor."""
        process = self._server.process
        if process is None:
            raise ClusterUnavailable(f"server {self.name} was never started")
        return process.pid

    @property
    def is_serving(self) -> bool:
        """Whether its supervisor's last word is that it serves."""
        return self._server.serves is not None

    @property
    def log_path(self) -> Path:
        """Where supervisor and kernel process log."""
        return self._server.log

    def kill_kernel(self) -> int:
        """SIGKILL the kernel process; returns the incarnation that ended. Never waits."""
        return self._signal("SIGKILL", self.kernel_pid)

    def stop_kernel(self) -> int:
        """SIGSTOP the kernel process alone; returns its incarnation. Never waits."""
        return self._signal("SIGSTOP", self.kernel_pid)

    def continue_kernel(self) -> None:
        """SIGCONT the kernel process. Never waits."""
        self._signal("SIGCONT", self.kernel_pid)

    def kill_supervisor(self) -> int:
        """SIGKILL the supervisor alone; returns the incarnation that will end. Never waits."""
        return self._signal("SIGKILL", self.supervisor_pid)

    def stop_supervisor(self) -> int:
        """SIGSTOP the supervisor alone; returns its incarnation. Never waits."""
        return self._signal("SIGSTOP", self.supervisor_pid)

    def continue_supervisor(self) -> None:
        """SIGCONT the supervisor. Never waits."""
        self._signal("SIGCONT", self.supervisor_pid)

    def kill(self) -> int:
        """SIGKILL both, as the loss of a machine does; returns the incarnation that ended. Never waits."""
        return self._signal("SIGKILL", self.supervisor_pid, self.kernel_pid)

    def stop(self) -> int:
        """SIGSTOP both, as the freeze of a machine does; returns the incarnation. Never waits."""
        return self._signal("SIGSTOP", self.supervisor_pid, self.kernel_pid)

    def resume(self) -> None:
        """SIGCONT both, the kernel process first: the order in which a late reply would be most likely. Never waits."""
        self._signal("SIGCONT", self.kernel_pid, self.supervisor_pid)

    def _signal(self, name: str, *pids: int) -> int:
        number = getattr(signal, name, None)
        if number is None and name == "SIGKILL":
            number = signal.SIGTERM  # Windows: TerminateProcess
        if number is None:
            raise Invalid(f"{name} does not exist on this platform; stop processes on Linux or macOS")
        incarnation = self.incarnation
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        return incarnation

    async def _wait_serving(self, after: int = 0, timeout_s: float = 60.0) -> int:
        """Wait until it serves as an incarnation later than ``after``; returns that.

        Raises:
            ClusterUnavailable: its supervisor ended, or it did not serve in time; with the reason.
        """
        cluster = self._cluster._started()  # noqa: SLF001 - two classes of one thing
        serves = await self._cluster._run(cluster.wait_serving(self.name, after=after, timeout_s=timeout_s))  # noqa: SLF001
        return serves.incarnation

    wait_serving = blocking(_wait_serving)

    async def _wait_ended(self, timeout_s: float = 60.0) -> None:
        """Wait until its supervisor has ended. Raises ``TimeoutError``."""
        await self._cluster._run(self._cluster._started().wait_ended(self.name, timeout_s=timeout_s))  # noqa: SLF001

    wait_ended = blocking(_wait_ended)

    async def _start(self, *, release: str | Path | None = None, app_dirs: Sequence[str | Path] | None = None) -> int:
        """Start it again after supervisor and kernel process ended; returns the incarnation that serves. Idempotent.

        Args:
            release: a folder with the package of another release of Amino (an unpacked wheel), to run that.
            app_dirs: folders to import classes from, from now on; None: those it had.
        """
        fields: dict[str, Any] = {} if app_dirs is None else {"app_dirs": tuple(str(each) for each in app_dirs)}
        other = Path(release) if release is not None else None
        start = self._cluster._started().start_server  # noqa: SLF001 - as above
        await self._cluster._run(start(self.name, release=other, **fields))  # noqa: SLF001 - as above
        return self.incarnation

    start = blocking(_start)

    async def _drain(self) -> None:
        """SIGTERM it, so that it moves its objects away and ends; waits until it has."""
        await self._cluster._run(self._cluster._started().drain(self.name))  # noqa: SLF001 - as above

    drain = blocking(_drain)


class LocalEtcd:
    """The members of the cluster's etcd, by index from 0."""

    def __init__(self, cluster: LocalCluster, etcd: EmbeddedEtcd) -> None:
        self._cluster = cluster
        self._etcd = etcd

    def __repr__(self) -> str:
        return f"LocalEtcd({', '.join(self._etcd.endpoints)})"

    @property
    def endpoints(self) -> list[str]:
        """``host:port`` of each member."""
        return list(self._etcd.endpoints)

    async def _kill(self, index: int) -> None:
        """SIGKILL a member; ``start`` brings it back with its data."""
        await self._cluster._run(self._etcd.kill(index))  # noqa: SLF001 - two classes of one thing

    kill = blocking(_kill)

    async def _start(self, index: int) -> None:
        """Start a killed member again, and wait until it has joined a cluster with a leader."""
        await self._cluster._run(self._etcd.start_member(index))  # noqa: SLF001 - as above
        await self._cluster._run(self._etcd.wait_ready())  # noqa: SLF001 - as above

    start = blocking(_start)

    async def _lose(self) -> None:
        """Kill all members and start them again without their data, at the same ports: the total loss of etcd."""
        await self._cluster._run(self._etcd.lose())  # noqa: SLF001 - as above

    lose = blocking(_lose)

    def pid(self, index: int) -> int:
        """Return the process id of a member, 0 if it does not run."""
        process = self._etcd.members[index].process
        return process.pid if process is not None and process.returncode is None else 0

    def freeze(self, index: int) -> None:
        """SIGSTOP a member. Never waits."""
        self._etcd.freeze(index)

    def thaw(self, index: int) -> None:
        """SIGCONT a member. Never waits."""
        self._etcd.thaw(index)


class LocalCluster:
    """A cluster of real processes on loopback; use as a context manager, ``with`` or ``async with``.

    Args:
        servers: how many kernel servers: ``s1``, ``s2``, ...; each has its own ``host`` label, its name.
        etcd_members: 1 or 3. etcd_binary: default: found on ``PATH``. etcd_options: further options of every member.
        etcd_endpoints: use this etcd instead of an embedded one.
        app_dirs: folders that the servers import classes from.
        session_ttl_s: time after which a server that vanished without trace counts as lost.
        labels: of all servers.
        folder: for data and logs, kept; default: a temporary one, removed.
        child: command line of kernel processes, for tests of the supervisor.
        environment: what all servers' processes find in their environment, beside this process's.
        fields: any other field of ``amino.config.ServerConfig``.
    """

    def __init__(
        self,
        servers: int = 3,
        *,
        etcd_members: int = 1,
        etcd_binary: str | Path | None = None,
        etcd_options: Sequence[str] = (),
        etcd_endpoints: Sequence[str] = (),
        app_dirs: Sequence[str | Path] = (),
        session_ttl_s: int = 3,
        labels: Mapping[str, str] | None = None,
        folder: Path | None = None,
        child: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        **fields: Any,
    ) -> None:
        self._options: dict[str, Any] = {
            "servers": servers,
            "etcd_members": etcd_members,
            "etcd_binary": etcd_binary,
            "etcd_options": tuple(etcd_options),
            "etcd": EtcdConfig(endpoints=tuple(etcd_endpoints)) if etcd_endpoints else None,
            "app_dirs": tuple(str(each) for each in app_dirs),
            "session_ttl_s": session_ttl_s,
            "labels": dict(labels or {}),
            "folder": folder,
            "child": child,
            "environment": dict(environment or {}),
            **fields,
        }
        self._dev: DevCluster | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def __repr__(self) -> str:
        return f"LocalCluster({', '.join(self._dev.servers) if self._dev is not None else 'not started'})"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        await self._start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stop()

    async def _start(self) -> None:
        """Start etcd and all servers, and wait until they serve. Idempotent.

        Raises:
            Invalid: no etcd is found, or an option is out of range.
            ClusterUnavailable: a server did not come up; nothing is left running.
        """
        if self._dev is not None:
            return
        from amino.node.dev_cluster import DevCluster

        self._begin_loop()
        atexit.register(self.stop)
        try:
            self._dev = await self._run(DevCluster.start(**self._options))
        except BaseException:
            self._end_loop()
            raise

    start = blocking(_start)

    async def _stop(self) -> None:
        """End every process at once, without draining, and remove temporary folders. Idempotent."""
        dev, self._dev = self._dev, None
        atexit.unregister(self.stop)
        try:
            if dev is not None:
                await self._run(dev.aclose())
        finally:
            self._end_loop()

    stop = blocking(_stop)

    @property
    def servers(self) -> dict[str, LocalServer]:
        """All servers by name, ended ones too."""
        return {name: LocalServer(self, name) for name in self._started().servers}

    def server(self, name: str) -> LocalServer:
        """Return the server called ``name``; ``NotFound`` names those that exist."""
        return LocalServer(self, self._started().server(name).name)

    @property
    def addresses(self) -> list[str]:
        """Peer link addresses, for ``amino.connect(*cluster.addresses)``."""
        return self._started().addresses

    @property
    def etcd(self) -> LocalEtcd:
        """The embedded etcd; ``Invalid`` when another one is used."""
        etcd = self._started().etcd
        if etcd is None:
            raise Invalid("this cluster uses an etcd of someone else; leave etcd_endpoints out to have one of its own")
        return LocalEtcd(self, etcd)

    @property
    def etcd_endpoints(self) -> list[str]:
        """Addresses of etcd's members."""
        return self._started().endpoints

    @property
    def session_ttl_s(self) -> float:
        """Time after which a server that vanished without trace counts as lost."""
        return float(self._options["session_ttl_s"])

    @property
    def folder(self) -> Path:
        """Where data and logs are."""
        return self._started().folder

    async def _add_server(
        self, name: str = "", *, labels: Mapping[str, str] | None = None, **fields: Any
    ) -> LocalServer:
        """Start one more server and wait until it serves.

        Args:
            name: default: the next of ``s1``, ``s2``, ...
            labels: in addition. fields: of its ``ServerConfig``.
        """
        server = await self._run(self._started().add_server(name, labels=labels, **fields))
        return LocalServer(self, server.name)

    add_server = blocking(_add_server)

    def connect(self, **options: Any) -> Any:
        """Connect to the cluster: ``with cluster.connect() as client``; see ``amino.connect``."""
        amino: Any = importlib.import_module("amino")  # late: a test kit must not load the client for nothing
        return amino.connect(*self.addresses, **{"cluster": self._options.get("cluster", "amino"), **options})

    # --- the loop that everything runs on ---

    def _started(self) -> DevCluster:
        if self._dev is None:
            raise ClusterUnavailable("this LocalCluster is not running; use it as a context manager, or start it")
        return self._dev

    async def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        assert self._loop is not None
        return await on(self._loop, coroutine)

    def _begin_loop(self) -> None:
        ready: Future[None] = Future()
        loop = self._loop = asyncio.new_event_loop()

        def live() -> None:
            asyncio.set_event_loop(loop)
            loop.call_soon(ready.set_result, None)
            loop.run_forever()
            left = asyncio.all_tasks(loop)  # a start that was interrupted; cancelled, it ends what it had begun
            for task in left:
                task.cancel()
            loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
            loop.run_until_complete(loop.shutdown_default_executor())
            loop.close()

        self._thread = threading.Thread(target=live, name="amino-local-cluster", daemon=True)
        self._thread.start()
        ready.result()

    def _end_loop(self) -> None:
        loop, self._loop = self._loop, None
        thread, self._thread = self._thread, None
        if loop is not None and thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
