"""Composing managers into chains, on the caller's side and on the server's.

Owns the order of components and the fan-out of upcalls. Leaves what they do to the managers.
Invariants: for ``[A, B, C]`` a call passes client A, B, C, the network, server C, B, A, the object; managers without an
own ``on_call`` cost nothing; snapshots hold each component's state by its manager's place in the chain.
Failure behaviour: what a component raises is the outcome of the call or operation.
"""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Any

from amino.contracts.calls import COMPONENT
from amino.contracts.component import PLACES_EACH
from amino.contracts.tracing import traced
from amino.dm.base import ClientBase, Manager, ServerBase, Trait
from amino.errors import NotFound
from amino.marks import OWN, READONLY
from amino.telemetry import names
from amino.telemetry.trace import Telemetry

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from amino.contracts.calls import Call, Forward
    from amino.contracts.context import ClientContext, ServerContext
    from amino.contracts.sharding import Transition

_SILENT = Telemetry.disabled()
LATENCIES_KEPT = 1000
LATENCIES_MIN = 20


def compose_client(
    managers: Sequence[Manager],
    context: ClientContext,
    innermost: Forward,
    telemetry: Telemetry = _SILENT,
) -> Forward:
    """Return the first step of the client side: the outermost manager's component, or ``innermost`` itself."""
    forward = innermost
    for manager in reversed(managers):
        component = manager.client(context)
        if component is not None and type(component).on_call is not ClientBase.on_call:
            forward = _step(component.on_call, forward)
            if telemetry.tracing:
                forward = _traced(telemetry, names.CLIENT_DM, type(manager).__name__, forward)
    return forward


def _step(on_call: Callable[[Call, Forward], Any], forward: Forward) -> Forward:
    def step(call: Call) -> Any:
        return on_call(call, forward)

    return step


def _traced(telemetry: Telemetry, span: str, manager: str, forward: Forward) -> Forward:
    attributes = {names.DM: manager}

    def step(call: Call) -> Any:
        return traced(telemetry, span, forward, call, attributes=attributes)

    return step


class ComposedServerChain:
    """Implements ``contracts.component.ServerChain``."""

    __slots__ = (
        "_components",
        "_doors",
        "_handlers",
        "_latencies",
        "_sharding",
        "_sole",
        "_telemetry",
        "has_doors",
        "holds",
        "passes_through",
        "restores_state",
        "takes_provisional",
    )

    def __init__(
        self,
        managers: Sequence[Manager],
        context: Callable[[int], ServerContext],
        telemetry: Telemetry = _SILENT,
    ) -> None:
        self._telemetry = telemetry
        self._components: list[tuple[str, int, ServerBase]] = []
        for index, manager in enumerate(managers):
            name, place = type(manager).__name__, PLACES_EACH * index
            component = manager.server(context(place))
            if component is not None:
                self._components.append((f"{name}@{index}", place, component))
            if type(manager).outer_server is not Manager.outer_server:
                outer = manager.outer_server(context(place + 1))
                if outer is not None:
                    self._components.append((f"{name}+@{index}", place + 1, outer))
        handling = [
            (position, each) for _, position, each in self._components if type(each).on_call is not ServerBase.on_call
        ]
        self._handlers = [(position, each.on_call) for position, each in handling]
        self._sole: Callable[[Call, Forward], Coroutine[Any, Any, Any]] | None = None
        self._doors = [
            each.before_call
            for _, _, each in reversed(self._components)
            if type(each).before_call is not ServerBase.before_call
        ]
        self._sharding = [each.shards for _, _, each in self._components if type(each).shards is not ServerBase.shards]
        self.has_doors = bool(self._doors)
        self.takes_provisional = any(each.takes_provisional for _, _, each in self._components)
        takes_messages = any(type(each).on_message is not ServerBase.on_message for _, _, each in self._components)
        watches = any(type(each).on_high_latency is not ServerBase.on_high_latency for _, _, each in self._components)
        self._latencies: deque[float] | None = deque(maxlen=LATENCIES_KEPT) if watches else None
        if len(handling) == 1 and not watches:
            self._sole = handling[0][1].on_call
        waits_inside = bool(self._doors) or watches
        self.holds = bool(handling) and handling[-1][1].holds and not waits_inside
        self.passes_through = not self._handlers and not self._doors and not takes_messages and not watches
        self.restores_state = any(Trait.RESTORES_STATE in manager.provides for manager in managers)

    def __repr__(self) -> str:
        return f"ComposedServerChain({', '.join(name for name, _, _ in self._components)})"

    def call(self, call: Call, innermost: Forward, below: int | None = None) -> Coroutine[Any, Any, Any]:
        """Pass ``call`` through, the last manager's component first; a message only as far as the one it is for."""
        sole = self._sole
        if sole is not None and below is None and not call.traced and not call.method.startswith(COMPONENT):
            return sole(call, innermost)
        return self._call_timed(call, innermost, below)

    async def _call_timed(self, call: Call, innermost: Forward, below: int | None) -> Any:
        message = call.method.startswith(COMPONENT) and not call.flags & OWN
        above = self._addressed(call.method)[0] if message else -1
        if self._latencies is None or below is not None:
            return await self._call(call, innermost, above, below)
        began = time.perf_counter()
        try:
            return await self._call(call, innermost, above, below)
        finally:
            self._latencies.append(time.perf_counter() - began)

    async def _call(self, call: Call, innermost: Forward, above: int, below: int | None) -> Any:
        if call.traced:
            return await self._call_traced(call, innermost, above, below)
        forward = innermost
        for position, on_call in self._handlers:  # first manager innermost
            if position > above and (below is None or position < below):
                forward = _step(on_call, forward)
        return await forward(call)

    def latency_p99_s(self) -> float | None:
        """Return the 99th percentile of calls since the last question, in seconds; None if nobody measures or too few ran."""
        if self._latencies is None or len(self._latencies) < LATENCIES_MIN:
            return None
        latencies = sorted(self._latencies)
        self._latencies.clear()
        return latencies[int(len(latencies) * 0.99)]

    def replication_lag(self) -> int | None:
        """Return the lag of the components that replicate, None if none is a primary."""
        lags = [lag for _, _, each in self._components if (lag := each.replication_lag()) is not None]
        return max(lags, default=None)

    async def before_call(self, call: Call) -> Callable[[], None] | None:
        """Upcall to every component that waits for other callers, outermost first."""
        left: list[Callable[[], None]] = []

        def leave() -> None:
            for each in reversed(left):
                each()

        try:
            for door in self._doors:
                done = await door(call)
                if done is not None:
                    left.append(done)
        except BaseException:
            leave()
            raise
        return leave if left else None

    def _addressed(self, method: str) -> tuple[int, ServerBase, str]:
        """Return place and component that a message is for, and its topic."""
        _, manager, topic = method.split(COMPONENT, 2)
        for name, position, component in self._components:
            if name.partition("@")[0] == manager and type(component).on_message is not ServerBase.on_message:
                return position, component, topic
        raise NotFound(f"no {manager} here takes messages, so {method!r} reaches nobody; its chain is {self!r}")

    def message_flags(self, method: str) -> int:
        """Return the flags of a message: ``READONLY`` if its topic changes nothing."""
        if method.count(COMPONENT) < 2:
            raise NotFound(f"{method!r} is no message to a component; those are called :Manager:topic")
        _, component, topic = self._addressed(method)
        return READONLY if topic in component.readonly_topics else 0

    async def message(self, call: Call) -> Any:
        """Hand a message to its component."""
        _, component, topic = self._addressed(call.method)
        return await component.on_message(topic, call.args[0] if call.args else None, call)

    async def _call_traced(self, call: Call, innermost: Forward, above: int, below: int | None) -> Any:
        telemetry = self._telemetry

        def method(call: Call) -> Any:
            return traced(telemetry, names.METHOD, innermost, call, attributes={names.METHOD_NAME: call.method})

        forward: Forward = method
        for name, position, component in self._components:
            inside = position > above and (below is None or position < below)
            if inside and type(component).on_call is not ServerBase.on_call:
                step = _step(component.on_call, forward)
                forward = _traced(telemetry, names.SERVER_DM, name.partition("@")[0], step)
        return await forward(call)

    async def on_create(self) -> None:
        """Upcall to every component, innermost first."""
        for _, _, component in self._components:
            await component.on_create()

    async def on_destroy(self) -> None:
        """Upcall to every component, outermost first."""
        for _, _, component in reversed(self._components):
            await component.on_destroy()

    def on_snapshot(self, below: int | None = None) -> dict[str, Any]:
        """States of all components (before place ``below``) that have one, by manager and place."""
        inside = self._before(below)
        states = {name: component.on_snapshot() for name, component in inside}
        return {name: state for name, state in states.items() if state is not None}

    def on_restore(self, states: dict[str, Any], below: int | None = None) -> None:
        """Hand each component (before place ``below``) its state, None if it had none, wherever its manager stood then."""
        inside = self._before(below)
        elsewhere = {key.partition("@")[0]: state for key, state in states.items() if key not in dict(inside)}
        for name, component in inside:  # after a change of managers one may stand at another place
            component.on_restore(states[name] if name in states else elsewhere.get(name.partition("@")[0]))

    def _before(self, below: int | None) -> list[tuple[str, ServerBase]]:
        return [(name, each) for name, position, each in self._components if below is None or position < below]

    async def on_recover(self) -> None:
        """Upcall to every component, innermost first."""
        for _, _, component in self._components:
            await component.on_recover()

    async def on_start(self) -> None:
        """Upcall to every component, innermost first."""
        for _, _, component in self._components:
            await component.on_start()

    async def on_stop(self) -> None:
        """Upcall to every component, outermost first."""
        for _, _, component in reversed(self._components):
            await component.on_stop()

    async def before_snapshot(self, below: int | None = None) -> None:
        """Ask every component (before place ``below``) to come to where a snapshot may be released, outermost first."""
        for _, component in reversed(self._before(below)):
            if type(component).before_snapshot is not ServerBase.before_snapshot:
                await component.before_snapshot()

    def shards(self) -> Transition | None:
        """Return the newest change of shards that a component has heard of."""
        return next((found for shards in self._sharding if (found := shards()) is not None), None)

    async def on_member_change(self) -> None:
        """Upcall to every component, innermost first."""
        for _, _, component in self._components:
            await component.on_member_change()

    @property
    def watches_group(self) -> bool:
        """Whether some component wants to hear of its group."""
        return any(type(each).on_member_change is not ServerBase.on_member_change for _, _, each in self._components)

    def on_heartbeat(self, server: str, incarnation: int, epoch: int) -> bool:
        """Upcall to every component; whether all agree."""
        return all(each.on_heartbeat(server, incarnation, epoch) for _, _, each in self._components)

    def on_acknowledged(self, server: str, incarnation: int, sent_at: float) -> None:
        """Upcall to every component."""
        for _, _, each in self._components:
            each.on_acknowledged(server, incarnation, sent_at)

    def on_server_lost(self, server: str, incarnation: int) -> None:
        """Upcall to every component."""
        for _, _, each in self._components:
            each.on_server_lost(server, incarnation)

    def on_notification(self, manager: str, topic: str, payload: bytes) -> bytes:
        """Hand what another replica's component of ``manager`` sent to the one here, and return its answer."""
        for name, _, component in self._components:
            if name.partition("@")[0] == manager:
                return component.on_notification(topic, payload)
        raise NotFound(f"no {manager} is here to take {topic!r}; its chain is {self!r}")

    async def on_low_memory(self) -> None:
        """Upcall to every component, outermost first."""
        for _, _, component in reversed(self._components):
            await component.on_low_memory()

    async def on_high_latency(self, p99_s: float) -> None:
        """Upcall to every component, outermost first."""
        for _, _, component in reversed(self._components):
            await component.on_high_latency(p99_s)
