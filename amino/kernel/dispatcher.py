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
import threading
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from amino import limits
from amino.aio.mode import drive, on, on_loop
from amino.aio.signal import Signal
from amino.contracts.calls import Call, RequestId, decode_call_head
from amino.contracts.tracing import observed
from amino.errors import AminoError, Invalid, NotExecuted, NotFound, OutcomeUnknown, Overloaded
from amino.kernel.answered import Answer
from amino.marks import ASYNC, INLINE, READONLY
from amino.telemetry import names
from amino.wire import codec
from amino.wire.frames import Status, encode_error

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from amino.aio.tasks import TaskOwner
    from amino.aio.workers import InlineWorkers, Workers
    from amino.contracts.calls import CallHead
    from amino.kernel.object import Begun, KernelObject
    from amino.kernel.surroundings import Surroundings
    from amino.rpc.port import Inbound
    from amino.telemetry.trace import Telemetry
    from amino.wire.codec import Buffer

_log = logging.getLogger("amino.kernel")


class Validity(Protocol):
    """The session, as far as replies go."""

    def valid(self) -> bool:
        """Whether this incarnation may act right now."""
        ...

    async def wait_valid(self, hold_s: float) -> bool:
        """Wait at most ``hold_s`` seconds for validity; returns whether it came."""
        ...


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
        self._workers = workers
        self._tasks = tasks
        self._telemetry = telemetry
        self._in_flight_max = in_flight_max
        self._in_flight_per_object_max = in_flight_per_object_max
        self._loop = asyncio.get_running_loop()
        self._counting = threading.Lock()
        self.in_flight = 0
        self.calls = 0

    def handle(self, inbound: Inbound) -> None:
        """Answer one CALL frame; runs on the loop where it was read."""
        self.calls += 1
        try:
            head = decode_call_head(inbound.head)
            target = self._target(head.microservice, head.path, head.epoch)
            flags = self._flags(target, head.method)
            call = self._call(head, flags, trusted=inbound.link.peer.trusted)
            if target.chain.passes_through and not self._telemetry.observing and self._validity.valid():
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
        self._count(1)
        if flags & (ASYNC | INLINE):
            self._spawn(inbound, self._answer(inbound, target, call, head.codec), head.method)
        elif not self._workers.submit(lambda: drive(self._answer(inbound, target, call, head.codec))):
            self._count(-1)
            self._refuse(inbound, self._overloaded("every worker thread is busy"))

    def _refuse(self, inbound: Inbound, error: AminoError) -> None:
        if self._telemetry.metering:
            reason = error.reason if isinstance(error, NotExecuted) else "malformed"
            self._telemetry.metrics.refused(reason)
        inbound.reply(Status.ERROR, encode_error(error))

    def _finish(self, inbound: Inbound, target: KernelObject, call: Call, begun: Begun | Answer) -> None:
        """Run what was begun without waiting, in the place that fits the method."""
        flags = call.flags
        if isinstance(begun, Answer):
            self._release(inbound, target, call, begun)
        elif flags & INLINE:
            self._release(inbound, target, call, target.finish(call, begun))
        elif flags & ASYNC:
            self._count(1)
            if not self._spawn(inbound, self._finish_async(inbound, target, call, begun), call.method):
                target.give_up(call, begun)
        else:
            self._count(1)
            if not self._workers.submit(lambda: self._finish_here(inbound, target, call, begun)):
                self._count(-1)
                target.give_up(call, begun)
                self._refuse(inbound, self._overloaded("every worker thread is busy"))

    def _spawn(self, inbound: Inbound, coroutine: Coroutine[Any, Any, None], method: str) -> bool:
        """Start the task of a counted call; returns False, with the call refused, when this server is stopping."""
        try:
            self._tasks.spawn(coroutine, method)
        except RuntimeError:
            self._count(-1)
            self._refuse(inbound, NotExecuted(f"{self._around.server} is stopping; retry", reason="not-ready"))
            return False
        return True

    def _finish_here(self, inbound: Inbound, target: KernelObject, call: Call, begun: Begun) -> None:
        try:
            answer = target.finish(call, begun)
        except BaseException as error:
            inbound.reply(Status.ERROR, encode_error(self._failed(call, error)))
            raise
        finally:
            self._count(-1)
        self._release(inbound, target, call, answer)

    async def _finish_async(self, inbound: Inbound, target: KernelObject, call: Call, begun: Begun) -> None:
        try:
            answer = await target.finish_async(call, begun)
        except BaseException as error:
            inbound.reply(Status.ERROR, encode_error(self._failed(call, error)))
            raise
        finally:
            self._count(-1)
        self._release(inbound, target, call, answer)

    def _failed(self, call: Call, error: BaseException) -> OutcomeUnknown:
        if isinstance(error, asyncio.CancelledError):
            return OutcomeUnknown(f"{self._around.server} is stopping")
        return OutcomeUnknown(f"the kernel failed on {call.method}: {type(error).__name__}: {error}; see its log")

    def _release(self, inbound: Inbound, target: KernelObject, call: Call, answer: Answer) -> None:
        """Let the reply go, if it may; from the loop or a worker thread."""
        if self._validity.valid() and not target.revoked:
            inbound.reply(*answer)
        elif on_loop():
            self._tasks.spawn(self._release_late(inbound, target, call, answer), "release")
        else:
            drive(self._release_late(inbound, target, call, answer))

    async def _release_late(self, inbound: Inbound, target: KernelObject, call: Call, answer: Answer) -> None:
        try:
            await self._may_release(target, call)
        except AminoError as error:
            inbound.reply(Status.ERROR, encode_error(error))
        else:
            inbound.reply(*answer)

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
        answer: tuple[int, bytes, tuple[bytes, ...]]
        try:
            answer = await self._serve(target, call, number, inbound.segments)
        except AminoError as error:
            answer = (Status.ERROR, encode_error(error), ())
        except Exception as error:  # noqa: BLE001 - a bug of ours must not leave the caller waiting
            _log.exception("call of %s on %s failed inside the kernel", call.method, call.microservice)
            answer = (Status.ERROR, encode_error(self._failed(call, error)), ())
        except BaseException as error:  # cancelled, or user code that ends its thread
            inbound.reply(Status.ERROR, encode_error(self._failed(call, error)))
            raise
        finally:
            self._count(-1)
        inbound.reply(*answer)

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
        if self._telemetry.observing:
            answer = await self._serve_observed(target, call)
        else:
            answer = await target.serve(call)
        await self._may_release(target, call)
        return answer

    async def _serve_observed(self, target: KernelObject, call: Call) -> Answer:
        label = f"{type(target.instance).__qualname__}.{call.method}"
        attributes: dict[str, str | int] = {
            names.MICROSERVICE: call.microservice,
            names.METHOD_NAME: label,
            names.SERVER: self._around.server,
            names.EPOCH: target.epoch,
        }
        answer: Answer = await observed(
            self._telemetry,
            names.SERVER_CALL,
            target.serve,
            call,
            side=names.SIDE_SERVER,
            label=label,
            monotonic=self._around.clock.monotonic,
            attributes=attributes,
            parent=call.traceparent,
            judge=_outcome_of,
        )
        if target.recovery is not None and answer[0] == Status.OK:
            self._show_recovered(target, label)
        return answer

    def _show_recovered(self, target: KernelObject, label: str) -> None:
        """Add the first good call after a failover to its trace."""
        recovery, target.recovery = target.recovery, None
        if recovery is not None:  # else another call was faster
            self._telemetry.emit(
                names.FAILOVER_FIRST_CALL,
                start_ns=recovery.restored_ns,
                end_ns=int(self._around.clock.wall() * 1e9),
                parent=recovery.traceparent,
                attributes={
                    names.MICROSERVICE: target.microservice,
                    names.METHOD_NAME: label,
                    names.SERVER: self._around.server,
                },
            )

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
        call.flags = flags = self._flags(target, call.method)
        asynchronous = bool(flags & ASYNC)
        self._count(1)
        caller = codec.FIND_CLASS.set(None)
        try:
            if on_loop():
                if asynchronous:
                    return await self._in_task(target, call, number, segments)
                if flags & INLINE:
                    return await self._serve(target, call, number, segments)
                return await self._in_thread(target, call, number, segments)
            if asynchronous:
                return await on(self._loop, self._in_task(target, call, number, segments))
            return await self._serve(target, call, number, segments)
        finally:
            codec.FIND_CLASS.reset(caller)
            self._count(-1)

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
        try:
            task = self._tasks.spawn(self._caught(target, call, number, segments), call.method)
        except RuntimeError:
            raise NotExecuted(f"{self._around.server} is stopping; retry", reason="not-ready") from None
        await asyncio.wait((task,), timeout=max(call.deadline - self._around.clock.monotonic(), 0.0))
        if not task.done():
            raise self._still_runs(call)
        if task.cancelled():
            raise OutcomeUnknown(f"{self._around.server} is stopping")
        outcome = task.result()
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
        if self.in_flight >= self._in_flight_max:
            raise self._overloaded(f"{self.in_flight} calls are in flight on this server, the bound")
        if target.in_flight >= self._in_flight_per_object_max:
            raise self._overloaded(f"{target.in_flight} calls are in flight on this microservice, the bound")
        return target

    def _count(self, change: int) -> None:
        with self._counting:  # calls end in threads
            self.in_flight += change

    @property
    def threads(self) -> int:
        """How many worker threads live now."""
        return self._workers.threads

    def _overloaded(self, why: str) -> Overloaded:
        return Overloaded(f"{self._around.server}: {why}; back off and retry", reason="overloaded")

    def _flags(self, target: KernelObject, method: str) -> int:
        flags = target.methods.get(method)
        if flags is None:
            raise NotFound(
                f"{target.microservice} has no public method {method!r}; it has {', '.join(sorted(target.methods))}"
            )
        return flags | INLINE if self._workers.inline and not flags & ASYNC else flags

    def _call(self, head: CallHead, flags: int, *, trusted: bool) -> Call:
        if len(head.nested) > limits.NESTING_MAX:
            raise Invalid(f"the call is nested {len(head.nested)} deep; the bound is {limits.NESTING_MAX}")
        return Call(
            microservice=head.microservice,
            method=head.method,
            args=(),
            kwargs={},
            flags=flags,
            request=RequestId(head.client, head.root, head.sequence, head.nested),
            deadline=self._around.clock.monotonic() + head.budget_s,
            floor=head.floor,
            attempt=head.attempt,
            path=head.path,
            headers=head.headers,
            traceparent=head.traceparent,
            peer_trusted=trusted,
            age_s=head.age_s,
        )

    def _decode(self, target: KernelObject, call: Call, number: int, segments: Sequence[Buffer]) -> None:
        runtime = self._around.runtime
        if target.find_class is None:
            call.args, call.kwargs = codec.decode_arguments(
                number, segments, trusted=call.peer_trusted, binding=runtime
            )
        else:
            with codec.finding(target.find_class):
                call.args, call.kwargs = codec.decode_arguments(
                    number, segments, trusted=call.peer_trusted, binding=runtime
                )
        if not call.flags & READONLY:
            call.digest = codec.digest(call.method, segments)


def _outcome_of(answer: Answer) -> str:
    return names.OUTCOME_RESULT if answer[0] == Status.OK else names.OUTCOME_APPLICATION_ERROR
