"""Private copies of an object, on which the calls of a transaction run.

Owns taking a copy, running calls on it, and making the object again what it was. Leaves what happens to the copy, and when, to
deployment managers.
Invariants: a copy shares nothing with the object; it is in no snapshot; what ran on it is kept as operations that change
the object equally when they are replayed.
Failure behaviour: a copy that cannot be taken raises and leaves no trace; what a method raises on a copy is its outcome.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from amino.contracts.calls import FORKED
from amino.contracts.effects import Recorder
from amino.errors import Invalid, NotExecuted
from amino.marks import INLINE

if TYPE_CHECKING:
    from amino.contracts.calls import Call
    from amino.contracts.operations import Operation, Replayed
    from amino.kernel.object import KernelObject


class Rerunning(Protocol):
    """What a copy needs of the object's view it was taken through."""

    async def rerun(self, other: KernelObject, operation: Operation, deadline: float) -> Replayed:
        """Run a logged operation on ``other``, in the place that fits its method, past all components."""
        ...


class ObjectFork:
    """Implements ``contracts.component.Fork``. One call at a time."""

    __slots__ = ("_components", "_copy", "_instance", "_place", "_target", "_view", "mutations", "operations")

    def __init__(
        self, view: Rerunning, target: KernelObject, place: int, mutations: int, instance: bytes, components: bytes
    ) -> None:
        self._view = view
        self._target = target
        self._place = place
        self._instance = instance
        self._components = components
        self._copy = target.beside(instance)
        self.mutations = mutations
        self.operations: list[Operation] = []

    def __repr__(self) -> str:
        return f"ObjectFork({self._target.microservice} at {self.mutations}, {len(self.operations)} operations)"

    async def run(self, call: Call) -> Any:
        """Run ``call`` on the copy."""
        call.effects = Recorder()
        seen, call.flags = call.flags, self._target.methods[call.method] | call.flags & INLINE
        forked = FORKED.set(call.request)
        try:
            return await self._copy.invoke(call)
        finally:
            FORKED.reset(forked)
            readonly, call.flags = call.readonly, seen
            if call.executed and not readonly:
                self.operations.append(self._target.operation(call))

    async def verify(self, deadline: float) -> str:
        """Run the operations on another copy; returns why they are not the same, empty if they are."""
        other = self._target.beside(self._instance)
        for number, operation in enumerate(self.operations, 1):
            found = await self._view.rerun(other, operation, deadline)
            if found.unfaithful or found.digest != operation.digest:
                return (
                    f"{operation.method}, call {number} of the transaction, is not deterministic: "
                    f"{found.unfaithful or 'it had another outcome than the transaction was shown'}; take time and random "
                    "numbers from amino.now() and amino.random()"
                )
        return ""

    def changed(self) -> bool:
        """Whether the copy may differ from the object it was taken of."""
        return bool(self.operations) and self._copy.packed() != self._instance

    def undo(self) -> None:
        """Make the object what it was when the copy was taken."""
        target = self._target
        target.adopt_packed(self._instance)
        target.chain.on_restore(target.unpack(self._components), self._place)


async def take_fork(view: Rerunning, target: KernelObject, place: int, call: Call) -> ObjectFork:
    """Return a copy of ``target``'s object for the component at ``place``; see ``ObjectControl.fork``."""
    if any(call.request.nested_in(outer) for outer in target.changing()):
        raise Invalid(
            f"a transaction on {target.microservice} was begun within a changing call of it ({call.request}), whose end it "
            "would wait for; begin it after that call has returned"
        )
    try:
        mutations, instance, components = await target.copied(place)
    except TimeoutError:
        raise NotExecuted(
            f"{target.microservice} could not be copied for a transaction, because a changing call kept running; retry",
            reason="moving",
        ) from None
    return ObjectFork(view, target, place, mutations, instance, components)
