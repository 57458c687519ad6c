"""From frames to kernel objects and back: the one place where calls of both planes and of co-located callers meet.

Owns decoding a call, bounds on calls in flight, choosing where a method runs (here, a task, a thread) and the check
of the session before a reply is released. Leaves admission and execution to the object, links to ``rpc``.
Invariants: no reply leaves while the session is not valid (invariant 8); each request is answered exactly once.
Failure behaviour: beyond a bound ``Overloaded``, at once; a session that stays invalid: ``NotExecuted`` before the
method, ``OutcomeUnknown`` after it.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from amino import limits
from amino.aio.mode import dive, drive, on, on_loop
from amino.aio.signal import Signal
from amino.contracts.calls import PROVISIONAL_HEADER, Call, decode_call_head, request_id
from amino.errors import AminoError, Invalid, NotExecuted, OutcomeUnknown, Overloaded
from amino.kernel.answered import Answer
from amino.kernel.observed import Timed
from amino.kernel.shown import Shown
from amino.marks import ASYNC, INLINE, PROVISIONAL, READONLY
from amino.wire import codec
from amino.wire.frames import Status, encode_error

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from amino.aio.mode import Surfaced
    from amino.aio.tasks import TaskOwner
    from amino.aio.workers import InlineWorkers, Workers
    from amino.contracts.calls import CallHead
    from amino.kernel.object import Begun, KernelObject
    from amino.kernel.surroundings import Surroundings, Validity
    from amino.rpc.port import Inbound
    from amino.telemetry.trace import Telemetry
    from amino.wire.codec import Buffer

_log = logging.getLogger("amino.kernel")


class Dispatcher:
    """Runs calls.

    Args:
        find: returns the kernel object for (microservice, path), or None.
        in_flight_max: most calls at once in this process.
    """

    def __init__(
        self,
        *,
        find: Callable[[str, str], KernelObject | None],
        surroundings: Surroundings,
        validity: Validity,
        workers: Workers | InlineWorkers,
        tasks: TaskOwner,
        telemetry: Telemetry,
        in_flight_max: int = limits.IN_FLIGHT_PER_SERVER_MAX,
        in_flight_per_object_max: int = limits.IN_FLIGHT_PER_OBJECT_MAX,
    ) -> None:
        self._find = find
        self._around = surroundings
        self._validity = validity
        self._valid = validity.valid
        self._now = surroundings.clock.monotonic
        self._workers = workers
        self._tasks = tasks
        self._telemetry = telemetry
        self._shown = Shown(telemetry, surroundings)
        self._in_flight_max = in_flight_max
        self._in_flight_per_object_max = in_flight_per_object_max
        self._loop = asyncio.get_running_loop()
        self._running: dict[int, Call] = {}  # no lock: calls begin and end in threads, by one atomic operation each
        self.calls = 0

    def handle(self, inbound: Inbound) -> None:
        """Answer one CALL frame; runs on the loop where it was read."""
        self.calls += 1
        try:
            head = decode_call_head(inbound.head)
            target = self._target(head.microservice, head.path, head.epoch)
            flags = target.methods.get(head.method)
            if flags is None or head.headers is not None or self._workers.inline:
                flags = self._flags(target, head.method, head.headers)
            call = self._call(head, flags, inbound.link.peer.trusted)
            if target.observed is not None:
                inbound = Timed(inbound, target.observed)
            if self._telemetry.observing:
                self._shown.begin(target, call)
            if target.chain.passes_through and not call.traced and self._valid():
                self._decode(target, call, head.codec, inbound.segments)
                begun = target.begin_nowait(call)
                if begun is not None:
                    self._finish(inbound, target, call, begun)
                    return
        except msgspec.MsgspecError as error:
            self._refuse(inbound, Invalid(f"a call's head is malformed: {error}"))
            return
        except AminoError as error:
            self._refuse(inbound, error)
            return
        self._running[id(call)] = call
        if flags & (ASYNC | INLINE):
            self._spawn(inbound, self._answer(inbound, target, call, head.codec), call)
            return
        call.surfaces = True
        if not self._workers.submit(lambda: dive(self._answer(inbound, target, call, head.codec), self._surfaced)):
            del self._running[id(call)]
            self._refuse(inbound, self._overloaded("every worker thread is busy"))

    def _surfaced(self, rest: Surfaced) -> None:
        """Have the loop go on with a call that leaves its worker thread."""
        try:
            self._loop.call_soon_threadsafe(self._go_on, rest)
        except RuntimeError:  # the loop is closed, and with it every link
            rest.close()

    def _go_on(self, rest: Surfaced) -> None:
        if self._tasks.closed:
            rest.close()  # which answers: this server is stopping
            return
        try:
            self._tasks.start(rest, "surfaced")
        except (Exception, asyncio.CancelledError):  # noqa: BLE001 - it has answered its caller
            _log.exception("a call failed inside the kernel")

    def _refuse(self, inbound: Inbound, error: AminoError) -> None:
        if self._telemetry.metering:
            self._shown.refused(error)
        inbound.reply(Status.ERROR, encode_error(error))

    def _finish(self, inbound: Inbound, target: KernelObject, call: Call, begun: Begun | Answer) -> None:
        """Run what was begun without waiting, in the place that fits the method.

        On the loop the reply leaves before the call is ended, so that the caller goes on meanwhile: whoever could ask for the
        saved answer comes by the same loop, and a snapshot waits until the call has left the gate.
        """
        flags = call.flags
        if isinstance(begun, Answer):
            self._release(inbound, target, call, begun)
        elif flags & INLINE:
            try:
                if self._telemetry.surrounds:
                    with self._shown.around(call):
                        target.run(call)
                else:
                    target.run(call)
                self._release(inbound, target, call, call.answer)
            finally:
                target.end(call, begun)  # after the reply: nobody looks before this turn of the loop is over
        elif flags & ASYNC:
            self._running[id(call)] = call
            if not self._spawn(inbound, self._finish_async(inbound, target, call, begun), call):
                target.end(call, begun)
        else:
            self._running[id(call)] = call
            if not self._workers.submit(lambda: self._finish_here(inbound, target, call, begun)):
                del self._running[id(call)]
                target.end(call, begun)
                self._refuse(inbound, self._overloaded("every worker thread is busy"))

    def _spawn(self, inbound: Inbound, coroutine: Coroutine[Any, Any, None], call: Call) -> bool:
        """Start a counted call; returns False, with the call refused, when this server is stopping."""
        if self._tasks.closed:
            coroutine.close()
            del self._running[id(call)]
            self._refuse(inbound, NotExecuted(f"{self._around.server} is stopping; retry", reason="not-ready"))
            return False
        try:
            self._tasks.start(coroutine, call.method)
        except (Exception, asyncio.CancelledError):  # noqa: BLE001 - it has answered its caller
            _log.exception("a call of %s failed inside the kernel", call.method)
        return True

    def _finish_here(self, inbound: Inbound, target: KernelObject, call: Call, begun: Begun) -> None:
        try:
            if self._telemetry.surrounds:
                with self._shown.around(call):
                    answer = target.finish(call, begun)
            else:
                answer = target.finish(call, begun)
        except BaseException as error:
            inbound.reply(Status.ERROR, encode_error(self._failed(call, error)))
            raise
        finally:
            del self._running[id(call)]
        self._release(inbound, target, call, answer)

    async def _finish_async(self, inbound: Inbound, target: KernelObject, call: Call, begun: Begun) -> None:
        try:
            if self._telemetry.surrounds:
                with self._shown.around(call):
                    await target.run_async(call)
            else:
                await target.run_async(call)
        except BaseException as error:
            inbound.reply(Status.ERROR, encode_error(self._failed(call, error)))
            raise
        else:
            self._release(inbound, target, call, call.answer)
        finally:
            del self._running[id(call)]
            target.end(call, begun)  # after the reply, as above

    def _failed(self, call: Call, error: BaseException) -> OutcomeUnknown:
        if isinstance(error, asyncio.CancelledError | GeneratorExit):
            return OutcomeUnknown(f"{self._around.server} is stopping")
        return OutcomeUnknown(f"the kernel failed on {call.method}: {type(error).__name__}: {error}; see its log")

    def _release(self, inbound: Inbound, target: KernelObject, call: Call, answer: Answer) -> None:
        """Let the reply go, if it may; from the loop or a worker thread."""
        if self._valid() and not target.revoked:
            status, head, segments = answer
            inbound.reply(status, head, segments)
            if call.began:
                self._shown.ended(target, call, answer)
        elif on_loop():
            self._tasks.spawn(self._release_late(inbound, target, call, answer), "release")
        else:
            drive(self._release_late(inbound, target, call, answer))

    async def _release_late(self, inbound: Inbound, target: KernelObject, call: Call, answer: Answer) -> None:
        try:
            await self._may_release(target, call)
        except AminoError as error:
            inbound.reply(Status.ERROR, encode_error(error))
            self._shown.ended(target, call, error)
        else:
            inbound.reply(*answer)
            self._shown.ended(target, call, answer)

    async def _may_release(self, target: KernelObject, call: Call) -> None:
        """Wait for the session, within bounds; raises if the reply must never leave."""
        if target.revoked:
            raise OutcomeUnknown(f"{call.microservice} was taken from {self._around.server} while {call.method} ran")
        if self._validity.valid():
            return
        if not await self._validity.wait_valid(self._hold_s(call)):
            raise OutcomeUnknown(
                f"{self._around.server} lost its session while {call.method} ran and may not release the reply"
            )
        if target.state != "serving":  # sealed or gone since: another incarnation may be answering by now
            raise OutcomeUnknown(
                f"{call.microservice} was taken from {self._around.server} while the reply of {call.method} waited"
            )

    def _hold_s(self, call: Call) -> float:
        return max(min(self._around.hold_s, call.deadline - self._around.clock.monotonic()), 0.0)

    async def _answer(self, inbound: Inbound, target: KernelObject, call: Call, number: int) -> None:
        ended: Answer | AminoError
        call.holds = target.chain.holds and not call.traced
        try:
            ended = answer = await self._serve(target, call, number, inbound.segments)
        except AminoError as error:
            ended, answer = error, Answer(Status.ERROR, encode_error(error), ())
        except Exception as error:  # noqa: BLE001 - a bug of ours must not leave the caller waiting
            _log.exception("call of %s on %s failed inside the kernel", call.method, call.microservice)
            ended = self._failed(call, error)
            answer = Answer(Status.ERROR, encode_error(ended), ())
        except BaseException as error:  # cancelled, or user code that ends its thread
            inbound.reply(Status.ERROR, encode_error(self._failed(call, error)))
            raise
        finally:
            if call.held is None:
                del self._running[id(call)]
        if call.held is None:
            inbound.reply(*answer)
            if call.began:
                self._shown.ended(target, call, ended)
        else:
            call.held.then(partial(self._let_go, inbound, target, call, answer))

    def _let_go(
        self, inbound: Inbound, target: KernelObject, call: Call, answer: Answer, problem: AminoError | None
    ) -> None:
        """Answer with what was held, or with ``problem``; on the loop."""
        del self._running[id(call)]
        if problem is None and not self._tasks.closed:
            self._release(inbound, target, call, answer)
        else:
            inbound.reply(Status.ERROR, encode_error(problem or self._failed(call, asyncio.CancelledError())))

    async def _serve(self, target: KernelObject, call: Call, number: int, segments: Sequence[Buffer]) -> Answer:
        if not self._validity.valid():
            if not await self._validity.wait_valid(self._hold_s(call)):
                raise NotExecuted(
                    f"{self._around.server} cannot prove its session and does not act; another server takes over, retry",
                    reason="fenced",
                )
            if self._around.clock.monotonic() >= call.deadline:
                raise NotExecuted(f"{call.method} was held until its deadline", reason="deadline")
        self._decode(target, call, number, segments)
        if call.traced:
            answer = await self._shown.serve(target, call)
        elif self._telemetry.tracing:
            with self._shown.around(call):
                answer = await target.serve(call)
        else:
            answer = await target.serve(call)
        if call.held is None:
            await self._may_release(target, call)
        return answer

    async def serve_local(self, call: Call, epoch: int, number: int, segments: Sequence[Buffer]) -> Answer:
        """Run a call of a co-located caller (loop or thread).

        Args:
            number: codec of the encoded arguments, which are the callee's own from now on.
            segments: the encoded arguments.

        Raises:
            AminoError: as for a remote call.
        """
        self.calls += 1
        target = self._target(call.microservice, call.path, epoch)
        call.flags = flags = self._flags(target, call.method, call.headers)
        if self._telemetry.observing:
            self._shown.begin(target, call)
        self._running[id(call)] = call
        watched = target.observed
        began = watched.now() if watched is not None else 0.0
        caller = codec.FIND_CLASS.set(None)
        try:
            if not on_loop():
                if flags & ASYNC:
                    answer = await on(self._loop, self._in_task(target, call, number, segments))
                else:
                    answer = await self._serve(target, call, number, segments)
            elif flags & ASYNC:
                answer = await self._in_task(target, call, number, segments)
            elif flags & INLINE:
                answer = await self._serve(target, call, number, segments)
            else:
                answer = await self._in_thread(target, call, number, segments)
        except AminoError as error:
            self._shown.ended(target, call, error)
            raise
        else:
            if call.began:
                self._shown.ended(target, call, answer)
            return answer
        finally:
            codec.FIND_CLASS.reset(caller)
            del self._running[id(call)]
            if watched is not None:
                watched.note(began)

    async def _in_thread(self, target: KernelObject, call: Call, number: int, segments: Sequence[Buffer]) -> Answer:
        done: Signal[Answer | BaseException] = Signal()

        def job() -> None:
            outcome: Answer | BaseException
            try:
                outcome = drive(self._serve(target, call, number, segments))
            except BaseException as error:  # noqa: BLE001 - handed to the caller, which waits for it
                outcome = error
            done.set(outcome)

        if not self._workers.submit(job):
            raise self._overloaded("every worker thread is busy")
        try:
            outcome = await done.wait(max(call.deadline - self._around.clock.monotonic(), 0.0))
        except TimeoutError:
            raise self._still_runs(call) from None
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    async def _in_task(self, target: KernelObject, call: Call, number: int, segments: Sequence[Buffer]) -> Answer:
        """Run an ``async def`` method apart from its caller, which may give up: the method goes on, as over a link."""
        if self._tasks.closed:
            raise NotExecuted(f"{self._around.server} is stopping; retry", reason="not-ready")
        outcome: Answer | AminoError
        try:
            started = self._tasks.start(self._caught(target, call, number, segments), call.method)
        except asyncio.CancelledError as error:
            raise self._failed(call, error) from None
        if isinstance(started, tuple):
            outcome = started[0]
        else:
            await asyncio.wait((started,), timeout=max(call.deadline - self._around.clock.monotonic(), 0.0))
            if not started.done():
                raise self._still_runs(call)
            if started.cancelled():
                raise OutcomeUnknown(f"{self._around.server} is stopping")
            outcome = started.result()
        if isinstance(outcome, AminoError):
            raise outcome
        return outcome

    async def _caught(
        self, target: KernelObject, call: Call, number: int, segments: Sequence[Buffer]
    ) -> Answer | AminoError:
        try:
            return await self._serve(target, call, number, segments)
        except AminoError as error:
            return error

    def _still_runs(self, call: Call) -> OutcomeUnknown:
        return OutcomeUnknown(f"{call.method} was still running at its deadline")

    def _target(self, microservice: str, path: str, epoch: int) -> KernelObject:
        target = self._find(microservice, path)
        if target is None:
            raise NotExecuted(
                f"{microservice}{path} is not on {self._around.server}; look it up again", reason="not-here"
            )
        if epoch != target.epoch:
            raise NotExecuted(
                f"{microservice}{path} has epoch {target.epoch} on {self._around.server}, the call {epoch}; "
                "look it up again",
                reason="stale-epoch" if epoch < target.epoch else "not-here",
                epoch=target.epoch,
            )
        if len(self._running) >= self._in_flight_max:
            raise self._overloaded(f"{len(self._running)} calls are in flight on this server, the bound")
        if len(target.admission.entered) >= self._in_flight_per_object_max:
            raise self._overloaded(f"{target.in_flight} calls are in flight on this microservice, the bound")
        return target

    @property
    def in_flight(self) -> int:
        """Calls that run in this process, or wait for something here."""
        return len(self._running)

    @property
    def threads(self) -> int:
        """How many worker threads live now."""
        return self._workers.threads

    def _overloaded(self, why: str) -> Overloaded:
        return Overloaded(f"{self._around.server}: {why}; back off and retry", reason="overloaded")

    def _flags(self, target: KernelObject, method: str, headers: dict[str, Any] | None) -> int:
        flags = target.methods.get(method)
        if flags is None:
            flags = target.flags_of(method)
        if headers is not None and PROVISIONAL_HEADER in headers:
            if not target.chain.takes_provisional:
                raise Invalid(f"no manager of {target.microservice} runs transactions; {method} was not called")
            flags |= READONLY | PROVISIONAL
        return flags | INLINE if self._workers.inline and not flags & ASYNC else flags

    def _call(self, head: CallHead, flags: int, trusted: bool) -> Call:
        nested = head.nested
        if nested and len(nested) > limits.NESTING_MAX:
            raise Invalid(f"the call is nested {len(nested)} deep; the bound is {limits.NESTING_MAX}")
        return Call(
            head.microservice,
            head.method,
            (),
            {},
            flags,
            request_id((head.client, head.root, head.sequence, nested)),
            self._now() + head.budget_s,
            head.floor,
            head.attempt,
            0.0,
            head.path,
            head.headers,
            head.traceparent,
            trusted,
            age_s=head.age_s,
        )

    def _decode(self, target: KernelObject, call: Call, number: int, segments: Sequence[Buffer]) -> None:
        if number == codec.NOTHING:
            pass  # as a call is made
        elif target.find_class is None:
            call.args, call.kwargs = codec.decode_arguments(
                number, segments, trusted=call.peer_trusted, binding=self._around.runtime
            )
        else:
            with codec.finding(target.find_class):
                call.args, call.kwargs = codec.decode_arguments(
                    number, segments, trusted=call.peer_trusted, binding=self._around.runtime
                )
        call.received = number, segments
        if not call.flags & READONLY:
            call.digest = codec.digest(call.method, segments)
