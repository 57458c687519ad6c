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
from typing import TYPE_CHECKING, Any, NamedTuple

from amino import limits
from amino.aio.mode import drive
from amino.aio.signal import Signal
from amino.contracts.calls import CURRENT, Call, Invocation, Raised, RequestId
from amino.errors import AminoError, Invalid, NotExecuted, OutcomeUnknown
from amino.kernel.answered import Answer, AnsweredTable
from amino.kernel.gate import Gate
from amino.kernel.outcomes import decode_answer, encode_failure, encode_result, reading_by
from amino.marks import ASYNC, READONLY
from amino.wire import codec

if TYPE_CHECKING:
    from collections.abc import Callable

    from amino.contracts.component import ServerChain
    from amino.kernel.surroundings import Surroundings


class Recovery(NamedTuple):
    """The failover that placed a replica here: its trace, and when the replica began to serve (wall clock)."""

    traceparent: str
    restored_ns: int


Begun = tuple[int, int]
"""Tokens of the gates that a call has entered."""


class KernelObject:
    """One replica.

    Args:
        instance: the user's object.
        methods: its public methods with their flags.
        on_completed: called with the method's name after each mutating execution while set (poison bookkeeping).
        find_class: resolves names in pickles that its code reads; None as everywhere. Set before the instance is.
        recovery: while set, the failover that the first good call from now on ends.
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
        self.serving = False
        self.revoked = False
        self.moved_to: dict[str, Any] | None = None
        self.on_completed: Callable[[str], None] | None = None
        self.find_class: codec.FindClass | None = None
        self.recovery: Recovery | None = None
        self.chain: ServerChain
        self.instance: Any = None
        self._around = surroundings
        self._bound: dict[str, Callable[..., Any]] | None = None
        self._admission = Gate()
        self._mutation = Gate()
        self._answered = AnsweredTable(surroundings.dedup_horizon_s)
        self._pending: dict[RequestId, tuple[int, Signal[Answer | BaseException] | None]] = {}
        self._joining = threading.Lock()

    def __repr__(self) -> str:
        state = "serving" if self.serving else "not serving"
        return f"KernelObject({self.microservice}{self.path} {self.replica}, epoch {self.epoch}, {state})"

    @property
    def in_flight(self) -> int:
        """Calls admitted and not yet answered."""
        return self._admission.running

    @property
    def state(self) -> str:
        """``serving``, ``sealed``, ``starting`` or ``gone``."""
        if self.moved_to is not None:
            return "gone"
        if self._admission.closed:
            return "sealed" if self.serving else "starting"
        return "serving"

    def adopt_instance(self, instance: Any) -> None:
        """Take ``instance`` as the user's object."""
        self.instance = instance
        if self.find_class is not None:  # results of nested calls are read by the code of this object too
            self._bound = {
                name: reading_by(self.find_class, getattr(instance, name), flags)
                for name, flags in self.methods.items()
            }

    def release_instance(self) -> None:
        """Forget the user's object and the answers, of a kernel object that is gone: both can be large."""
        self.instance = None
        self._bound = None
        self._answered = AnsweredTable(self._around.dedup_horizon_s)

    def _method(self, name: str) -> Callable[..., Any]:
        # idle objects are many: what can be had from the instance is not kept
        return self._bound[name] if self._bound is not None else getattr(self.instance, name)

    # --- admission -------------------------------------------------------------------------------------------------

    async def seal(self, timeout_s: float) -> None:
        """Keep new calls waiting and wait until those inside have been answered.

        Raises:
            TimeoutError: some call was still running after ``timeout_s`` seconds; the object serves on.
        """
        await self._admission.acquire_quiet(timeout_s)

    def seal_nowait(self) -> None:
        """Seal an object that nobody has called yet."""
        drive(self._admission.acquire_quiet(0.0))

    def unseal(self) -> None:
        """Admit calls, those that waited first."""
        self.serving = True
        self._admission.release_quiet()

    def leave(self, moved_to: dict[str, Any]) -> None:
        """Become gone: calls that wait or come are told ``moved_to`` (may be empty).

        The object is sealed, or could not be sealed in time; nobody else seals it.
        """
        self.moved_to = moved_to
        if self._admission.closed:
            self._admission.release_quiet()

    async def serve(self, call: Call) -> Answer:
        """Admit and run ``call``; returns its encoded outcome, an application error included.

        Raises:
            AminoError: about the call itself (not admitted, unknown outcome, refused by a component).
        """
        token = self._admission.enter_nowait(call.request)
        if not token:
            token = await self._wait_to_enter(call)
        try:
            if self.moved_to is not None:
                raise self._gone()
            if call.flags & READONLY:
                return await self._pass(call)
            self._refuse_reentrant_mutation(call)
            first = self._join(call)
            if first is not None:
                return await self._attach(first, call)
            outcome: Answer | BaseException | None = None
            try:
                outcome = await self._pass(call)
                return outcome
            except AminoError as error:
                outcome = error
                raise
            finally:
                self._part(call.request, outcome)
        finally:
            self._admission.leave(token)

    def begin_nowait(self, call: Call) -> Begun | Answer | None:
        """The first half of ``serve`` for an object without components in the way of calls.

        Returns:
            What ``finish`` or ``finish_async`` needs, a saved answer, or None if the call would have to wait.

        Raises:
            AminoError: as ``serve``.
        """
        request = call.request
        admission = self._admission
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
            saved = self._saved(call)  # after joining: nobody can have run it between the two
            if saved is not None:
                return saved
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
            self._run(call)
            return call.answer  # type: ignore[no-any-return]
        finally:
            self._end(call, begun)

    async def finish_async(self, call: Call, begun: Begun) -> Answer:
        """The second half, for an ``async def`` method."""
        try:
            await self._run_async(call)
            return call.answer  # type: ignore[no-any-return]
        finally:
            self._end(call, begun)

    def give_up(self, call: Call, begun: Begun) -> None:
        """Undo ``begin_nowait``: the method was not run."""
        self._end(call, begun)

    def _end(self, call: Call, begun: Begun) -> None:
        admitted, inside = begun
        if inside:
            if call.executed:
                self._settle(call)
            self._mutation.leave(inside)
            self._part(call.request, call.answer)
        self._admission.leave(admitted)

    def _join(self, call: Call) -> Signal[Answer | BaseException] | None:
        """Return None for the first to run the call's request, for others the signal of its outcome."""
        request = call.request
        with self._joining:
            found = self._pending.get(request)
            if found is None:
                self._pending[request] = call.digest, None
                return None
            digest, signal = found
            if digest != call.digest:
                raise Invalid(
                    f"request {request} is running as another method or with other arguments; "
                    "a request id names one call for good"
                )
            if signal is None:
                signal = Signal()
                self._pending[request] = digest, signal
            return signal

    def _part(self, request: RequestId, outcome: Answer | BaseException | None) -> None:
        """The first to run ``request`` is done: tell those who wait for it."""
        with self._joining:
            _, signal = self._pending.pop(request)
        if signal is not None:
            signal.set(outcome or OutcomeUnknown(f"request {request} was abandoned half-way"))

    async def _wait_to_enter(self, call: Call) -> int:
        wait_s = min(self._around.hold_s, call.deadline - self._around.clock.monotonic())
        try:
            return await self._admission.enter(call.request, max(wait_s, 0.0), self._around.clock)
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
        if chain.passes_through:
            with contextlib.suppress(Raised):
                await self._execute(call)
            return call.answer  # type: ignore[no-any-return]
        try:
            result = await chain.call(call, self._execute)
        except Raised as raised:
            if call.answer is not None and raised.error is call.result:
                return call.answer  # type: ignore[no-any-return]
            return encode_failure(raised.error, call)
        if call.answer is not None and result is call.result:
            return call.answer  # type: ignore[no-any-return]
        return encode_result(result, call)

    async def _execute(self, call: Call) -> Any:
        """The innermost step: the saved answer, or the method itself. Raises ``Raised`` for what the method raised."""
        if call.flags & READONLY:
            return await self._invoke(call)
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
            if saved is not None:
                with codec.finding(self.find_class):
                    return decode_answer(saved, call, self._around.runtime)
            try:
                return await self._invoke(call)
            finally:
                if call.executed:
                    self._settle(call)
        finally:
            gate.leave(token)

    def _saved(self, call: Call) -> Answer | None:
        now = self._around.clock.monotonic()
        saved = self._answered.admit(
            call.request,
            floor=call.floor,
            attempt=call.attempt,
            age_s=call.age_s,
            digest=call.digest,
            now=now,
        )
        if saved is not None:
            call.executed = True
            call.answer = saved
        return saved

    def _settle(self, call: Call) -> None:
        self._answered.settle(call.request, call.digest, call.answer)
        self.mutations += 1
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
            )
        )
        return token, around.board.enter(self.microservice, call.method)

    def _run(self, call: Call) -> None:
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

    async def _run_async(self, call: Call) -> None:
        """Run an ``async def`` method and encode its outcome into ``call.answer``."""
        token, cell = self._enter_method(call)
        try:
            call.result = await self._method(call.method)(*call.args, **call.kwargs)
            call.raised = False
        except (Exception, SystemExit) as error:  # noqa: BLE001 - as in _run
            call.result = error
            call.raised = True
        finally:
            self._around.board.leave(cell)
            CURRENT.reset(token)
        call.executed = True
        call.answer = encode_failure(call.result, call) if call.raised else encode_result(call.result, call)

    async def _invoke(self, call: Call) -> Any:
        if call.flags & ASYNC:
            await self._run_async(call)
        else:
            self._run(call)
        if call.raised:
            raise Raised(call.result)
        return call.result

    def _refuse_reentrant_mutation(self, call: Call) -> None:
        if (
            call.request.path
            and self.chain.restores_state
            and any(call.request.nested_in(inside) for inside in self._mutation.inside())
        ):
            raise Invalid(
                f"{call.method} changes {self.microservice} from within another changing call of the same chain "
                f"({call.request}); a manager of this microservice restores or replicates its state, which allows no "
                "such call. Mark the method @amino.readonly, or call it after the outer one has returned"
            )

    # --- state -----------------------------------------------------------------------------------------------------

    async def snapshot(self) -> bytes:
        """Return the state of one instant; new mutating calls wait meanwhile (see ``ObjectControl``)."""
        return (await self.snapshot_counted())[1]

    async def snapshot_counted(self) -> tuple[int, bytes]:
        """As ``snapshot``, with the number of mutations that it holds."""
        await self._mutation.acquire_quiet(limits.QUIESCE_TIMEOUT_S)
        try:
            return self.mutations, self.snapshot_sealed()
        finally:
            self._mutation.release_quiet()

    def snapshot_sealed(self) -> bytes:
        """Return the state; only while no mutating call can run."""
        return codec.pack(
            {
                "format": 1,
                "instance": self.instance,
                "components": self.chain.on_snapshot(),
                "answered": self._answered.snapshot(),
                "mutations": self.mutations,
            }
        )

    async def restore(self, snapshot: bytes | memoryview) -> None:
        """Replace the state by ``snapshot``, while no mutating call runs."""
        await self._mutation.acquire_quiet(limits.QUIESCE_TIMEOUT_S)
        try:
            self.restore_sealed(snapshot)
        finally:
            self._mutation.release_quiet()

    def restore_sealed(self, snapshot: bytes | memoryview) -> None:
        """Replace the state by ``snapshot``; only while no call can run.

        Raises:
            Invalid: not a snapshot of a format this release reads, or its class cannot be rebuilt here.
        """
        with codec.finding(self.find_class):
            state = codec.unpack(snapshot, binding=self._around.runtime)
        if not isinstance(state, dict) or state.get("format") != 1:
            raise Invalid(f"the snapshot of {self.microservice} has a format this release does not read; upgrade it")
        self.adopt_instance(state["instance"])
        self._answered.restore(state["answered"], self._around.clock.monotonic())
        self.mutations = state["mutations"]
        self.chain.on_restore(state["components"])
