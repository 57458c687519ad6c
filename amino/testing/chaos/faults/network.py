"""Faults of the network: ways that are cut, slow, lossy, reset or doubled.

Owns which ways are broken. Leaves how bytes are held up to the cluster's network.
Invariants: only the ways that a fault itself has broken are mended by it; a cut is proved by bytes that do not pass.
Failure behaviour: as ``Fault``.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
from collections.abc import Sequence

from amino.aio.mode import offload
from amino.errors import Invalid
from amino.testing.chaos.clusters.port import CLIENTS, ETCD, Ability, Network, Part, is_gone
from amino.testing.chaos.faults.fault import COORDINATOR, PRIMARY, Fault, Scene, Shape, comes_true

ONE_WAY = ">"
_SILENT_S = 0.1
_SLOW_S = 0.2
_LOST_SHARE = 0.05
_SWALLOWED_S = 0.4
_LATE_S = 0.4


class _OfNetwork(Fault):
    """A fault of ways from and to a server."""

    needs = frozenset({Ability.CUTS})
    lasts = (0.5, 2.5)

    def __init__(self, scene: Scene, target: str) -> None:
        super().__init__(scene, target)
        self.ways: list[tuple[str, str]] = []

    @classmethod
    def targets(cls, shape: Shape) -> Sequence[str]:
        """See ``Fault``."""
        return (*shape.servers, PRIMARY, COORDINATOR)

    @property
    def network(self) -> Network:
        """The cluster's network."""
        network = self.scene.cluster.network
        if network is None:
            raise Invalid("this cluster's network cannot be broken")
        return network

    async def heal(self) -> None:
        """See ``Fault``."""
        for source, target in reversed(self.ways):
            await offload(self.network.mend, source, target)
        if self.ways:
            await self.scene.cluster.revive(self.hit)
        self.ways = []


class _Cut(_OfNetwork):
    async def whom(self) -> str:
        """Return who is hit."""
        return await self.scene.server(self.target)

    async def inject(self) -> None:
        """See ``Fault``."""
        self.hit = await self.whom()
        others = self.others(self.hit)
        self.text = f"{self.hit} cut off from {', '.join(others)}"
        for other in others:
            await self._cut((self.hit, other))
            await self._cut((other, self.hit))

    def others(self, server: str) -> list[str]:
        """Return whom the server is cut off from."""
        raise NotImplementedError

    async def _cut(self, way: tuple[str, str]) -> None:
        self.ways.append(way)
        await offload(self.network.cut, *way)

    def _passed(self) -> list[int]:
        return [self.network.passes(*way) for way in self.ways]

    async def happened(self) -> bool:
        """See ``Fault``."""
        if not self.ways or not all(self.network.is_cut(*way) for way in self.ways):
            return False
        before = await offload(self._passed)
        await asyncio.sleep(_SILENT_S)
        return before == await offload(self._passed)


class CutFromEtcd(_Cut):
    """A server is cut off from etcd, both ways."""

    kind = "cut-etcd"

    def others(self, server: str) -> list[str]:  # noqa: ARG002 - the same for all
        """See ``_Cut``."""
        return [ETCD]


class CutFromServers(_Cut):
    """A server is cut off from all other servers, both ways; it reaches etcd, and clients reach it."""

    kind = "cut-servers"

    def others(self, server: str) -> list[str]:
        """See ``_Cut``."""
        return self.scene.beside(server)


class CutFromClients(_Cut):
    """Clients are cut off from a server, both ways."""

    kind = "cut-clients"

    def others(self, server: str) -> list[str]:  # noqa: ARG002 - the same for all
        """See ``_Cut``."""
        return [CLIENTS]


class Isolate(_Cut):
    """A server is cut off from everybody, both ways."""

    kind = "isolate"

    def others(self, server: str) -> list[str]:
        """See ``_Cut``."""
        return [ETCD, CLIENTS, *self.scene.beside(server)]


class CutOff(_Cut):
    """A server is cut off from etcd and all other servers, longer than a session's TTL; clients reach it all the time."""

    kind = "cut-off"
    lasts = (1.7, 2.7)

    def others(self, server: str) -> list[str]:
        """See ``_Cut``."""
        return [ETCD, *self.scene.beside(server)]


class SwallowAnswers(_Cut):
    """A server's answers do not reach clients; then it is killed, having done what nobody was told."""

    kind = "swallow-answers"
    needs = frozenset({Ability.CUTS, Ability.SIGNALS})
    lasts = (0.2, 0.5)

    def __init__(self, scene: Scene, target: str) -> None:
        super().__init__(scene, target)
        self._pids: list[int] = []

    async def inject(self) -> None:
        """See ``Fault``."""
        self.hit = await self.scene.server(self.target)
        await self._cut((self.hit, CLIENTS))
        await asyncio.sleep(_SWALLOWED_S)
        supervisor, kernel = (self.scene.cluster.pid(self.hit, part) for part in (Part.SUPERVISOR, Part.KERNEL))
        self.text = f"{self.hit} answered no client for {_SWALLOWED_S} s and was killed"
        self._pids = [pid for pid in (supervisor, kernel) if pid]
        for pid in self._pids:
            with contextlib.suppress(ProcessLookupError):  # who is killed second may have ended with the first
                os.kill(pid, signal.SIGKILL)
        if Ability.DELAYS in self.scene.cluster.abilities:  # what the proxy holds would still arrive
            await offload(self.network.reset, CLIENTS, self.hit)

    async def happened(self) -> bool:
        """See ``Fault``."""
        return bool(self._pids) and await comes_true(lambda: all(is_gone(pid) for pid in self._pids))


class SlowEtcd(_OfNetwork):
    """What etcd answers and tells a server takes 0.4 s longer."""

    kind = "slow-etcd"
    needs = frozenset({Ability.DELAYS})

    async def inject(self) -> None:
        """See ``Fault``."""
        self.hit = await self.scene.server(self.target)
        self.ways = [(ETCD, self.hit)]
        self._before = self.network.trouble(ETCD, self.hit)
        self.network.delay(ETCD, self.hit, _LATE_S)
        self.text = f"what etcd tells {self.hit} takes {_LATE_S} s longer"

    async def happened(self) -> bool:
        """See ``Fault``."""
        return bool(self.ways) and await comes_true(lambda: self.network.trouble(ETCD, self.hit) > self._before)


class CutOneWay(_Cut):
    """Nothing passes from one server to another; the opposite direction is open."""

    kind = "cut-one-way"

    @classmethod
    def targets(cls, shape: Shape) -> Sequence[str]:
        """See ``Fault``."""
        return [f"{a}{ONE_WAY}{b}" for a, b in itertools.permutations(shape.servers, 2)]

    async def inject(self) -> None:
        """See ``Fault``."""
        source, _, target = self.target.partition(ONE_WAY)
        self.hit = await self.scene.server(source)
        self.text = f"nothing passes from {source} to {target}"
        await self._cut((source, await self.scene.server(target)))


class _Trouble(_OfNetwork):
    """Something that shows only when something passes."""

    needs = frozenset({Ability.DELAYS})

    def __init__(self, scene: Scene, target: str) -> None:
        super().__init__(scene, target)
        self._before = 0

    def _around(self) -> list[tuple[str, str]]:
        others = [ETCD, CLIENTS, *self.scene.beside(self.hit)]
        return [way for other in others for way in ((self.hit, other), (other, self.hit))]

    def _trouble(self) -> int:
        return sum(self.network.trouble(*way) for way in self.ways)

    async def inject(self) -> None:
        """See ``Fault``."""
        self.hit = await self.scene.server(self.target)
        self.ways = self._around()
        self._before = await offload(self._trouble)
        for way in self.ways:
            await offload(self.disturb, *way)

    def disturb(self, source: str, target: str) -> None:
        """Disturb one way."""
        raise NotImplementedError

    async def happened(self) -> bool:
        """See ``Fault``."""
        return bool(self.ways) and await comes_true(self._troubled)

    async def _troubled(self) -> bool:
        return await offload(self._trouble) > self._before


class SlowNetwork(_Trouble):
    """Everything from and to a server takes 0.2 s longer."""

    kind = "slow-network"

    def disturb(self, source: str, target: str) -> None:
        """See ``_Trouble``."""
        self.network.delay(source, target, _SLOW_S)
        self.text = f"everything from and to {self.hit} takes {_SLOW_S} s longer"


class LossyNetwork(_Trouble):
    """A twentieth of what goes from and to a server is lost: packets, or where bytes cannot be lost, connections."""

    kind = "lossy-network"
    needs = frozenset({Ability.LOSS})

    def disturb(self, source: str, target: str) -> None:
        """See ``_Trouble``."""
        self.network.lose(source, target, _LOST_SHARE)
        self.text = f"{_LOST_SHARE:.0%} of what goes from and to {self.hit} is lost"


class ResetConnections(_Trouble):
    """All connections from and to a server are reset, once."""

    kind = "reset-connections"
    lasts = (0.0, 0.0)

    def disturb(self, source: str, target: str) -> None:
        """See ``_Trouble``."""
        self.network.reset(source, target)
        self.text = f"connections from and to {self.hit} reset"


class DoubleConnections(_Trouble):
    """Each connection to a server is opened twice; those there are were reset to make it happen."""

    kind = "double-connections"

    def disturb(self, source: str, target: str) -> None:
        """See ``_Trouble``."""
        self.network.double(source, target, on=True)
        self.network.reset(source, target)
        self.text = f"connections from and to {self.hit} are opened twice"

    async def inject(self) -> None:
        """See ``Fault``."""
        await super().inject()
        self._before = await offload(self._trouble)  # resetting them is no doubling
