"""A kernel object: one replica of a user's object, with its gates, its chain and its answered requests.

Owns running methods, admission, sealing, snapshots and restore. Leaves threads and replies to the dispatcher,
placement to the host, and durability to deployment managers.
Invariants: only a confirmed, unsealed replica admits calls; a saved answer is returned instead of a second
execution; the snapshot holds object, components and answers of one instant.
Failure behaviour: a call that cannot be admitted raises ``NotExecuted``; whatever a method raises is its outcome
(``Raised``), never the object's end.
"""

from __future__ import annotations

import contextlib
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from amino.aio.mode import drive
from amino.aio.signal import Signal
from amino.contracts.calls import COMPONENT, CURRENT, Call, Invocation, Raised, RequestId
from amino.errors import AminoError, Invalid, NotExecuted, OutcomeUnknown
from amino.kernel import own_calls
from amino.kernel.answered import Answer, AnsweredTable
from amino.kernel.gate import Gate
from amino.kernel.object_state import ObjectState
from amino.kernel.outcomes import decode_answer, encode_failure, encode_result
from amino.kernel.tables import Tables
from amino.marks import ASYNC, OWN, PROVISIONAL, READONLY
from amino.wire import codec

if TYPE_CHECKING:
    from collections.abc import Callable

    from amino.contracts.component import ServerChain
    from amino.kernel.arrival import Arrival
    from amino.kernel.surroundings import Surroundings
    from amino.kernel.wheel import TimerWheel
    from amino.telemetry.metrics import Series


class _Pending(msgspec.Struct, eq=False):
    """A request that runs: what it is, who waits for it, how it ended."""

    digest: int
    signal: Signal[Answer | BaseException] | None = None
    outcome: Answer | BaseException | None = None


Begun = tuple[int, int]
"""Tokens of the gates that a call has entered."""


class KernelObject(ObjectState):
    """One replica.

    Args:
        instance: the user's object.
        methods: its public methods with their flags.
        on_completed: called with the method's name after each mutating execution while set (poison bookkeeping).
        find_class: resolves names in pickles that its code reads; None as everywhere. Set before the instance is.
        generation: of its record.

    Attributes:
        admission: the gate that calls pass first.
        arrival: what made it serve here, while calls are traced. answered: whether a good call has ended since.
        dms: names of its managers, with commas. series: counters of its calls by method, while they are counted.
    """

    def __init__(
        self,
        *,
        microservice: str,
        path: str,
        replica: str,
        epoch: int,
        methods: dict[str, int],
        surroundings: Surroundings,
    ) -> None:
        self.microservice = microservice
        self.path = path
        self.replica = replica
        self.epoch = epoch
        self.methods = methods
        self.mutations = 0
        self.serving = self.revoked = False
        self.moved_to: dict[str, Any] | None = None
        self.on_completed: Callable[[str], None] | None = None
        self.find_class: codec.FindClass | None = None
        self.arrival: Arrival | None = None
        self.answered = False
        self.dms = ""
        self.series: dict[str, Series] = {}
        self.generation = 0
        self.chain: ServerChain
        self.instance: Any = None
        self.tables: Tables | None = None
        self.wheel: TimerWheel | None = None
        self.news: Signal[bool] | None = None  # made by those who wait for events
        self.readers = 0
        self.stirred = 0
        self._around = surroundings
        self._bound: dict[str, Callable[..., Any]] | None = None
        self.admission = Gate()
        self._mutation = Gate()
        self._answered = AnsweredTable(surroundings.dedup_horizon_s)
        self._pending: dict[RequestId, _Pending] = {}
        self._joining = threading.Lock()

    def __repr__(self) -> str:
        state = "serving" if self.serving else "not serving"
        return f"KernelObject({self.microservice}{self.path} {self.replica}, epoch {self.epoch}, {state})"

    @property
    def in_flight(self) -> int:
        """Calls admitted and not yet answered."""
        return len(self.admission.entered)

    @property
    def state(self) -> str:
        """``serving``, ``sealed``, ``starting`` or ``gone``."""
        if self.moved_to is not None:
            return "gone"
        if self.admission.closed:
            return "sealed" if self.serving else "starting"
        return "serving"

    @property
    def surroundings(self) -> Surroundings:
        """What it has of the process it lives in."""
        return self._around

    def _method(self, name: str) -> Callable[..., Any]:
        # idle objects are many: what can be had from the instance is not kept
        return self._bound[name] if self._bound is not None else getattr(self.instance, name)

    # --- admission -------------------------------------------------------------------------------------------------

    async def seal(self, timeout_s: float) -> None:
        """Keep new calls waiting and wait until those inside have been answered.

        Raises:
            TimeoutError: some call was still running after ``timeout_s`` seconds; the object serves on.
        """
        await self.admission.acquire_quiet(timeout_s)

    def seal_nowait(self) -> None:
        """Seal an object that nobody has called yet."""
        drive(self.admission.acquire_quiet(0.0))

    def unseal(self) -> None:
        """Admit calls, those that waited first."""
        self.serving = True
        if self.tables is not None:
            self.tables.release_all()
        self.admission.release_quiet()

    def leave(self, moved_to: dict[str, Any]) -> None:
        """Become gone: calls that wait or come are told ``moved_to`` (may be empty).

        The object is sealed, or could not be sealed in time; nobody else seals it.
        """
        self.moved_to = moved_to
        if self.admission.closed:
            self.admission.release_quiet()
        self._wake_readers()

    async def serve(self, call: Call) -> Answer:
        """Admit and run ``call``; returns its encoded outcome, an application error included. It leaves when ``call.held`` is set.

        Raises:
            AminoError: about the call itself (not admitted, unknown outcome, refused by a component).
        """
        if call.flags & OWN and call.flags & READONLY:
            await own_calls.await_news(self, call)
        token = self.admission.enter_nowait(call.request)
        if not token:
            token = await self._wait_to_enter(call)
        held: Signal[BaseException | None] | None = None
        outcome: Answer | BaseException | None = None
        try:
            if self.moved_to is not None:
                raise self._gone()
            if call.flags & READONLY:
                return await self._pass(call)
            self._refuse_reentrant_mutation(call)
            first = self._join(call)
            if first is not None:
                return await self._attach(first, call)
            try:
                outcome = await self._pass(call)
                held = call.held
                if call.emitted is not None and held is None:
                    self._release_events(call)
                return outcome
            except AminoError as error:
                outcome = error
                raise
            finally:
                if held is None:
                    self._part(call.request, outcome)
        finally:
            if held is None:
                self.admission.leave(token)
            else:
                held.then(partial(self._end_held, call, token, outcome))

    def _end_held(self, call: Call, token: int, outcome: Any, problem: BaseException | None) -> None:
        """The last part of ``serve`` for an outcome that was held: ``problem`` takes its place if there is one."""
        if problem is None and call.emitted is not None:
            self._release_events(call)
        self._part(call.request, problem or outcome)
        self.admission.leave(token)

    def begin_nowait(self, call: Call) -> Begun | Answer | None:
        """The first half of ``serve`` for an object without components in the way of calls.

        Returns:
            What ``finish`` (or ``run_async`` and ``end``) needs, a saved answer, or None if the call would have to wait.

        Raises:
            AminoError: as ``serve``.
        """
        if call.flags & OWN:
            return None
        request = call.request
        admission = self.admission
        admitted = admission.enter_nowait(request)
        if not admitted:
            return None
        inside = 0
        begun = joined = False
        try:
            if self.moved_to is not None:
                raise self._gone()
            if call.flags & READONLY:
                begun = True
                return admitted, 0
            inside = self._mutation.enter_nowait(request)
            if not inside:
                return None
            joined = self._join(call) is None
            if not joined:
                return None
            saved = self._answered.admit(  # after joining: nobody can have run it between the two
                request, call.floor, call.attempt, call.age_s, call.digest, self._around.clock.monotonic()
            )
            if saved is not None:
                return self._found(call, saved)
            begun = True
            return admitted, inside
        finally:
            if not begun:
                if inside:
                    self._mutation.leave(inside)
                if joined:
                    self._part(request, call.answer)
                admission.leave(admitted)

    def finish(self, call: Call, begun: Begun) -> Answer:
        """The second half, for a ``def`` method: run it right here, once, and return its encoded outcome."""
        try:
            self.run(call)
            return call.answer  # type: ignore[no-any-return]
        finally:
            self.end(call, begun)

    def end(self, call: Call, begun: Begun) -> None:
        """Undo ``begin_nowait``, after ``run`` or ``run_async`` or without having run the method at all."""
        admitted, inside = begun
        if inside:
            if call.executed:
                self._settle(call)
            self._mutation.leave(inside)
            if call.emitted is not None:
                self._release_events(call)
            self._part(call.request, call.answer)
        self.admission.leave(admitted)

    def _join(self, call: Call) -> Signal[Answer | BaseException] | None:
        """Return None for the first to run the call's request, for others the signal of its outcome."""
        mine = _Pending(call.digest)
        found = self._pending.setdefault(call.request, mine)
        if found is mine:
            return None
        if found.digest != call.digest:
            raise Invalid(
                f"request {call.request} is running as another method or with other arguments; "
                "a request id names one call for good"
            )
        with (
            self._joining
        ):  # several may join; the first, who parts without the lock, sees the signal or we its outcome
            signal = found.signal
            if signal is None:
                signal = found.signal = Signal()
        if found.outcome is not None:
            signal.set(found.outcome)
        return signal

    def _part(self, request: RequestId, outcome: Answer | BaseException | None) -> None:
        """The first to run ``request`` is done: tell those who wait for it."""
        pending = self._pending.pop(request)
        if outcome is None:
            outcome = OutcomeUnknown(f"request {request} was abandoned half-way")
        pending.outcome = outcome
        if pending.signal is not None:
            pending.signal.set(outcome)

    async def _wait_to_enter(self, call: Call) -> int:
        wait_s = min(self._around.hold_s, call.deadline - self._around.clock.monotonic())
        try:
            return await self.admission.enter(call.request, max(wait_s, 0.0), self._around.clock)
        except TimeoutError:
            raise NotExecuted(
                f"{self.microservice} on {self._around.server} is being moved or made and did not serve within "
                f"{wait_s:.1f} s; retry",
                reason="moving" if self.serving else "not-ready",
            ) from None

    def _gone(self) -> NotExecuted:
        return NotExecuted(
            f"{self.microservice} is not on {self._around.server} any more; look it up again",
            reason="moved",
            **(self.moved_to or {}),
        )

    async def _attach(self, pending: Signal[Answer | BaseException], call: Call) -> Answer:
        try:
            outcome = await pending.wait(max(call.deadline - self._around.clock.monotonic(), 0.0))
        except TimeoutError:
            raise OutcomeUnknown(f"request {call.request} was still running at its deadline") from None
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    # --- running ---------------------------------------------------------------------------------------------------

    async def _pass(self, call: Call) -> Answer:
        chain = self.chain
        if chain.passes_through and not call.traced:
            with contextlib.suppress(Raised):
                await self._execute(call)
            return call.answer  # type: ignore[no-any-return]
        leave = await chain.before_call(call) if chain.has_doors else None
        try:
            result = await chain.call(call, self._execute)
        except Raised as raised:
            if call.answer is not None and raised.error is call.result:
                return call.answer  # type: ignore[no-any-return]
            return encode_failure(raised.error, call)
        finally:
            if leave is not None:
                leave()
        if call.answer is not None and result is call.result:
            return call.answer  # type: ignore[no-any-return]
        return encode_result(result, call)

    async def _execute(self, call: Call) -> Any:
        """The innermost step: the saved answer, or the method itself. Raises ``Raised`` for what the method raised."""
        if call.flags & READONLY:
            return await self.invoke(call)
        gate = self._mutation
        token = gate.enter_nowait(call.request)
        if not token:
            clock = self._around.clock
            try:
                token = await gate.enter(call.request, max(call.deadline - clock.monotonic(), 0.0), clock)
            except TimeoutError:
                raise NotExecuted(
                    f"a snapshot of {self.microservice} kept this call waiting until its deadline", reason="deadline"
                ) from None
        try:
            saved = self._saved(call)
            call.saved = saved is not None
            if saved is not None:
                with codec.finding(self.find_class):
                    return decode_answer(saved, call, self._around.runtime)
            try:
                return await self.invoke(call)
            finally:
                if call.executed:
                    self._settle(call)
        finally:
            gate.leave(token)

    def _saved(self, call: Call) -> Answer | None:
        if call.flags & OWN:
            saved = encode_result(None, call) if own_calls.is_done(self, call) else None
        else:
            saved = self._answered.admit(
                call.request, call.floor, call.attempt, call.age_s, call.digest, self._around.clock.monotonic()
            )
        return saved if saved is None else self._found(call, saved)

    def _found(self, call: Call, saved: Answer) -> Answer:
        """Take ``saved`` for the outcome of ``call``, which has run before."""
        call.executed = True
        call.answer = saved
        if self.tables is not None and self.tables.outbox is not None:
            call.emitted = self.tables, self.tables.outbox.settled
        return saved

    def _settle(self, call: Call) -> None:
        if not call.flags & OWN:
            self._answered.settle(call.request, call.digest, call.answer)
        self.mutations += 1
        if self.tables is not None and self.tables.outbox is not None:
            outbox = self.tables.outbox
            outbox.settled = outbox.last
            call.emitted = self.tables, outbox.last
        if self.on_completed is not None:
            self.on_completed(call.method)

    def _enter_method(self, call: Call) -> tuple[Any, int]:
        around = self._around
        token = CURRENT.set(
            Invocation(
                around.runtime,
                self.microservice,
                self.replica,
                self.path,
                call.request,
                call.floor,
                call.deadline,
                around.server,
                around.incarnation,
                around.labels,
                0,
                0,
                call.traceparent,
                call.effects,
                self,
                call.flags & (READONLY | PROVISIONAL) == READONLY,
            )
        )
        return token, around.board.enter(self.microservice, call.method)

    def run(self, call: Call) -> None:
        """Run a ``def`` method right here and encode its outcome into ``call.answer``."""
        token, cell = self._enter_method(call)
        try:
            call.result = self._method(call.method)(*call.args, **call.kwargs)
            call.raised = False
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever user code raises is the outcome of the call
            call.result = error
            call.raised = True
        finally:
            self._around.board.leave(cell)
            CURRENT.reset(token)
        call.executed = True
        call.answer = encode_failure(call.result, call) if call.raised else encode_result(call.result, call)

    async def run_async(self, call: Call) -> None:
        """Run an ``async def`` method and encode its outcome into ``call.answer``."""
        token, cell = self._enter_method(call)
        try:
            call.result = await self._method(call.method)(*call.args, **call.kwargs)
            call.raised = False
        except (Exception, SystemExit) as error:  # noqa: BLE001 - as in run
            call.result = error
            call.raised = True
        finally:
            self._around.board.leave(cell)
            CURRENT.reset(token)
        call.executed = True
        call.answer = encode_failure(call.result, call) if call.raised else encode_result(call.result, call)

    async def _run_message(self, call: Call) -> None:
        """Run what is no method of the user's class, as if it were one, and encode its outcome."""
        token, cell = self._enter_method(call)
        try:
            call.result = await (own_calls.run(self, call) if call.flags & OWN else self.chain.message(call))
            call.raised = False
        except Raised as raised:
            call.result, call.raised = raised.error, True
        except NotExecuted:
            raise  # nothing was done; the message may come again
        except Exception as error:  # noqa: BLE001 - as in run
            call.result = error
            call.raised = True
        finally:
            self._around.board.leave(cell)
            CURRENT.reset(token)
        call.executed = True
        call.answer = encode_failure(call.result, call) if call.raised else encode_result(call.result, call)

    async def invoke(self, call: Call) -> Any:
        """Run ``call``'s method right here, past all components, and encode its outcome."""
        if call.method.startswith(COMPONENT):
            await self._run_message(call)
        elif call.flags & ASYNC:
            await self.run_async(call)
        else:
            self.run(call)
        if call.raised:
            raise Raised(call.result)
        return call.result
