"""The server component of a replicated object: calls at the primary, and what the machine of the replica is told.

Owns running calls so that they are logged in order and answered when committed. Leaves every decision to ``machine``,
messages, documents and time to ``driver``, replaying and snapshots to ``replaying``.
Invariants: mutating calls run one at a time, no read overlaps one; what a call changed is in the log before the next one
begins; a reply leaves only when committed.
Failure behaviour: a call that cannot begin ends as ``NotExecuted``, one that ran and is not committed in time as
``OutcomeUnknown``; a primary that cannot log what it ran answers nothing more and asks to be replaced.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from amino.aio.mode import on_loop, surface
from amino.aio.signal import Signal
from amino.contracts import log_end
from amino.contracts.calls import Raised
from amino.contracts.effects import Recorder
from amino.contracts.log_end import LOG_END, LogEnd
from amino.dm.base import ServerBase
from amino.dm.replication.driver import MESSAGE, Driver
from amino.dm.replication.fresh import FRESH, FreshReads
from amino.dm.replication.machine import TICK_S, Role
from amino.dm.replication.replaying import SNAPSHOT, Replaying
from amino.errors import Invalid, NotExecuted, OutcomeUnknown
from amino.kernel.gate import Gate

if TYPE_CHECKING:
    from amino.contracts.calls import Call, Forward, RequestId
    from amino.contracts.context import ServerContext
    from amino.dm.replication.driver import Committed
    from amino.dm.replication.view import Options

SERVING_WAIT_S = 0.5
"""How long a call waits at most for a primary that is taking over."""

_GRACE_S = 0.25  # between the machine's time-out of an entry and ours, which it makes needless
_CHECK_EVERY_S = 1.0
_CHECK_SHARE = 0.02  # of the time, at most, is spent on comparing states


class Replica(ServerBase):
    """One replica.

    Args:
        options: of the group.
        ship_state: whether entries hold the state in place of the operation.
        staleness_s: how old answers of replicas other than the primary may be; None if they answer nothing.
        answers_early: whether a write is answered when it is logged here, before others have it.
    """

    holds = True

    def __init__(
        self,
        options: Options,
        context: ServerContext,
        *,
        ship_state: bool,
        staleness_s: float | None = None,
        answers_early: bool = False,
    ) -> None:
        self._options = options
        self._context = context
        self._ship_state = ship_state
        self._loop = asyncio.get_running_loop()
        self._gate = Gate()
        self._driver = Driver(options, context)
        self._driver.state = self._state = Replaying(
            self._driver, context, self._gate, read_meanwhile=staleness_s is not None
        )
        self._fresh: FreshReads | None = None
        if staleness_s is not None:
            self._fresh = FreshReads(self._driver, context, self._gate, self._loop, staleness_s)
        self._answers_early = answers_early
        self._bound_s = options.append_timeout_s + _GRACE_S
        self._inside: tuple[RequestId, ...] = ()
        self._checked = 0

    def __repr__(self) -> str:
        return f"Replica({self._driver.machine!r})"

    def replication_lag(self) -> int | None:
        """Entries that the slowest in-sync replica has still to acknowledge, if this is the primary."""
        return self._driver.machine.lag

    # --- life -------------------------------------------------------------------------------------------------------

    async def on_start(self) -> None:
        """Begin to take part."""
        self._context.spawn(self._state.work(), "replay")
        if not self._ship_state:
            self._context.spawn(self._checks(), "compare")
        self._driver.start()

    async def on_stop(self) -> None:
        """Take part no more."""
        self._driver.stop()

    async def on_member_change(self) -> None:
        """Obey the document."""
        self._driver.document_changed()

    def on_server_lost(self, server: str, incarnation: int) -> None:
        """Find out whether it is proven dead, and tell the machine."""
        self._context.spawn(self._driver.server_lost(server, incarnation), "server lost")

    def on_heartbeat(self, server: str, incarnation: int, epoch: int) -> bool:
        """Promise the primary on that server its read lease."""
        return self._driver.machine.heartbeat(server, incarnation, epoch, self._driver.now())

    def on_acknowledged(self, server: str, incarnation: int, sent_at: float) -> None:
        """Extend the read lease."""
        driver = self._driver
        driver.do(driver.machine.peer_acknowledged(server, incarnation, sent_at, driver.now()))

    def on_notification(self, topic: str, payload: bytes) -> bytes:
        """Take a message of another replica; the answer to its sender goes back with the reply."""
        if topic == MESSAGE:
            return self._driver.take(payload)
        if topic == SNAPSHOT:
            self._state.take_part(payload)
            return b""
        if topic == LOG_END:
            machine = self._driver.machine
            return log_end.encode(LogEnd(machine.log_end_epoch, machine.log_end))
        if topic == FRESH and self._fresh is not None:
            return self._fresh.answer()
        raise Invalid(
            f"replicas send {MESSAGE!r} and {SNAPSHOT!r}, not {topic!r}; the sender's release is incompatible"
        )

    # --- calls ------------------------------------------------------------------------------------------------------

    async def on_call(self, call: Call, forward: Forward) -> Any:
        """Run a call at the primary; elsewhere say that it is not here."""
        if call.request.path and any(call.request.nested_in(outer) for outer in self._inside):
            return await forward(call)  # a read from within the running call: part of it
        if self._fresh is not None and self._fresh.may_answer(call):
            return await self._fresh.read(call, forward)
        if not self._driver.serving:
            await self._until_serving(call)
        if call.readonly:
            return await self._read(call, forward)
        return await self._write(call, forward)

    async def _until_serving(self, call: Call) -> None:
        until = min(call.deadline, self._context.clock.monotonic() + SERVING_WAIT_S)
        while True:
            changed = self._driver.watch()
            if self._driver.broken:
                raise NotExecuted(self._driver.broken, reason="not-ready")
            if self._driver.serving:
                return
            if self._driver.deposed:
                raise NotExecuted(
                    f"{self._context.microservice} has its primary on another server than {self._context.server}; "
                    "look it up again",
                    reason="moved",
                )
            if not await self._wait(changed, until):
                raise NotExecuted(
                    f"the primary of {self._context.microservice} on {self._context.server} is taking over; retry",
                    reason="not-ready",
                )

    async def _read(self, call: Call, forward: Forward) -> Any:
        clock = self._context.clock
        token = self._gate.enter_nowait(call.request)
        if not token:
            try:
                token = await self._gate.enter(call.request, max(call.deadline - clock.monotonic(), 0.0), clock)
            except TimeoutError:
                raise NotExecuted(f"{call.method} waited for writes until its deadline", reason="deadline") from None
        failure: BaseException | None = None
        result: Any = None
        try:
            if self._driver.unlogged or self._driver.broken:  # since we looked
                raise NotExecuted(f"{call.method} came in the middle of a change of primary; retry", reason="not-ready")
            try:
                result = await forward(call)
            except Raised as raised:
                failure = raised
            index = self._driver.machine.log_end
        finally:
            self._gate.leave(token)
        if self._driver.machine.may_read(index, self._driver.now()) is not None:
            await self._until_readable(call, index)
        if failure is not None:
            raise failure
        return result

    async def _until_readable(self, call: Call, index: int) -> None:
        until = min(call.deadline, self._context.clock.monotonic() + self._options.append_timeout_s)
        while True:
            changed = self._driver.watch()
            why = self._driver.machine.may_read(index, self._driver.now())
            if why is None:
                return
            if not await self._wait(changed, until, TICK_S):
                raise NotExecuted(
                    f"the primary of {self._context.microservice} cannot prove that it still is: {why}; retry",
                    reason="not-ready",
                )

    async def _write(self, call: Call, forward: Forward) -> Any:
        gate = self._gate
        if not gate.acquire_quiet_nowait():
            await self._take_turn(call)
        elif self._driver.may_write() is not None:
            gate.release_quiet()
            await self._take_turn(call)
        failure: BaseException | None = None
        result: Any = None
        committed: Committed = Signal()
        logging = False
        try:
            self._inside = (call.request,)
            call.effects = Recorder()
            try:
                result = await forward(call)
            except Exception as error:
                if not call.executed:
                    raise
                failure = error
            except BaseException as error:  # cancelled half-way: what it has changed by then is in no log
                self._break(f"{call.method} was ended half-way by {type(error).__name__}")
                raise
            finally:
                self._inside = ()
            payload, digest = await self._entry_of(call)
            if call.surfaces:
                await self._surface(call)
            logging = True
            self._log(payload, digest, committed)
        finally:
            if not logging:
                gate.release_quiet()
        if not self._answers_early and not self._held(call, failure, committed):
            await self._until_committed(call, committed)
        if failure is not None:
            raise failure
        return result

    async def _surface(self, call: Call) -> None:
        """Go on on the loop, where it is logged and committed: nothing blocks from here on."""
        try:
            await surface()
        except BaseException as error:  # the server is stopping; what the call has changed by now is in no log
            self._break(f"{call.method} was ended before it was logged by {type(error).__name__}")
            raise

    async def _take_turn(self, call: Call) -> None:
        """Have the gate closed for this call alone, at a moment when writes are accepted."""
        if self._driver.may_write() is not None:
            await self._until_writable(call)  # before it queues: those behind it must not wait for its patience too
        try:
            await self._gate.acquire_quiet(max(call.deadline - self._context.clock.monotonic(), 0.0))
        except TimeoutError:
            raise NotExecuted(f"{call.method} waited for its turn until its deadline", reason="deadline") from None
        why = self._driver.may_write()
        if why is not None:
            self._gate.release_quiet()
            raise self._no_writes(why)

    async def _until_writable(self, call: Call) -> None:
        """Wait briefly until writes are accepted."""
        until = min(call.deadline, self._context.clock.monotonic() + self._options.append_timeout_s)
        while True:
            changed = self._driver.watch()
            why = self._driver.may_write()
            if why is None:
                return
            if not await self._wait(changed, until, TICK_S):
                raise self._no_writes(why)

    def _no_writes(self, why: str) -> NotExecuted:
        return NotExecuted(
            f"{self._context.microservice} takes no writes now: {why}; retry in a moment",
            reason="moved" if self._driver.deposed else "not-ready",
        )

    async def _entry_of(self, call: Call) -> tuple[bytes, int]:
        """Return what the log keeps of a call that ran; nothing if its answer was saved before."""
        if call.saved:
            return b"", 0
        try:
            return await self._state.payload_of(call, ship_state=self._ship_state)
        except Exception as error:
            self._break(f"what {call.method} did cannot be logged ({type(error).__name__}: {error})")
            raise OutcomeUnknown(self._driver.broken) from error

    def _break(self, why: str) -> None:
        """From now on answer nothing: the state holds what no other replica has. From any thread."""
        self._driver.broken = (
            f"the replica of {self._context.microservice} on {self._context.server} has a state that nobody else has: "
            f"{why}; another replica takes over"
        )
        self._loop.call_soon_threadsafe(self._ask_to_be_replaced)

    def _ask_to_be_replaced(self) -> None:
        if self._driver.stopped or self._driver.discarded:
            return
        if not self._driver.deposed:
            self._context.event("replica-broken", why=self._driver.broken)
            self._driver.report(f"stuck: {self._driver.broken}; reaches all")
        self._loop.call_later(1.0, self._ask_to_be_replaced)

    def _log(self, payload: bytes, digest: int, committed: Committed) -> None:
        """Have what was executed appended; the gate opens once it is."""
        if on_loop():
            self._append(payload, digest, committed)
        else:
            self._loop.call_soon_threadsafe(self._append, payload, digest, committed)

    def _append(self, payload: bytes, digest: int, committed: Committed) -> None:
        try:
            logged = not self._driver.stopped and self._driver.append(payload, digest, committed)
        except Exception as error:
            self._break(f"a call could not be logged ({type(error).__name__}: {error})")
            self._end_unlogged(committed)
            raise
        if logged:
            self._gate.release_quiet()
        elif self._driver.stopped:
            self._end_unlogged(committed)
        else:
            self._context.spawn(self._append_late(payload, digest, committed), "append late")

    async def _append_late(self, payload: bytes, digest: int, committed: Committed) -> None:
        """Append once this is the primary of a new epoch, which began while the method ran; until then nobody runs.

        Its caller waits no longer than another primary is named. The state does: it took no entries since, so it is what it
        was whenever this becomes the primary again, and the log it follows on has not gone on without it.
        """
        driver = self._driver
        driver.unlogged = True
        self._gate.release_quiet()  # who comes now is refused rather than kept waiting
        while not driver.stopped and not driver.discarded:
            changed = driver.watch()
            if driver.append(payload, digest, committed):
                driver.unlogged = False
                return
            if driver.deposed:
                self._tell_unlogged(committed)
            await self._wait(changed, self._context.clock.monotonic() + TICK_S)
        self._tell_unlogged(committed)

    def _end_unlogged(self, committed: Committed) -> None:
        self._tell_unlogged(committed)
        self._gate.release_quiet()

    def _tell_unlogged(self, committed: Committed) -> None:
        committed.set(OutcomeUnknown(f"a call of {self._context.microservice} ran at a primary that was just replaced"))

    def _held(self, call: Call, failure: BaseException | None, committed: Committed) -> bool:
        """Have the kernel hold the answer until it is committed, if it does that: then nothing waits here."""
        if not call.holds or call.saved or committed.is_set or not on_loop():
            return False
        if failure is not None and not isinstance(failure, Raised):
            return False
        if call.deadline - self._context.clock.monotonic() <= self._bound_s:
            return False
        call.held = committed
        return True

    async def _until_committed(self, call: Call, committed: Committed) -> None:
        remaining_s = call.deadline - self._context.clock.monotonic()
        bound_s = self._bound_s
        try:
            if remaining_s > bound_s and not call.saved and on_loop():
                problem = await committed.wait()  # the machine bounds it, without a timer of its own for each call
            else:
                problem = await committed.wait(max(min(remaining_s, bound_s), 0.0))
        except TimeoutError:
            problem = OutcomeUnknown(f"{call.method} ran and was not yet acknowledged by every in-sync replica")
        if problem is not None:
            raise problem

    async def _wait(self, changed: Signal[bool], until: float, at_most_s: float = 10.0) -> bool:
        """Wait until something has changed; returns False when ``until`` (monotonic seconds) has come."""
        remaining_s = until - self._context.clock.monotonic()
        if remaining_s <= 0:
            return False
        try:
            await changed.wait(min(remaining_s, at_most_s))
        except TimeoutError:
            return self._context.clock.monotonic() < until
        return True

    async def before_snapshot(self) -> None:
        """Wait until what has been executed is committed."""
        machine = self._driver.machine
        until = self._context.clock.monotonic() + self._options.append_timeout_s
        while True:
            changed = self._driver.watch()
            if machine.commit_index >= machine.log_end:
                return
            if not await self._wait(changed, until, TICK_S):
                raise TimeoutError

    # --- comparing states -------------------------------------------------------------------------------------------

    async def _checks(self) -> None:
        """While there are changes, let the others compare their states with the primary's now and then."""
        machine, clock = self._driver.machine, self._context.clock
        pause_s = _CHECK_EVERY_S
        while True:
            await asyncio.sleep(pause_s)
            if machine.role is not Role.PRIMARY or machine.log_end == self._checked or len(machine.needed) < 2:
                continue
            began = clock.monotonic()
            try:
                await self._gate.acquire_quiet(_CHECK_EVERY_S)
            except TimeoutError:
                continue
            try:
                if self._driver.may_write() is None:
                    payload, digest = await self._state.check()
                    self._driver.append(payload, digest, Signal())
                    self._checked = machine.log_end
            finally:
                self._gate.release_quiet()
            pause_s = max(_CHECK_EVERY_S, (clock.monotonic() - began) / _CHECK_SHARE)
