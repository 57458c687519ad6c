"""What every cluster to be broken offers, whatever it is made of.

Owns the protocol. Leaves how it is done to ``processes`` and ``containers``, and what to do with it to ``faults``.
Invariants: names of servers are ``s1``, ``s2``, ..., those of devices ``d1``, ...; members of etcd are counted from 0; methods that are not ``async`` never wait.
Failure behaviour: asking for what an ability is missing for is ``Invalid``.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import psutil

import amino
from amino.testing.proxy import CLIENTS, ETCD

if TYPE_CHECKING:
    from amino.testing.chaos.clusters.clocks import Clocks
    from amino.testing.chaos.clusters.disk import Disk

__all__ = ["CLIENTS", "ETCD", "Ability", "Cluster", "Network", "Part", "is_gone", "kernel_of", "supervisor_of"]
_CHILD = "amino.node.child"


class Part(enum.StrEnum):
    """What a server is made of."""

    KERNEL = "kernel"
    SUPERVISOR = "supervisor"
    BOTH = "both"


class Ability(enum.StrEnum):
    """What a cluster lets be broken; a fault names what it needs."""

    SIGNALS = "signals"
    """Processes can be killed, stopped and continued."""
    CUTS = "cuts"
    """Ways between servers, etcd and clients can be cut, each direction by itself."""
    DELAYS = "delays"
    """Ways can be slowed, their connections reset and doubled."""
    LOSS = "loss"
    """Packets can be dropped at random."""
    MEMBERS = "members"
    """There are three members of etcd, which can be killed and frozen."""
    QUOTA = "quota"
    """etcd has a quota that can be reached in seconds."""
    STORE = "store"
    """The checkpoint store is a folder that can be written to from here."""
    DISK = "disk"
    """The checkpoint store has a small disk of its own, which can be filled, slowed and frozen."""
    CLOCK = "clock"
    """The wall clock of servers can be set."""
    MEMORY = "memory"
    """The memory of servers can be limited."""
    DRAIN = "drain"
    """Servers can be drained, and started again afterwards."""
    RELEASES = "releases"
    """There is another release of Amino that servers can be started as."""
    DEVICES = "devices"
    """There are client devices, which can be killed, frozen and cut off."""
    CONTAINERS = "containers"
    """Servers and members are containers: they can be killed, paused and disconnected as a whole."""


def labels_of(servers: Sequence[str], regions: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return the labels of each server: a region of its own, one region after the other; none if there are no regions."""
    return {name: {"region": regions[at % len(regions)]} if regions else {} for at, name in enumerate(servers)}


def is_gone(pid: int) -> bool:
    """Whether a process has ended, be it reaped or not; 0 is none."""
    if not pid:
        return True
    try:
        return psutil.Process(pid).status() in {psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD}
    except psutil.NoSuchProcess:
        return True


def kernel_of(supervisor: int) -> int:
    """Return the process id of the kernel process that a supervisor runs, 0 if there is none."""
    return _child_of(supervisor, lambda command: _CHILD in command)


def supervisor_of(first: int) -> int:
    """Return the process id of the supervisor that a container's first process runs, 0 if there is none."""
    # A kernel process whose supervisor has died is the first process's child, too.
    return _child_of(first, lambda command: "server" in command and _CHILD not in command)


def _child_of(parent: int, is_it: Callable[[list[str]], bool]) -> int:
    try:
        process = psutil.Process(parent)
        own = process.cmdline()  # of a child that the parent has just forked, too, until it runs what it is for
        for child in process.children():
            command = child.cmdline()
            if command != own and is_it(command) and child.status() != psutil.STATUS_ZOMBIE:
                return child.pid
    except psutil.Error:
        return 0
    return 0


class Network(Protocol):
    """The ways between servers (by name), ``CLIENTS`` and ``ETCD``. All methods take effect at once and never wait."""

    def cut(self, source: str, target: str) -> None:
        """Let nothing pass from ``source`` to ``target``; the other direction stays as it is."""

    def mend(self, source: str, target: str) -> None:
        """Undo ``cut``, ``delay`` and ``lose`` of this direction."""

    def passes(self, source: str, target: str) -> int:
        """Return how many bytes have passed from ``source`` to ``target`` so far."""

    def is_cut(self, source: str, target: str) -> bool:
        """Whether nothing passes from ``source`` to ``target``."""

    def delay(self, source: str, target: str, seconds: float) -> None:
        """Let what goes from ``source`` to ``target`` take so much longer."""

    def reset(self, source: str, target: str) -> int:
        """Reset the connections that ``source`` opened to ``target``; returns how many there were."""

    def lose(self, source: str, target: str, share: float) -> None:
        """Lose a share of what goes from ``source`` to ``target``: packets, or where bytes cannot be lost, connections."""

    def double(self, source: str, target: str, *, on: bool) -> None:
        """Have each connection that ``source`` opens to ``target`` opened twice, both beginning with the same bytes."""

    def trouble(self, source: str, target: str) -> int:
        """Return how often something was held back, lost or doubled between the two so far."""


LOG_LINES = 40
"""How much of a server's log is told."""


class Cluster(Protocol):
    """A running cluster.

    Attributes:
        topology: its kind, ``processes`` or ``containers``. ttl_s: of its servers' sessions.
        servers: their names. members: how many members of etcd. abilities: what can be broken.
        devices: names of client processes that are devices, ``d1``, ...; ``pid`` (of either part), ``drain`` and
            ``revive`` know them, too.
        network: its ways, None without ``CUTS``. store_folder: of the checkpoint store, as seen from here, None without ``STORE``.
        disk: that the store is on, None without ``DISK``.
        release: a folder with the package of another release of Amino, None without ``RELEASES``.
        clocks: the wall clocks of its servers, None without ``CLOCK``.
    """

    topology: str
    ttl_s: float
    servers: tuple[str, ...]
    devices: tuple[str, ...]
    members: int
    abilities: frozenset[Ability]

    @property
    def network(self) -> Network | None:
        """See above."""

    @property
    def store_folder(self) -> Path | None:
        """See above."""

    @property
    def disk(self) -> Disk | None:
        """See above."""

    @property
    def clocks(self) -> Clocks | None:
        """See above."""

    @property
    def release(self) -> Path | None:
        """See above."""

    async def start(self) -> None:
        """Start everything and wait until it serves. Once."""

    async def aclose(self) -> None:
        """End everything at once. Idempotent."""

    @property
    def etcd_endpoints(self) -> list[str]:
        """``host:port`` of etcd's members as reached from here, past all faults."""

    def connect(self, **options: Any) -> amino.Cluster:
        """Connect a client, whose way to the servers is the network's ``CLIENTS``; as ``amino.connect``."""

    # --- servers ---

    def address(self, server: str) -> str:
        """``host:port`` of its peer link as reached from here, past all faults of the network where that is possible."""

    def pid(self, server: str, part: Part) -> int:
        """Return the process id of a server's kernel or supervisor process, 0 if there is none. Not for ``BOTH``."""

    async def revive(self, server: str, *, release: Path | None = None) -> None:
        """Start a server again if its supervisor has ended, and wait until it serves. Idempotent.

        Args:
            release: a folder with the package of another release of Amino, to run that; the next start is of the present one again.
        """

    def runs_release(self, server: str) -> bool:
        """Whether a server was last started as another release than the present one."""

    async def last_lines(self, server: str) -> str:
        """Return the end of a server's log, ``LOG_LINES`` lines; empty if it cannot be read."""

    async def drain(self, server: str) -> None:
        """Have a server hand over what it has and end; returns once it has ended."""

    def fields(self, server: str) -> Mapping[str, Any]:
        """Return what is known of a server, for people."""

    # --- members of etcd ---

    def member_pid(self, index: int) -> int:
        """Return the process id of a member, 0 if there is none."""

    async def kill_member(self, index: int) -> None:
        """SIGKILL a member and wait for its end."""

    async def revive_member(self, index: int) -> None:
        """Start a member again if it has ended, and wait until it has joined. Idempotent."""
