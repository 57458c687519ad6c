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
from typing import TYPE_CHECKING, Protocol

import msgspec

from amino import limits
from amino.aio.mode import drive, on, on_loop
from amino.aio.signal import Signal
from amino.contracts.calls import Call, RequestId, decode_call_head
from amino.contracts.tracing import observed
from amino.errors import AminoError, Invalid, NotExecuted, NotFound, OutcomeUnknown, Overloaded
from amino.marks import ASYNC, INLINE, READONLY
from amino.telemetry import names
from amino.wire import codec
from amino.wire.frames import Status, encode_error

if TYPE_CHECKING:
    from collections.abc import Callable

    from amino.aio.tasks import TaskOwner
    from amino.aio.workers import Workers
    from amino.contracts.calls import CallHead
    from amino.kernel.answered import Answer
    from amino.kernel.object import KernelObject, Surroundings
    from amino.rpc.port import Inbound
    from amino.telemetry.trace import Telemetry

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
        workers: Workers,
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
            if (
                flags & INLINE
                and target.chain.passes_through
                and not self._telemetry.observing
                and self._validity.valid()
            ):
                self._decode(call, head.codec, inbound.segments)
                answer = target.serve_nowait(call)
                if answer is not None and self._validity.valid():
                    inbound.reply(*answer)
                    return
        except msgspec.MsgspecError as error:
            inbound.reply(Status.ERROR, encode_error(Invalid(f"a call's head is malformed: {error}")))
            return
        except AminoError as error:
            inbound.reply(Status.ERROR, encode_error(error))
            return
        self._count(1)
        if flags & (ASYNC | INLINE):
            self._tasks.spawn(self._answer(inbound, target, call, head.codec), head.method)
        elif not self._workers.submit(lambda: drive(self._answer(inbound, target, call, head.codec))):
            self._count(-1)
            inbound.reply(Status.ERROR, encode_error(self._overloaded("every worker thread is busy")))

    async def _answer(self, inbound: Inbound, target: KernelObject, call: Call, number: int) -> None:
        answer: tuple[int, bytes, tuple[bytes, ...]]
        try:
            answer = await self._serve(target, call, number, inbound.segments)
        except AminoError as error:
            answer = (Status.ERROR, encode_error(error), ())
        except asyncio.CancelledError:
            inbound.reply(Status.ERROR, encode_error(OutcomeUnknown(f"{self._around.server} is stopping")))
            raise
        except Exception as error:  # noqa: BLE001 - a bug of ours must not leave the caller waiting
            _log.exception("call of %s on %s failed inside the kernel", call.method, call.microservice)
            problem = OutcomeUnknown(f"the kernel failed on this call: {type(error).__name__}: {error}; see its log")
            answer = (Status.ERROR, encode_error(problem), ())
        finally:
            self._count(-1)
        inbound.reply(*answer)

    async def _serve(self, target: KernelObject, call: Call, number: int | None, segments: list[memoryview]) -> Answer:
        if not self._validity.valid() and not await self._validity.wait_valid(self._around.hold_s):
            raise NotExecuted(
                f"{self._around.server} cannot prove its session and does not act; another server takes over, retry",
                reason="fenced",
            )
        if number is not None:
            self._decode(call, number, segments)
        if self._telemetry.observing:
            answer = await self._serve_observed(target, call)
        else:
            answer = await target.serve(call)
        if target.revoked:
            raise OutcomeUnknown(f"{call.microservice} was taken from {self._around.server} while {call.method} ran")
        if not self._validity.valid() and not await self._validity.wait_valid(self._around.hold_s):
            raise OutcomeUnknown(
                f"{self._around.server} lost its session while {call.method} ran and may not release the reply"
            )
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
        return answer

    async def serve_local(self, call: Call, epoch: int) -> Answer:
        """Run a call of a co-located caller (loop or thread); the arguments are the callee's own copies already.

        Raises:
            AminoError: as for a remote call.
        """
        self.calls += 1
        target = self._target(call.microservice, call.path, epoch)
        call.flags = flags = self._flags(target, call.method)
        asynchronous = bool(flags & ASYNC)
        self._count(1)
        try:
            if on_loop():
                if asynchronous or flags & INLINE:
                    return await self._serve(target, call, None, [])
                return await self._in_thread(target, call)
            if asynchronous:
                return await on(self._loop, self._serve(target, call, None, []))
            return await self._serve(target, call, None, [])
        finally:
            self._count(-1)

    async def _in_thread(self, target: KernelObject, call: Call) -> Answer:
        done: Signal[Answer | BaseException] = Signal()

        def job() -> None:
            outcome: Answer | BaseException
            try:
                outcome = drive(self._serve(target, call, None, []))
            except BaseException as error:  # noqa: BLE001 - handed to the caller, which waits for it
                outcome = error
            done.set(outcome)

        if not self._workers.submit(job):
            raise self._overloaded("every worker thread is busy")
        outcome = await done.wait()
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

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
        return flags

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

    def _decode(self, call: Call, number: int, segments: list[memoryview]) -> None:
        call.args, call.kwargs = codec.decode_arguments(
            number, segments, trusted=call.peer_trusted, binding=self._around.runtime
        )
        if not call.flags & READONLY:
            call.digest = codec.digest(call.method, segments)


def _outcome_of(answer: Answer) -> str:
    return names.OUTCOME_RESULT if answer[0] == Status.OK else names.OUTCOME_APPLICATION_ERROR
