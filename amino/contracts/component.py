"""What a deployment manager is made of, as the kernel, the stubs and the OMS see it.

Owns the Protocols of components and their contexts. Leaves managers themselves to ``amino.dm``.
Invariants: a component reaches the world only through its context; every upcall is optional and passes through.
Failure behaviour: what an upcall raises is the call's (or the operation's) outcome.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from amino.contracts.calls import Call, Forward
from amino.contracts.sharding import Transition

PLACES_EACH = 2
"""Places in a chain that each manager has: a server component, and one directly further out."""


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

    async def before_call(self, call: Call) -> Callable[[], None] | None:
        """A call or message from outside is about to enter the chain: wait, refuse, or let it in.

        The place to wait for other callers: managers further out hold nothing for this call yet, so they cannot keep
        out whom it waits for. Replays do not come by.

        Returns:
            What is called once the call has left the chain, whatever its outcome; None for nothing.
        """
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

    async def on_recover(self) -> None:
        """The object was restored from its newest checkpoint, after a loss and before it is confirmed; raising ends that.

        A component that logged what ran after that checkpoint runs it again now (``checkpoints.tail``).
        """
        ...

    async def on_start(self) -> None:
        """The replica is confirmed and about to serve (constructed, restored or moved here); start timers."""
        ...

    async def on_stop(self) -> None:
        """The replica leaves this process (moved, deleted, fenced); stop what ``on_start`` started. Idempotent."""
        ...

    async def before_snapshot(self) -> None:
        """A snapshot is about to be taken that covers this component: come to where it may be released.

        Raises:
            TimeoutError: it does not get there; the snapshot is not taken.
        """
        ...

    async def on_message(self, topic: str, payload: Any, call: Call) -> Any:
        """Handle a message from a client component, a control handle or a coordinator of the same manager.

        It came as ``call``, through the components of all managers further out, which treat it like any other call
        (``:Manager:topic``); it is answered once per request id, as methods are. What it raises is its outcome,
        ``NotExecuted`` that nothing was done.
        """
        ...

    def shards(self) -> Transition | None:
        """Return the newest change of shards that this shard has heard of, None before any and for all other managers.

        Kept beside its checkpoints, so that a cluster whose etcd is lost can go on with it. From any thread; never wait.
        """
        ...

    async def on_member_change(self) -> None:
        """The group's document changed: ``context.group`` is new. On the server's loop; return soon."""
        ...

    def on_heartbeat(self, server: str, incarnation: int, epoch: int) -> bool:
        """A server says that it has the group's primary at ``epoch``; return whether nothing newer is known here."""
        ...

    def on_acknowledged(self, server: str, incarnation: int, sent_at: float) -> None:
        """A server acknowledged the heartbeat that was sent at ``sent_at`` (``clock.boottime()``) for this group."""
        ...

    def on_server_lost(self, server: str, incarnation: int) -> None:
        """That incarnation is gone, as far as this server has heard."""
        ...

    def on_notification(self, topic: str, payload: bytes) -> bytes:
        """Handle what the same manager's component at another replica of the group sent, and return the answer.

        It comes straight from there, past all other components. On the server's loop, where it was read: never wait here.
        """
        ...

    async def on_low_memory(self) -> None:
        """The process is short of memory: drop what can be dropped."""
        ...

    async def on_high_latency(self, p99_s: float) -> None:
        """Calls of this replica take unusually long."""
        ...


class ServerChain(Protocol):
    """All server components of a replica, composed; what a kernel object talks to."""

    async def call(self, call: Call, innermost: Forward, below: int | None = None) -> Any:
        """Pass ``call`` through the components, the chain's last manager first, and on to ``innermost``.

        Args:
            below: pass it only through the components before this place of the chain.
        """
        ...

    async def before_call(self, call: Call) -> Callable[[], None] | None:
        """Upcall to every component, outermost first; returns what undoes them all, None for nothing."""
        ...

    @property
    def has_doors(self) -> bool:
        """Whether some component has an own ``before_call``."""
        ...

    @property
    def takes_provisional(self) -> bool:
        """Whether some component runs calls of transactions on private copies."""
        ...

    @property
    def holds(self) -> bool:
        """Whether the outermost component may have the kernel hold outcomes (``Call.holds``), and nothing is outside it."""
        ...

    def message_flags(self, method: str) -> int:
        """Return the flags of a message to a component. Raises ``NotFound`` if none takes it."""
        ...

    async def message(self, call: Call) -> Any:
        """Hand a message to the component it is for (the innermost step of its call)."""
        ...

    async def before_snapshot(self, below: int | None = None) -> None:
        """Upcall to every component (before place ``below``), outermost first."""
        ...

    def shards(self) -> Transition | None:
        """Return the newest change of shards that a component has heard of."""
        ...

    async def on_member_change(self) -> None:
        """Upcall to every component, innermost first."""
        ...

    @property
    def watches_group(self) -> bool:
        """Whether some component wants to hear of its group."""
        ...

    def on_heartbeat(self, server: str, incarnation: int, epoch: int) -> bool:
        """Upcall to every component; whether all agree."""
        ...

    def on_acknowledged(self, server: str, incarnation: int, sent_at: float) -> None:
        """Upcall to every component."""
        ...

    def on_server_lost(self, server: str, incarnation: int) -> None:
        """Upcall to every component."""
        ...

    def on_notification(self, manager: str, topic: str, payload: bytes) -> bytes:
        """Hand what another replica's component of ``manager`` sent to the one here. Raises ``NotFound``."""
        ...

    def replication_lag(self) -> int | None:
        """Return how many entries the slowest in-sync replica has still to acknowledge; None if no component is a primary."""
        ...

    def latency_p99_s(self) -> float | None:
        """Return the 99th percentile of calls since the last question, in seconds; None if nobody wants to know or too few ran."""
        ...

    async def on_low_memory(self) -> None:
        """Upcall to every component, outermost first."""
        ...

    async def on_high_latency(self, p99_s: float) -> None:
        """Upcall to every component, outermost first."""
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

    def on_snapshot(self, below: int | None = None) -> dict[str, Any]:
        """States of all components (before place ``below``), by manager and place."""
        ...

    def on_restore(self, states: dict[str, Any], below: int | None = None) -> None:
        """Hand each component (before place ``below``) its state."""
        ...

    async def on_recover(self) -> None:
        """Upcall to every component, innermost first."""
        ...

    async def on_start(self) -> None:
        """Upcall to every component, innermost first."""
        ...

    async def on_stop(self) -> None:
        """Upcall to every component, outermost first."""
        ...
