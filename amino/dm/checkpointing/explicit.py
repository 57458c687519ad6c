"""``ExplicitCheckpoint``: the application says when a checkpoint is taken, and when to go back to it.

Owns the control handle and what it does at the replica. Leaves storing checkpoints to ``context.checkpoints``, and coming
back after a loss to the kernel.
Invariants: a checkpoint holds the state between two changing calls; going back is one changing call for managers further
out, which carries the checkpoint with it, so that replicas and logs do the same.
Failure behaviour: a checkpoint that fails leaves the one before; going back without a checkpoint changes nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import msgspec

from amino.aio.signal import Turn
from amino.contracts.calls import PerShard
from amino.dm.base import Manager, ServerBase, Trait
from amino.dm.control import Control, operation
from amino.errors import Invalid, NotExecuted, NotFound

if TYPE_CHECKING:
    from amino.contracts.calls import Call
    from amino.contracts.context import ServerContext

_CHECKPOINT, _RESTORE = "checkpoint", "restore"


class CheckpointControl(Control):
    """Checkpoints of one microservice; from ``amino.control(stub, ExplicitCheckpoint)``."""

    async def _checkpoint(self) -> int:
        """Store the present state, synced, and return its sequence number; changing calls wait for a moment.

        Shards store theirs one by one, not at one instant; returned is the highest of their numbers.

        Raises:
            StoreFailed: the store refused; the checkpoint before stays the newest. NotExecuted: a changing call kept
                running until the deadline. Repeating it takes another checkpoint.
        """
        return _highest(await self._context.message(ExplicitCheckpoint, _CHECKPOINT))

    checkpoint = operation(_checkpoint)

    async def _restore(self) -> int:
        """Bring back the state of the newest intact checkpoint and return its sequence number.

        What ran since is undone, and not forgotten: a repeated request gets its saved answer and does not run again.

        Raises:
            NotFound: there is no checkpoint; nothing was changed. StoreFailed: it cannot be read. NotExecuted: a changing
                call kept running. Idempotent.
        """
        return _highest(await self._context.message(ExplicitCheckpoint, _RESTORE))

    restore = operation(_restore)


def _highest(answer: Any) -> int:
    """Return the sequence number, the highest where each shard has told its own."""
    return max(answer) if isinstance(answer, PerShard) else int(answer)


class ExplicitCheckpoint(Manager, frozen=True, kw_only=True):
    """Takes checkpoints, and goes back to them, when the application says so.

    Guarantee: after the loss of its server the object comes back as the newest intact checkpoint has it; what came after
    is lost. Without any checkpoint ``on_loss`` decides: ``fail`` raises ``StateLost``, ``recreate`` runs the constructor.

    Args:
        keep: checkpoints kept (1 to 100); the ones before the newest are for the case that it is damaged.
    """

    keep: Annotated[int, msgspec.Meta(ge=1, le=100)] = 2

    provides = frozenset({Trait.CHECKPOINTS, Trait.RESTORES_STATE})
    requires = frozenset({Trait.STORE})
    Control: ClassVar[type[Control]] = CheckpointControl

    def brings_back(self) -> bool:
        """It does: ``restore`` does nothing else."""
        return True

    def server(self, context: ServerContext) -> ServerBase:
        """Return the component that takes checkpoints."""
        return _Checkpointer(self.keep, context)


class _Checkpointer(ServerBase):
    readonly_topics = frozenset({_CHECKPOINT})

    def __init__(self, keep: int, context: ServerContext) -> None:
        self._keep = keep
        self._context = context
        self._turn = Turn()

    async def on_message(self, topic: str, payload: Any, call: Call) -> Any:  # noqa: ARG002 - neither has one
        if topic == _CHECKPOINT:
            return await self._checkpoint(call)
        if topic == _RESTORE:
            return await self._restore(call)
        raise Invalid(f"ExplicitCheckpoint takes no message {topic!r}; it takes {_CHECKPOINT} and {_RESTORE}")

    async def _checkpoint(self, call: Call) -> int:
        try:
            await self._turn.acquire(self._left(call))
        except TimeoutError:
            raise self._in_use("the checkpoints before it were not written") from None
        try:
            return await self._context.checkpoints.write(await self._snapshot(call), self._keep)
        finally:
            self._turn.release()

    async def _snapshot(self, call: Call) -> bytes:
        while True:
            try:
                return await self._context.object.snapshot()
            except TimeoutError:  # those that waited for it have gone on meanwhile
                if not self._left(call):
                    raise self._in_use("a changing call kept running") from None

    async def _restore(self, call: Call) -> int:
        async def newest() -> list[Any] | None:
            found = await self._context.checkpoints.newest()
            return None if found is None else list(found)

        effects = call.effects
        found = await (newest() if effects is None else effects.outcome(effects.next(_CHECKPOINT), newest, None))
        if found is None:
            raise NotFound(f"microservice {self._context.microservice} has no checkpoint; nothing was changed")
        snapshot, sequence = found
        try:
            await self._context.object.rebuild(snapshot, within=call.request)
        except TimeoutError:
            raise self._in_use("a changing call kept running") from None
        return int(sequence)

    def _left(self, call: Call) -> float:
        return max(call.deadline - self._context.clock.monotonic(), 0.0)

    def _in_use(self, why: str) -> NotExecuted:
        return NotExecuted(f"the state of {self._context.microservice} is in use: {why}; retry", reason="deadline")
