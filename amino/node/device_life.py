"""The life of a device on its event loop: one incarnation after the other, until it leaves.

Owns claiming and holding the session (the process is its own supervisor), serving, leaving, and starting anew when a session
was lost. Leaves the server to ``assembly.KernelNode`` and the thread to ``device``.
Invariants: each incarnation has a node and a deadline word of its own; before the next one begins the word of the last says
"never", its links are closed, and its tombstone is written or its session has run out.
Failure behaviour: the first incarnation raises what prevents it; later ones are tried again with back-off.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import amino
from amino.aio.clock import RealClock
from amino.contracts.documents import FORMAT_READ, ServerRecord, Tombstone, encode
from amino.coordination.deadline import NEVER, LocalDeadline
from amino.coordination.keys import Keys
from amino.coordination.session import SessionHolder, SessionView
from amino.errors import AminoError, CoordinationUnavailable
from amino.node.addresses import advertised
from amino.node.assembly import KernelNode
from amino.node.child import Node
from amino.node.cluster_document import reopen
from amino.node.connections import open_store
from amino.node.flight_board import NoBoard
from amino.node.supervisor import timing_of
from amino.telemetry.metrics import NO_METRICS, Metrics

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from amino.aio.clock import Clock
    from amino.config import ServerConfig
    from amino.coordination.store import Store
    from amino.node.child import Addresses
    from amino.stubs.ports import Local
    from amino.telemetry.trace import Telemetry

_log = logging.getLogger("amino.device")
_BACKOFF_S = 0.2
_BACKOFF_MAX_S = 5.0
_BURY_S = 3.0
_RETRY_S = 0.25


class DeviceNode(Node, Protocol):
    """The kernel server of one incarnation."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop that it runs on."""
        ...

    def beside(self) -> Local:
        """Return what a client of this process calls directly, once it serves."""
        ...


@dataclass(frozen=True, slots=True)
class Parts:
    """What a device stands on.

    Args:
        open_store: opens its way to etcd. node: makes the kernel server of an incarnation, given what ends that at once.
        metrics: shows round trips of the session.
    """

    clock: Clock
    open_store: Callable[[], Awaitable[Store]]
    node: Callable[[Callable[[str], None]], DeviceNode]
    metrics: Metrics = NO_METRICS


def real_parts(config: ServerConfig, telemetry: Telemetry) -> Parts:
    """Return the parts of a real device."""
    clock = RealClock()
    return Parts(
        clock,
        lambda: open_store(config.etcd, request_timeout_s=config.session.request_timeout_s, clock=clock),
        lambda stop_now: KernelNode(config, clock, NoBoard(), telemetry, stop_now=stop_now),
        telemetry.metrics,
    )


class DeviceLife:
    """All incarnations of one device. All methods belong to its loop; made on it.

    Args:
        attach: told of the server to call directly, and None when there is none any more.
        on_serving: called each time an incarnation begins to serve.

    Attributes:
        incarnation: that serves, 0 while none does. address: of its peer link.
    """

    def __init__(
        self,
        config: ServerConfig,
        parts: Parts,
        attach: Callable[[Local | None], None],
        on_serving: Callable[[], None],
    ) -> None:
        self._config = config
        self._parts = parts
        self._attach = attach
        self._on_serving = on_serving
        self._keys = Keys(config.cluster)
        self._leaving = asyncio.Event()
        self._drain = True
        self._has_served = False
        self._serving: _Incarnation | None = None
        self.incarnation = 0
        self.address = ""

    def __repr__(self) -> str:
        return f"DeviceLife({self._config.name}, incarnation {self.incarnation})"

    def leave_nowait(self, drain: bool) -> None:
        """Begin to leave; ``run`` returns once that is done. Never waits."""
        self._drain = self._drain and drain
        self._leaving.set()

    async def hand_over(self) -> tuple[str, ...]:
        """Hand all replicas over while serving; returns what could not be. If anything could not, the device stays open."""
        serving = self._serving
        if serving is None:
            return ()
        left = await serving.hand_over()
        if left:
            await serving.reopen()
        return left

    async def run(self) -> None:
        """Serve until told to leave.

        Raises:
            AminoError, OSError: what prevents the first incarnation.
        """
        config = self._config
        store = await self._parts.open_store()
        backoff_s = _BACKOFF_S
        try:
            while not self._leaving.is_set():
                try:
                    await _Incarnation(self, store).live()
                    backoff_s = _BACKOFF_S
                except (AminoError, OSError) as error:
                    if not self._has_served and not isinstance(error, CoordinationUnavailable):
                        raise
                    _log.warning("device %s cannot serve yet: %s", config.name, error)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(backoff_s):
                        await self._leaving.wait()
                backoff_s = min(backoff_s * 2, _BACKOFF_MAX_S)
        finally:
            await store.aclose()

    def _serves(self, serving: _Incarnation | None, incarnation: int, address: str, local: Local | None) -> None:
        self._serving, self.incarnation, self.address = serving, incarnation, address
        self._attach(local)
        if local is not None:
            self._has_served = True
            self._on_serving()


class _Incarnation:
    """One session of a device, from its claim to its burial."""

    def __init__(self, life: DeviceLife, store: Store) -> None:
        self._life = life
        self._config = life._config  # noqa: SLF001 - a part of its owner
        self._clock = life._parts.clock  # noqa: SLF001 - as above
        self._keys = life._keys  # noqa: SLF001 - as above
        self._store = store
        self._over = asyncio.Event()
        self._word = LocalDeadline()
        self._why = "left"
        self._node = life._parts.node(self._stop_now)  # noqa: SLF001 - as above
        self._holder = SessionHolder(
            store,
            self._keys,
            self._config.name,
            self._word,
            clock=self._clock,
            timing=timing_of(self._config),
            on_lost=self._stop_now,
            on_round_trip=lambda duration_s, renewed: life._parts.metrics.keepalive(duration_s, ok=renewed),  # noqa: SLF001 - as above
        )

    async def live(self) -> None:
        """Claim the name, serve until the session is lost or the device leaves, end."""
        life = self._life
        try:
            if await self._unless_leaving(self._join()):
                await self._unless_leaving(self._over.wait())
                if life._drain and not self._over.is_set():  # noqa: SLF001 - as above
                    for one in await self.hand_over():
                        _log.error("device %s leaves although it could not hand over %s", self._config.name, one)
        finally:
            life._serves(None, 0, "", None)  # noqa: SLF001 - as above
            await self._end()

    async def _join(self) -> None:
        config = self._config
        record = self._record(await self._node.bind())
        await reopen(self._store, self._keys, config.name)
        await self._holder.start(encode(record))
        incarnation = self._holder.incarnation
        view = SessionView(self._word, self._clock, incarnation)
        await self._node.serve(incarnation, self._holder.lease, view)
        _log.info("device %s serves at %s", config.name, record.address)
        self._life._serves(self, incarnation, record.address, self._node.beside())  # noqa: SLF001 - as above

    async def _unless_leaving(self, work: Coroutine[Any, Any, object]) -> bool:
        """Run ``work``, given up when the device is told to leave; returns whether it ended. Raises what it raises."""
        task = asyncio.ensure_future(work)
        leaving = asyncio.ensure_future(self._life._leaving.wait())  # noqa: SLF001 - as above
        try:
            await asyncio.wait({task, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            leaving.cancel()
            if not task.done():
                task.cancel()
                await asyncio.wait({task})
        if task.cancelled():
            return False
        task.result()
        return True

    async def hand_over(self) -> tuple[str, ...]:
        """Hand all replicas over, waiting at most ``drain_timeout_s`` for where they can go; returns what is left."""
        name = self._config.name
        until = self._clock.monotonic() + self._config.drain_timeout_s
        moved = 0
        left: tuple[str, ...] = ("nothing was tried",)
        while left and not self._over.is_set():
            try:
                more, left = await self._node.drain()
            except AminoError as error:
                more, left = 0, (str(error),)
            moved += more
            if self._clock.monotonic() + _RETRY_S >= until:
                break
            if left:
                await asyncio.sleep(_RETRY_S)
        _log.info("device %s has handed over %d replicas", name, moved)
        return left

    async def reopen(self) -> None:
        """Take replicas again after all."""
        await reopen(self._store, self._keys, self._config.name)

    async def _end(self) -> None:
        """Stop answering, then prove to all that this incarnation is dead, and take back its own cordon."""
        name = self._config.name
        if self._over.is_set():
            await self._node.fence()
        await self._node.aclose()
        await self._holder.aclose()
        tombstone = encode(Tombstone(cause=self._why, detected_at=self._clock.wall()))
        try:
            await self._holder.tombstone_and_revoke(tombstone, timeout_s=_BURY_S)
            if self._life._leaving.is_set():  # noqa: SLF001 - as above
                await reopen(self._store, self._keys, name)
        except AminoError as error:
            _log.warning("device %s could not sign off (%s); its session will run out", name, error)

    def _stop_now(self, why: str) -> None:
        """Answer nothing from now on: the session is not ours any more. From any thread."""
        self._word.publish(NEVER)
        self._why = why
        self._node.loop.call_soon_threadsafe(self._over.set)

    def _record(self, addresses: Addresses) -> ServerRecord:
        config = self._config
        return ServerRecord(
            name=config.name,
            address=advertised(addresses.address, config.advertise),
            labels={"host": socket.gethostname(), **config.labels},
            capacity=config.capacity,
            device=True,
            pid=os.getpid(),
            store_id=addresses.store_id,
            version=amino.__version__,
            format_read=FORMAT_READ,
            started_at=addresses.started_at or self._clock.wall(),
        )
