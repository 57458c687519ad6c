"""What a deployment manager is made of, as the kernel, the stubs and the OMS see it.

Owns the Protocols of components and their contexts. Leaves managers themselves to ``amino.dm``.
Invariants: a component reaches the world only through its context; every upcall is optional and passes through.
Failure behaviour: what an upcall raises is the call's (or the operation's) outcome.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol

from amino.aio.clock import Clock
from amino.contracts.calls import Call, Forward


class ClientComponent(Protocol):
    """Runs next to the caller. Waits only through its context: callers may be blocking (``amino.aio.mode``)."""

    async def on_call(self, call: Call, forward: Forward) -> Any:
        """Handle a call; ``await forward(call)`` passes it on. May be called concurrently, from threads too."""
        ...


class ServerComponent(Protocol):
    """Runs next to a replica, as part of the object for all managers further in."""

    async def on_call(self, call: Call, forward: Forward) -> Any:
        """Handle a call; ``await forward(call)`` passes it on towards the object."""
        ...

    async def on_create(self) -> None:
        """The object was just constructed (not restored), before it is confirmed; raising undoes the creation."""
        ...

    async def on_destroy(self) -> None:
        """The object is being deleted for good: remove what this component keeps elsewhere. Idempotent."""
        ...

    def on_snapshot(self) -> Any:
        """Return this component's state for the object's snapshot (picklable); called while no mutating call runs."""
        ...

    def on_restore(self, state: Any) -> None:
        """Take over the state that ``on_snapshot`` returned (None if it had none), before any call."""
        ...

    async def on_start(self) -> None:
        """The replica is confirmed and about to serve (constructed, restored or moved here); start timers."""
        ...

    async def on_stop(self) -> None:
        """The replica leaves this process (moved, deleted, fenced); stop what ``on_start`` started. Idempotent."""
        ...

    async def on_notification(self, topic: str, payload: Any) -> Any:
        """A message from another component of the same manager."""
        ...

    async def on_low_memory(self) -> None:
        """The process is short of memory: drop what can be dropped."""
        ...

    async def on_high_latency(self, p99_s: float) -> None:
        """Calls of this replica take unusually long."""
        ...


class ServerChain(Protocol):
    """All server components of a replica, composed; what a kernel object talks to."""

    async def call(self, call: Call, innermost: Forward) -> Any:
        """Pass ``call`` through the components, the chain's last manager first, and on to ``innermost``."""
        ...

    @property
    def passes_through(self) -> bool:
        """Whether no component handles calls, so that the kernel may run the method directly."""
        ...

    @property
    def restores_state(self) -> bool:
        """Whether some manager restores or replicates the object's state, which forbids re-entrant mutating calls."""
        ...

    async def on_create(self) -> None:
        """Upcall to every component, innermost first."""
        ...

    async def on_destroy(self) -> None:
        """Upcall to every component, outermost first."""
        ...

    def on_snapshot(self) -> dict[str, Any]:
        """States of all components, by position."""
        ...

    def on_restore(self, states: dict[str, Any]) -> None:
        """Hand each component its state."""
        ...

    async def on_start(self) -> None:
        """Upcall to every component, innermost first."""
        ...

    async def on_stop(self) -> None:
        """Upcall to every component, outermost first."""
        ...


class ObjectControl(Protocol):
    """What a server component may do with the object it stands in front of."""

    @property
    def mutations(self) -> int:
        """How many mutating calls have finished on this replica since it was constructed; in snapshots."""
        ...

    async def snapshot(self) -> bytes:
        """Return the state of object, components and answered requests, taken while no mutating call runs.

        New mutating calls wait meanwhile. Do not call it while this very call's method is still running.

        Raises:
            TimeoutError: a mutating call kept running; try again.
        """
        ...

    async def snapshot_counted(self) -> tuple[int, bytes]:
        """As ``snapshot``, with the number of mutations that it holds."""
        ...

    async def restore(self, snapshot: bytes) -> None:
        """Replace the state by an earlier snapshot, while no call runs."""
        ...


class Checkpoints(Protocol):
    """The checkpoints of one replica's group."""

    async def write(self, snapshot: bytes, keep: int) -> int:
        """Store ``snapshot`` under a fresh name, synced, then publish it by a guarded write; returns its sequence.

        Args:
            keep: how many to keep (1 or more); older ones are removed.

        Raises:
            StoreFailed: the store refused; the previous checkpoint stays current.
            NotExecuted: the session is not valid or the placement is not ours any more (reason ``fenced``).
        """
        ...

    async def newest(self) -> tuple[bytes, int] | None:
        """Return the newest intact checkpoint with its sequence, None if there never was one.

        Raises:
            CorruptCheckpoint: there are checkpoints but none is intact.
        """
        ...


class ServerContext(Protocol):
    """The world, as a server component sees it."""

    @property
    def microservice(self) -> str:
        """Id of the microservice."""
        ...

    @property
    def path(self) -> str:
        """The group's place in the tree."""
        ...

    @property
    def replica(self) -> str:
        """Id of this replica."""
        ...

    @property
    def server(self) -> str:
        """Name of the kernel server."""
        ...

    @property
    def clock(self) -> Clock:
        """Time."""
        ...

    @property
    def random(self) -> random.Random:
        """Random numbers."""
        ...

    @property
    def object(self) -> ObjectControl:
        """The object this component stands in front of."""
        ...

    @property
    def checkpoints(self) -> Checkpoints:
        """The checkpoints of this replica's group."""
        ...

    def spawn(self, coroutine: Coroutine[Any, Any, None], name: str) -> Callable[[], Awaitable[None]]:
        """Run a background task on the server's loop until it ends or the replica leaves; returns its stopper."""
        ...

    def event(self, kind: str, **fields: Any) -> None:
        """Record something an operator should see."""
        ...


class ClientContext(Protocol):
    """The world, as a client component sees it."""

    @property
    def microservice(self) -> str:
        """Id of the microservice."""
        ...

    @property
    def clock(self) -> Clock:
        """Time."""
        ...

    @property
    def random(self) -> random.Random:
        """Random numbers."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait, in the way that fits the caller; ends early when the microservice's location changes."""
        ...
