"""``amino.control(stub, SomeManager)``: a manager's own operations, without touching the application's class.

Owns handing out typed handles. Leaves what they do to the managers.
Invariant: a handle is given only for a manager that is in the microservice's chain.
Failure behaviour: a manager without operations, or not in the chain, raises ``Invalid`` that says what is there.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from amino.aio.mode import drive
from amino.errors import Invalid
from amino.stubs.stub import Stub, blocking

if TYPE_CHECKING:
    import msgspec

    from amino.dm.base import Manager
    from amino.stubs.runtime import Runtime

P = ParamSpec("P")
R = TypeVar("R")
_TIMEOUT_S = 30.0


class ControlContext:
    """What a handle may do."""

    def __init__(self, runtime: Runtime, microservice: str) -> None:
        self._runtime = runtime
        self.microservice = microservice

    async def registry(self, method: str, request: msgspec.Struct, timeout_s: float = _TIMEOUT_S) -> Any:
        """Run a registry operation and learn a new location from its answer."""
        from amino.contracts.services import Location

        answer = await self._runtime.registry.call(method, request, timeout_s=timeout_s)
        if isinstance(answer, Location):
            self._runtime.learn(answer)
        return answer


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
        Invalid: not a stub, the manager has no operations, or it is not in the microservice's chain.
    """
    if not isinstance(stub, Stub):
        raise Invalid(f"amino.control takes a stub, not {stub!r}")
    kind: type[Control] | None = getattr(manager, "Control", None)
    if kind is None:
        raise Invalid(f"{manager.__name__} has no operations of its own")
    runtime, target = stub._amino_runtime, stub._amino_target  # noqa: SLF001 - stubs keep names out of the user's way
    if runtime is None:
        raise Invalid(f"{stub!r} belongs to no cluster here; use cluster.bind(stub)")
    drive(runtime.methods(target))
    location = target.location
    chain = [dm.name for dm in location.spec.dms] if location is not None else []
    if manager.__name__ not in chain:
        raise Invalid(f"{stub!r} is not managed by {manager.__name__}; its chain is {chain or 'empty'}")
    return kind(ControlContext(runtime, target.microservice))
