"""``PeriodicCheckpoint``: a checkpoint every N mutating calls and/or every T seconds.

Owns when checkpoints are taken. Leaves storing them to ``context.checkpoints`` and restoring to the kernel.
Invariants: a call whose turn it is to be covered is answered only after the checkpoint that holds its effect (and its
saved answer) is published; calls that finish together share one checkpoint.
Failure behaviour: a checkpoint that fails fails the call that needed it, with the state kept; repeated, the call gets its
saved answer once a checkpoint has succeeded.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from amino.aio.mode import sleep
from amino.aio.signal import Turn
from amino.contracts.calls import Raised
from amino.dm.base import Manager, ServerBase, Trait
from amino.errors import AminoError, Invalid, NotExecuted, OutcomeUnknown, StoreFailed

if TYPE_CHECKING:
    from amino.contracts.calls import Call, Forward
    from amino.contracts.component import ServerContext

_log = logging.getLogger("amino.dm")


class PeriodicCheckpoint(Manager, frozen=True, kw_only=True):
    """Takes a checkpoint every ``every`` mutating calls and/or every ``interval_s`` seconds; recovers from the newest.

    Guarantee: after the loss of the server at most ``every`` - 1 acknowledged mutating calls are lost; with ``every=1``
    none. The first checkpoint is taken before the creation is acknowledged.

    Args:
        every: mutating calls per checkpoint (1 to 1,000,000), or None for time only.
        interval_s: seconds between checkpoints of a changed object (more than 0), or None for calls only.
        rollback_on_error: a call that raises leaves the state as it was before it.
        keep: checkpoints kept (1 to 100); the ones before the newest are for the case that it is damaged.
    """

    every: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] | None = 100
    interval_s: Annotated[float, msgspec.Meta(gt=0, le=86_400)] | None = None
    rollback_on_error: bool = False
    keep: Annotated[int, msgspec.Meta(ge=1, le=100)] = 2

    provides = frozenset({Trait.CHECKPOINTS, Trait.RESTORES_STATE})
    requires = frozenset({Trait.STORE})

    def check(self) -> None:
        """Check that checkpoints are taken at all."""
        if self.every is None and self.interval_s is None:
            raise Invalid("PeriodicCheckpoint: every and interval_s are both None; give at least one of them")

    def server(self, context: ServerContext) -> ServerBase:
        """Return the component that takes checkpoints."""
        return _Checkpointer(self, context)


class _Checkpointer(ServerBase):
    def __init__(self, options: PeriodicCheckpoint, context: ServerContext) -> None:
        self._options = options
        self._context = context
        self._covered = 0
        self._taking = Turn()
        self._rolling_back = Turn()

    async def on_create(self) -> None:
        await self._take()

    def on_snapshot(self) -> int:
        return self._covered

    def on_restore(self, state: Any) -> None:
        # Not what the object holds: a move carries calls that no checkpoint covers, with their answers, and whoever gets
        # such an answer must not lose its effect. After a recovery this takes one checkpoint more than needed.
        self._covered = state if isinstance(state, int) else 0

    async def on_start(self) -> None:
        if self._options.interval_s is not None:
            self._context.spawn(self._tick(self._options.interval_s), "checkpoint")

    async def on_call(self, call: Call, forward: Forward) -> Any:
        if call.readonly:
            return await forward(call)
        if self._options.rollback_on_error:
            return await self._with_rollback(call, forward)
        try:
            return await forward(call)
        finally:
            if call.executed:
                await self._cover(call)

    async def _with_rollback(self, call: Call, forward: Forward) -> Any:
        context = self._context
        try:
            await self._rolling_back.acquire(max(call.deadline - context.clock.monotonic(), 0.0))
        except TimeoutError:
            raise NotExecuted(
                f"{call.method} waited until its deadline for calls before it, which may have to be rolled back",
                reason="deadline",
            ) from None
        try:
            try:
                before = await context.object.snapshot()
            except TimeoutError:
                raise NotExecuted(
                    f"the state of {context.microservice} could not be kept for a rollback: it is in use; retry",
                    reason="moving",
                ) from None
            try:
                result = await forward(call)
            except Raised as raised:
                await self._roll_back(call, before, raised)
                raise
        finally:
            self._rolling_back.release()
        await self._cover(call)
        return result

    async def _roll_back(self, call: Call, before: bytes, raised: Raised) -> None:
        try:
            await self._context.object.restore(before)
        except (TimeoutError, AminoError) as error:
            raise OutcomeUnknown(
                f"{call.method} raised {raised.error!r} and could not be rolled back ({error or 'the object is in use'}); "
                "read the state and decide"
            ) from raised.error

    async def _cover(self, call: Call) -> None:
        every = self._options.every
        goal = self._context.object.mutations
        if every is None or goal - self._covered < every:
            return
        timeout_s = max(call.deadline - self._context.clock.monotonic(), 0.0)
        try:
            await self._taking.acquire(timeout_s)
        except TimeoutError:
            raise OutcomeUnknown(f"{call.method} ran; its checkpoint was not taken before the deadline") from None
        try:
            if goal - self._covered >= every:  # else a checkpoint taken meanwhile holds this call too
                await self._take_in_time(call)
        finally:
            self._taking.release()

    async def _take_in_time(self, call: Call) -> None:
        clock = self._context.clock
        while True:
            try:
                await self._take()
            except TimeoutError:  # another changing call keeps running; let those that wait for it go on meanwhile
                if clock.monotonic() >= call.deadline:
                    raise OutcomeUnknown(
                        f"{call.method} ran; its checkpoint could not be taken before the deadline, because another "
                        "changing call kept running"
                    ) from None
                await sleep(0.001)
            except NotExecuted as error:  # the call has run: whether its effect survives is not known
                raise OutcomeUnknown(f"{call.method} ran; its checkpoint was refused: {error}") from error
            except StoreFailed as error:
                raise StoreFailed(
                    f"{call.method} ran and its effect is kept in memory, but its checkpoint failed: {error}"
                ) from error
            else:
                return

    async def _take(self) -> None:
        context = self._context
        covered, snapshot = await context.object.snapshot_counted()
        await context.checkpoints.write(snapshot, self._options.keep)
        self._covered = max(self._covered, covered)

    async def _tick(self, interval_s: float) -> None:
        while True:
            await sleep(interval_s)
            if self._context.object.mutations <= self._covered:
                continue
            await self._taking.acquire()
            try:
                await self._take()
            except (AminoError, TimeoutError) as error:
                self._context.event("checkpoint-failed", error=error)
            finally:
                self._taking.release()
