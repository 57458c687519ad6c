"""Composing managers into chains, on the caller's side and on the server's.

Owns the order of components and the fan-out of upcalls. Leaves what they do to the managers.
Invariants: for ``[A, B, C]`` a call passes client A, B, C, the network, server C, B, A, the object; managers without an
own ``on_call`` cost nothing; snapshots hold each component's state by its manager's place in the chain.
Failure behaviour: what a component raises is the outcome of the call or operation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from amino.contracts.tracing import traced
from amino.dm.base import ClientBase, Manager, ServerBase, Trait
from amino.telemetry import names
from amino.telemetry.trace import Telemetry

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from amino.contracts.calls import Call, Forward
    from amino.contracts.component import ClientContext, ServerContext

_SILENT = Telemetry.disabled()


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

    __slots__ = ("_components", "_handlers", "_telemetry", "passes_through", "restores_state")

    def __init__(self, managers: Sequence[Manager], context: ServerContext, telemetry: Telemetry = _SILENT) -> None:
        self._telemetry = telemetry
        self._components: list[tuple[str, ServerBase]] = []
        for position, manager in enumerate(managers):
            component = manager.server(context)
            if component is not None:
                self._components.append((f"{type(manager).__name__}@{position}", component))
        self._handlers = [each.on_call for _, each in self._components if type(each).on_call is not ServerBase.on_call]
        self.passes_through = not self._handlers and not telemetry.tracing
        self.restores_state = any(Trait.RESTORES_STATE in manager.provides for manager in managers)

    def __repr__(self) -> str:
        return f"ComposedServerChain({', '.join(name for name, _ in self._components)})"

    async def call(self, call: Call, innermost: Forward) -> Any:
        """Pass ``call`` through, the last manager's component first."""
        if self._telemetry.tracing:
            return await self._call_traced(call, innermost)
        forward = innermost
        for on_call in self._handlers:  # first manager innermost
            forward = _step(on_call, forward)
        return await forward(call)

    async def _call_traced(self, call: Call, innermost: Forward) -> Any:
        telemetry = self._telemetry

        def method(call: Call) -> Any:
            return traced(telemetry, names.METHOD, innermost, call, attributes={names.METHOD_NAME: call.method})

        forward: Forward = method
        for name, component in self._components:
            if type(component).on_call is not ServerBase.on_call:
                step = _step(component.on_call, forward)
                forward = _traced(telemetry, names.SERVER_DM, name.partition("@")[0], step)
        return await forward(call)

    async def on_create(self) -> None:
        """Upcall to every component, innermost first."""
        for _, component in self._components:
            await component.on_create()

    async def on_destroy(self) -> None:
        """Upcall to every component, outermost first."""
        for _, component in reversed(self._components):
            await component.on_destroy()

    def on_snapshot(self) -> dict[str, Any]:
        """States of all components that have one, by manager and place."""
        states = {name: component.on_snapshot() for name, component in self._components}
        return {name: state for name, state in states.items() if state is not None}

    def on_restore(self, states: dict[str, Any]) -> None:
        """Hand each component its state, None if it had none."""
        for name, component in self._components:
            component.on_restore(states.get(name))

    async def on_start(self) -> None:
        """Upcall to every component, innermost first."""
        for _, component in self._components:
            await component.on_start()

    async def on_stop(self) -> None:
        """Upcall to every component, outermost first."""
        for _, component in reversed(self._components):
            await component.on_stop()
