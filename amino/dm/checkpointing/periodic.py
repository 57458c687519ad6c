"""``PeriodicCheckpoint``: a checkpoint every N mutating calls and/or every T seconds.

Owns when checkpoints are taken. Leaves who takes them to ``coverage``, storing them to ``context.checkpoints`` and restoring to
the kernel.
Invariants: a call whose turn it is to be covered is answered only after the checkpoint that holds its effect (and its
saved answer) is published; with ``every=1`` a call that changes nothing is answered only after the checkpoint that holds
what it could have seen (decision 0022).
Failure behaviour: a checkpoint that fails fails the calls that needed it, with the state kept; repeated, a call gets its
saved answer, and a read its value, once a checkpoint has succeeded.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from amino.aio.mode import sleep
from amino.aio.signal import Turn
from amino.contracts.calls import Raised
from amino.dm.base import Manager, ServerBase, Trait
from amino.dm.checkpointing.coverage import Coverage
from amino.errors import AminoError, Invalid, NotExecuted, OutcomeUnknown, StoreFailed
from amino.marks import PROVISIONAL

if TYPE_CHECKING:
    from amino.contracts.calls import Call, Forward
    from amino.contracts.context import ServerContext

_log = logging.getLogger("amino.dm")


class PeriodicCheckpoint(Manager, frozen=True, kw_only=True):
    """Takes a checkpoint every ``every`` mutating calls and/or every ``interval_s`` seconds; recovers from the newest.

    Guarantee: after the loss of the server at most ``every`` - 1 acknowledged mutating calls are lost; with ``every=1``
    none, and nobody was shown what is lost. The first checkpoint is taken before the creation is acknowledged.

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

    def keeps_each_call(self) -> bool:
        """With ``every=1``."""
        return self.every == 1

    def brings_back(self) -> bool:
        """Whether calls that raise are rolled back."""
        return self.rollback_on_error

    def server(self, context: ServerContext) -> ServerBase:
        """Return the component that takes checkpoints."""
        return _Checkpointer(self, context)


class _Checkpointer(ServerBase):
    def __init__(self, options: PeriodicCheckpoint, context: ServerContext) -> None:
        self._options = options
        self._context = context
        self._coverage = Coverage(context, self._good_state if options.rollback_on_error else self._state, options.keep)
        self._changing = Turn()  # with rollbacks, changing calls run one at a time
        self._good: tuple[int, bytes] | None = None  # and this is the state after the last that did not raise

    async def on_create(self) -> None:
        await self._coverage.take()

    def on_snapshot(self) -> int:
        return self._coverage.mutations

    def on_restore(self, state: Any) -> None:
        # Not what the object holds: a move carries calls that no checkpoint covers, with their answers, and whoever gets
        # such an answer must not lose its effect.
        self._coverage.mutations = state if isinstance(state, int) else 0
        self._good = None

    async def on_recover(self) -> None:
        self._coverage.mutations = self._context.object.mutations

    async def on_start(self) -> None:
        if self._options.interval_s is not None:
            self._context.spawn(self._tick(self._options.interval_s), "checkpoint")

    async def on_call(self, call: Call, forward: Forward) -> Any:
        if call.flags & PROVISIONAL or (call.readonly and self._options.every != 1):
            return await forward(call)  # of a transaction's calls, those that end it are covered
        if self._options.rollback_on_error and not call.readonly:
            return await self._with_rollback(call, forward)
        try:
            return await forward(call)
        finally:
            if call.executed:
                await self._cover(call)

    def _is_covered_elsewhere(self, call: Call) -> bool:
        """Whether a read is part of a changing call that runs, and is covered with it, or is another replica's to cover."""
        nested = bool(call.request.path) and any(
            call.request.nested_in(outer) for outer in self._context.object.changing()
        )
        return nested or not self._context.answers

    # --- rolling back ----------------------------------------------------------------------------------------------

    async def _with_rollback(self, call: Call, forward: Forward) -> Any:
        try:
            await self._changing.acquire(self._left(call))
        except TimeoutError:
            raise NotExecuted(
                f"{call.method} waited until its deadline for calls before it, which may have to be rolled back",
                reason="deadline",
            ) from None
        try:
            try:
                before = await self._last_good()
            except TimeoutError:
                raise NotExecuted(
                    f"the state of {self._context.microservice} could not be kept for a rollback: it is in use; retry",
                    reason="moving",
                ) from None
            try:
                result = await forward(call)
            except Raised as raised:
                if call.executed and not call.saved:
                    await self._roll_back(call, before, raised)
                raise
        finally:
            self._changing.release()
        await self._cover(call)
        return result

    async def _last_good(self) -> tuple[int, bytes]:
        """Return the state that a call which raises is rolled back to; while no changing call is on its way."""
        if self._good is None or self._good[0] != self._context.object.mutations:
            self._good = await self._context.object.snapshot_counted()
        return self._good

    async def _roll_back(self, call: Call, before: tuple[int, bytes], raised: Raised) -> None:
        target, coverage = self._context.object, self._coverage
        mutations, state = before
        try:
            await target.rebuild(state)
        except (TimeoutError, AminoError) as error:
            self._good = None
            raise OutcomeUnknown(
                f"{call.method} raised {raised.error!r} and could not be rolled back ({error or 'the object is in use'}); "
                "read the state and decide"
            ) from raised.error
        self._good = target.mutations, state
        if coverage.mutations >= mutations:  # and nothing has changed since
            coverage.mutations = target.mutations

    # --- checkpoints -----------------------------------------------------------------------------------------------

    async def _cover(self, call: Call) -> None:
        """Let ``call`` be answered: fewer than ``every`` mutations that it could have seen are in no checkpoint."""
        every = self._options.every
        if every is None:
            return
        goal = self._context.object.mutations - every + 1
        if self._coverage.mutations >= goal or (call.readonly and self._is_covered_elsewhere(call)):
            return
        try:
            await self._coverage.reach(goal, call)
        except (TimeoutError, NotExecuted, StoreFailed) as error:
            raise (_read_refused if call.readonly else _left_open)(call, error) from error

    async def _state(self, timeout_s: float | None) -> tuple[int, bytes]:  # noqa: ARG002 - it has a bound of its own
        return await self._context.object.snapshot_counted()

    async def _good_state(self, timeout_s: float | None) -> tuple[int, bytes]:
        """Return the state without a call that has raised and is not rolled back yet."""
        await self._changing.acquire(timeout_s)
        try:
            return await self._last_good()
        finally:
            self._changing.release()

    def _left(self, call: Call) -> float:
        return max(call.deadline - self._context.clock.monotonic(), 0.0)

    async def _tick(self, interval_s: float) -> None:
        while True:
            await sleep(interval_s)
            try:
                await self._coverage.reach(self._context.object.mutations)
            except (AminoError, TimeoutError) as error:
                self._context.event("checkpoint-failed", error=error)


def _left_open(call: Call, error: Exception) -> AminoError:
    """Return what a changing call is told that has run and is in no checkpoint."""
    if isinstance(error, StoreFailed):
        return StoreFailed(
            f"{call.method} ran and its effect is kept in memory, but its checkpoint failed: {error}", **error.details
        )
    if isinstance(error, NotExecuted):
        return OutcomeUnknown(f"{call.method} ran; its checkpoint was refused: {error}")
    return OutcomeUnknown(
        f"{call.method} ran; its checkpoint was not taken before the deadline: the store is slow, or another changing call "
        "kept running"
    )


def _read_refused(call: Call, error: Exception) -> AminoError:
    """Return what a call that only reads is told in place of a state that may be lost."""
    why = f"{call.method} was not answered, because what it would show is in no checkpoint yet"
    if isinstance(error, StoreFailed):
        return StoreFailed(f"{why}, and taking one failed: {error}", **error.details)
    if isinstance(error, NotExecuted):
        return NotExecuted(f"{why}: {error}", reason=error.reason)
    return NotExecuted(f"{why} at its deadline: the store is slow, or a changing call kept running", reason="deadline")
