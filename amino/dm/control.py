"""``amino.control(stub, SomeManager)``: a manager's own operations, without touching the application's class.

Owns handing out typed handles. Leaves what they do to the managers.
Invariant: a handle is given only for a manager that is in the microservice's chain.
Failure behaviour: a manager without operations, or not in the chain, raises ``Invalid`` that says what is there.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from amino.aio.mode import drive, on_loop
from amino.contracts.calls import component_message
from amino.errors import Invalid
from amino.stubs.runtime import DEADLINE
from amino.stubs.stub import Stub, blocking

if TYPE_CHECKING:
    import random

    import msgspec

    from amino.contracts.documents import DmSpec
    from amino.dm.base import Manager
    from amino.stubs.runtime import Runtime
    from amino.stubs.target import Target

P = ParamSpec("P")
R = TypeVar("R")
_TIMEOUT_S = 30.0


class ControlContext:
    """What a handle may do.

    Args:
        manager: with the options it has in the microservice's chain.
    """

    def __init__(self, runtime: Runtime, microservice: str, manager: Manager) -> None:
        self._runtime = runtime
        self.microservice = microservice
        self.manager = manager

    @property
    def runtime(self) -> Runtime:
        """What sends calls."""
        return self._runtime

    @property
    def random(self) -> random.Random:
        """Random numbers, for back-off."""
        return self._runtime.random

    def new_id(self) -> str:
        """Return an id that nobody else makes."""
        return self._runtime.entropy(12).hex()

    async def registry(self, method: str, request: msgspec.Struct, timeout_s: float = _TIMEOUT_S) -> Any:
        """Run a registry operation and learn a new location from its answer."""
        from amino.contracts.services import Location

        answer = await self._runtime.registry.call(
            method, request, timeout_s=min(timeout_s, DEADLINE.get() or timeout_s)
        )
        if isinstance(answer, Location):
            self._runtime.learn(answer)
        return answer

    async def message(self, manager: type[Manager], topic: str, payload: Any = None, path: str = "/") -> Any:
        """Send a message to the server component of ``manager``, as a call through the chain; returns its answer.

        Args:
            path: of the group it is for; ``/`` leaves that to the chain.
        """
        target = self._runtime.target(self.microservice)
        return await self._runtime.invoke(target, component_message(manager.__name__, topic), 0, (payload,), {}, path)


class Control:
    """Base of handles."""

    def __init__(self, context: ControlContext) -> None:
        self._context = context

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._context.microservice}>"


def operation(function: Callable[P, Awaitable[R]]) -> Callable[P, R]:
    """Make an operation blocking; ``amino.aio(handle.operation)`` gets the awaitable form."""
    return blocking(function)


def control(stub: Any, manager: type[Manager]) -> Any:
    """Return the handle of ``manager`` for the microservice behind ``stub``.

    Raises:
        Invalid: not a stub, the manager has no operations, or it is not in the microservice's chain; on a loop also if
            nothing is known yet of a microservice that was never called from here.
    """
    if not isinstance(stub, Stub):
        raise Invalid(f"amino.control takes a stub, not {stub!r}")
    kind: type[Control] | None = getattr(manager, "Control", None)
    if kind is None:
        raise Invalid(f"{manager.__name__} has no operations of its own")
    runtime, target = stub._amino_runtime, stub._amino_target  # noqa: SLF001 - stubs keep names out of the user's way
    if runtime is None:
        raise Invalid(f"{stub!r} belongs to no cluster here; use cluster.bind(stub)")
    chain = {dm.name: dm.options for dm in _chain_of(stub, runtime, target)}
    if manager.__name__ not in chain:
        raise Invalid(f"{stub!r} is not managed by {manager.__name__}; its chain is {list(chain) or 'empty'}")
    options = manager.from_options(chain[manager.__name__])
    return kind(ControlContext(runtime, target.microservice, options))


def _chain_of(stub: Any, runtime: Runtime, target: Target) -> tuple[DmSpec, ...]:
    """Return the chain as it is known here; asks for it where that may block."""
    if target.location is None and target.forward is not None:
        return target.chain  # of the last call; its place was lost since
    if target.location is None and on_loop():
        raise Invalid(
            f"on an event loop the managers of {stub!r} are not known before a call; await a method of it first"
        )
    drive(runtime.methods(target))
    location = target.location
    return location.spec.dms if location is not None else target.chain
