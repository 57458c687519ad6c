"""The server component that makes each call durable before it is acknowledged, for every manager that promises that.

Owns the order of calls, what is logged of them, going on with a new log, undoing failed calls, and running the log again
after a loss. Leaves writing and syncing to ``context.checkpoints``, and running methods to the kernel.
Invariants: the state in memory is the newest checkpoint and its log, once all that was appended is synced; nothing is
answered, reads included, before everything it could have seen is synced; a failed call leaves the state before it.
Failure behaviour: a log that fails (disk full, sealed, no session) fails the calls that wait for it; their effect stays in
memory, and no call is answered before a fresh checkpoint holds it. A class that is not deterministic is reported when its
log is run again: ``CorruptCheckpoint`` after a loss, ``OutcomeUnknown`` when a failed call is undone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from amino import limits
from amino.aio.mode import surface
from amino.contracts.calls import Raised
from amino.contracts.effects import Recorder
from amino.contracts.operations import decode_operation, encode_operation
from amino.dm.base import ServerBase
from amino.dm.queue import CallQueue
from amino.errors import AminoError, CorruptCheckpoint, Invalid, NotExecuted, OutcomeUnknown, StoreFailed
from amino.marks import PROVISIONAL

if TYPE_CHECKING:
    from amino.aio.signal import Signal
    from amino.contracts.calls import Call, Forward
    from amino.contracts.context import OperationLog, ServerContext


class LogOptions(NamedTuple):
    """How a log is kept.

    Args:
        group_commit_s: how long a finished call waits at most for others to share its sync; 0: it shares none.
        snapshot_every: records after which a new checkpoint, with a new log, is due. segment_bytes: the same in bytes.
        keep: checkpoints kept.
        queue_max: most calls that wait for their turn.
    """

    group_commit_s: float
    snapshot_every: int
    segment_bytes: int
    keep: int
    queue_max: int


class DurableLog(ServerBase):
    """Runs calls one at a time and answers each once it is durable; the next one runs while earlier ones are synced."""

    def __init__(self, options: LogOptions, context: ServerContext) -> None:
        self._options = options
        self._context = context
        self._queue = CallQueue(options.queue_max, context)
        self._log: OperationLog | None = None
        self._base = b""  # the state at the last checkpoint or undoing, and what ran since: what undoing needs
        self._since: list[bytes] = []
        self._last: Signal[AminoError | None] | None = None
        self._strayed = False  # memory is not what checkpoint and log say
        self._due_records = self._due_bytes = 0

    async def on_create(self) -> None:
        """Take the first checkpoint and begin the log: the creation is durable before it is acknowledged."""
        await self._begin()

    async def on_recover(self) -> None:
        """Run again what was logged after the checkpoint; the next changing call begins a new log."""
        records = await self._context.checkpoints.tail()
        try:
            await self._context.object.rebuild(None, [decode_operation(record) for record in records])
        except Invalid as error:
            raise CorruptCheckpoint(f"what was acknowledged cannot be run again: {error}", kind="diverged") from error

    def on_snapshot(self) -> Any:
        """Say whether the snapshot holds what no log and no checkpoint holds: it goes along when the object moves."""
        return True if self._unsafe else None

    def on_restore(self, state: Any) -> None:
        """Take over what ``on_snapshot`` said; a log that is being written leads to another state from now on."""
        self._strayed = bool(state) or self._log is not None

    async def on_stop(self) -> None:
        """Let go of the log."""
        if self._log is not None:
            await self._log.aclose()

    async def before_snapshot(self) -> None:
        """Wait until everything that has run is synced."""
        if self._last is not None and self._log is not None:
            self._log.hurry()
            await self._last.wait(limits.QUIESCE_TIMEOUT_S)

    async def on_call(self, call: Call, forward: Forward) -> Any:
        """Run the call in its turn, log it, and answer once it and all before it are synced."""
        if self._queue.is_part(call.request):
            return await forward(call)
        if call.flags & PROVISIONAL:  # it changes a copy that is in no snapshot; what it saw must be synced
            await self._be_safe(call)
            try:
                return await forward(call)
            finally:
                await self._wait_synced(call, self._last)
        await self._queue.enter(call)
        raised: Raised | None = None
        result: Any = None
        try:
            if self._unsafe or not call.readonly:
                await self._go_on(call)
            try:
                result = await (forward(call) if call.readonly else self._run(call, forward))
            except Raised as error:
                raised = error
            synced = self._last
        finally:
            self._queue.leave()
        await self._wait_synced(call, synced)
        if raised is not None:
            raise raised
        return result

    @property
    def _unsafe(self) -> bool:
        """Whether memory holds something that no log and no checkpoint will ever hold."""
        return self._strayed or (self._log is not None and self._log.failed is not None)

    # --- running ---------------------------------------------------------------------------------------------------

    async def _run(self, call: Call, forward: Forward) -> Any:
        if call.effects is None:
            call.effects = Recorder()
        try:
            result = await forward(call)
        except Raised as raised:
            if call.executed and not call.saved:
                await self._undo(call, raised)
            raise
        except BaseException:
            self._note(call)  # a manager further in failed it after it had run
            raise
        self._note(call)
        return result

    def _note(self, call: Call) -> None:
        if call.executed and not call.saved:
            assert self._log is not None
            record = encode_operation(self._context.object.operation(call))
            self._since.append(record)
            self._last = self._log.append(record)

    async def _undo(self, call: Call, raised: Raised) -> None:
        """Bring back the state before ``call``: that of the last checkpoint, and what ran since."""
        target = self._context.object
        try:
            await target.rebuild(self._base, [decode_operation(record) for record in self._since])
            self._base, self._since = await target.snapshot(), []
        except (AminoError, TimeoutError) as error:
            self._strayed = True
            self._context.event("undo-failed", method=call.method, error=error)
            raise OutcomeUnknown(
                f"{call.method} raised {raised.error!r} and could not be undone ({error or 'the object is in use'}); read "
                "the state and decide"
            ) from raised.error

    async def _wait_synced(self, call: Call, synced: Signal[AminoError | None] | None) -> None:
        if synced is None:
            return
        if call.surfaces and not synced.is_set:
            await surface()
        try:
            error = await synced.wait(max(call.deadline - self._context.clock.monotonic(), 0.0))
        except TimeoutError:
            raise OutcomeUnknown(f"{call.method} ran; it was not synced before the deadline") from None
        if isinstance(error, StoreFailed):
            raise StoreFailed(
                f"{call.method} ran and its effect is kept in memory, but it is not durable: {error}", **error.details
            ) from error
        if error is not None:
            raise OutcomeUnknown(f"{call.method} ran; whether it survives is unknown: {error}") from error

    # --- going on with a new log -----------------------------------------------------------------------------------

    async def _be_safe(self, call: Call) -> None:
        """Have a log that works, or fail before a transaction's ``call`` runs: afterwards its transaction would stay open."""
        if not self._unsafe:
            return
        await self._queue.enter(call)
        try:
            if self._unsafe:  # nobody saw to it meanwhile
                await self._go_on(call)
        finally:
            self._queue.leave()

    async def _go_on(self, call: Call) -> None:
        """Have a log to which ``call`` can be appended, and a checkpoint of what only memory holds."""
        log = self._log
        if log is not None and not self._unsafe:
            if log.records < self._due_records and log.size < self._due_bytes:
                return
            try:
                await self._begin()
            except (StoreFailed, TimeoutError) as error:  # the log is as good as before, only long
                self._context.event("checkpoint-failed", error=error or "the object is in use")
                self._due_records += self._options.snapshot_every
                self._due_bytes += self._options.segment_bytes
            if not self._unsafe:
                return
        try:
            await self._begin()
        except StoreFailed as error:
            raise StoreFailed(
                f"{call.method} was not run, because nothing can be made durable: {error}", **error.details
            ) from error
        except TimeoutError:
            raise NotExecuted(
                f"{call.method} was not run: the state of {self._context.microservice} is in use; retry",
                reason="moving",
            ) from None

    async def _begin(self) -> None:
        options, context, before = self._options, self._context, self._log
        if before is not None and self._last is not None:
            before.hurry()
            await self._last.wait(limits.DEADLINE_S_DEFAULT)
        snapshot = await context.object.snapshot()
        keep = 1 if self._unsafe else options.keep
        self._log = await context.checkpoints.begin_log(snapshot, keep, options.group_commit_s)
        self._base, self._since, self._last, self._strayed = snapshot, [], None, False
        self._due_records, self._due_bytes = options.snapshot_every, options.segment_bytes
        if before is not None:
            await before.aclose()
