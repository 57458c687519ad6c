"""The server component of transactions: private copies, and commits that are one step for all managers further out.

Owns the open transactions of a replica. Leaves who waits for whom to the two managers, and copies to the kernel.
Invariants: calls of a transaction run on its private copy and change nothing else; a commit applies all operations or
none; a private copy is in no snapshot, so what a lost replica held was never published.
Failure behaviour: a transaction that is not known here (any more) is refused as aborted. A commit records its verdict and
its operations as effects: a log further out replays them without the private copy.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from amino.aio.mode import sleep
from amino.aio.signal import Signal, Turn
from amino.contracts.calls import COMPONENT, PROVISIONAL_HEADER, Raised
from amino.contracts.operations import Operation
from amino.dm.base import ServerBase
from amino.dm.transactions.fair_lock import FairLock
from amino.errors import Invalid, NotExecuted, Overloaded, TransactionAborted
from amino.marks import PROVISIONAL

if TYPE_CHECKING:
    from amino.contracts.calls import Call, Forward, RequestId
    from amino.contracts.context import Fork, ServerContext

COMMIT, FINISH, END = "commit", "finish", "end"
COMMITTED, MODIFIED, ABORTED = "committed", "modified", "aborted"
OPEN_MAX = 100
OPERATIONS_MAX = 10_000
_ENDED_KEPT = 1000
Verdict = list[str]
"""[COMMITTED], [MODIFIED], or [ABORTED, reason, text]; equal on every replica that replays it."""

_encode_operations = msgspec.msgpack.Encoder().encode
_decode_operations = msgspec.msgpack.Decoder(list[Operation]).decode


@dataclass(slots=True)
class Open:
    """One transaction in progress.

    Args:
        expires: monotonic time at which it ends by itself.
        void: aborted commits when the private copy was taken.
        committing: it cannot expire any more.
        last: number of its last call. request: of that call. outcome: of that call, for a retry: (result, raised, answer).
    """

    expires: float
    fork: Fork | None = None
    turn: Turn = field(default_factory=Turn)
    void: int = 0
    last: int = 0
    committing: bool = False
    request: RequestId | None = None
    outcome: tuple[Any, bool, Any] = (None, False, None)


class Transactions(ServerBase):
    """What both transaction managers have in common.

    Args:
        lasts_s: seconds after which a transaction ends by itself.
    """

    takes_provisional = True
    readonly_topics = frozenset({FINISH, END})

    def __init__(self, manager: str, lasts_s: float, context: ServerContext) -> None:
        self.manager = manager
        self.context = context
        self.lock = FairLock(context.clock.monotonic)
        self._lasts_s = lasts_s
        self._open: dict[str, Open] = {}
        self._ended: OrderedDict[str, Verdict] = OrderedDict()
        self._mutex = threading.Lock()
        self.void = 0  # commits that were aborted: counted as mutations, and none
        self._some: Signal[bool] = Signal()

    # --- calls ---------------------------------------------------------------------------------------------------------

    def message_of(self, call: Call) -> tuple[str, str] | None:
        """Return (topic, transaction) of a message to this component, None for anything else."""
        if not call.method.startswith(f"{COMPONENT}{self.manager}{COMPONENT}"):
            return None
        return call.method.rpartition(COMPONENT)[2], _transaction_in(call)

    async def on_call(self, call: Call, forward: Forward) -> Any:
        """Run a transaction's call on its private copy; pass others on."""
        if not call.flags & PROVISIONAL:
            return await forward(call)
        transaction, number = transaction_of(call)
        entry = self._enter(transaction, number)
        try:
            await entry.turn.acquire(max(call.deadline - self.context.clock.monotonic(), 0.0))
        except TimeoutError:
            raise NotExecuted(
                f"{call.method} waited until its deadline for an earlier call of its transaction", reason="deadline"
            ) from None
        try:
            return await self._run(transaction, number, entry, call)
        finally:
            entry.turn.release()

    def _enter(self, transaction: str, number: int) -> Open:
        with self._mutex:
            entry = self._open.get(transaction)
            if entry is not None:
                return entry
            ended = self._ended.get(transaction)
            if ended is not None:
                raise error_of(
                    ended if ended[0] == ABORTED else aborted("refused", "the transaction has ended already")
                )
            if number != 1:
                raise error_of(self._lost())
            if len(self._open) >= OPEN_MAX:
                raise Overloaded(
                    f"{OPEN_MAX} transactions are open on {self.context.microservice}, the bound; back off and retry",
                    reason="overloaded",
                )
            entry = self._open[transaction] = Open(self.context.clock.monotonic() + self._lasts_s)
        self._some.set(True)
        return entry

    async def _run(self, transaction: str, number: int, entry: Open, call: Call) -> Any:
        if number == entry.last and call.request == entry.request:
            call.result, call.raised, call.answer = entry.outcome
            call.executed = True
            if call.raised:
                raise Raised(call.result)
            return call.result
        if number != entry.last + 1 or (entry.fork is None and entry.last):
            raise error_of(self._lost())
        ended = self.ending_of(transaction)
        if ended is not None:
            raise error_of(ended)
        if entry.fork is None:
            try:
                entry.fork = await self.context.object.fork(call)
                entry.void = self.void  # read after the copy: too high is a conflict too many, too low one too few
            except BaseException:
                self.drop(transaction, None)
                raise
        if len(entry.fork.operations) >= OPERATIONS_MAX:
            raise error_of(aborted("refused", f"it changes the object {OPERATIONS_MAX} times, the bound; split it"))
        try:
            return await entry.fork.run(call)
        finally:
            if call.executed:
                entry.last, entry.request = number, call.request
                entry.outcome = (call.result, call.raised, call.answer)
            else:  # interrupted somewhere in the method
                self.drop(transaction, self._lost())
                self.let_go(transaction)

    def is_open(self, transaction: str) -> bool:
        """Whether ``transaction`` has a private copy here."""
        return transaction in self._open

    def ending_of(self, transaction: str) -> Verdict | None:
        """Return why ``transaction`` cannot go on, None if it can."""
        entry = self._open.get(transaction)
        if entry is None:
            return self._ended.get(transaction) or self._lost()
        if not entry.committing and self.context.clock.monotonic() >= entry.expires:
            return self.expire(transaction)
        return None

    def expire(self, transaction: str) -> Verdict:
        """End a transaction that took too long."""
        expired = aborted("expired", f"it took longer than the {self._lasts_s:g} s it may take")
        return self.drop(transaction, expired) or expired

    def drop(self, transaction: str, verdict: Verdict | None) -> Verdict | None:
        """Forget the private copy of ``transaction``, and keep ``verdict`` for those who ask again."""
        with self._mutex:
            self._open.pop(transaction, None)
            if verdict is not None:
                verdict = self._ended.setdefault(transaction, verdict)
                if len(self._ended) > _ENDED_KEPT:
                    self._ended.popitem(last=False)
        return verdict

    def outrun(self, entry: Open) -> bool:
        """Whether the object has changed since the private copy was taken."""
        assert entry.fork is not None
        return self.context.object.mutations - self.void != entry.fork.mutations - entry.void

    def conflict(self) -> Verdict:
        """Return the verdict on a transaction that was outrun."""
        return aborted(
            "conflict", f"{self.context.microservice} was changed by another call since the transaction began"
        )

    def _lost(self) -> Verdict:
        return aborted(
            "lost", f"its private copy is not here: {self.context.microservice} was moved or restored since it began"
        )

    # --- the end of a transaction --------------------------------------------------------------------------------------

    async def on_message(self, topic: str, payload: Any, call: Call) -> Any:  # noqa: ARG002 - see _payload
        """See the topics: ``commit``, ``finish`` (it may have been a mere reader), ``end`` (publish nothing)."""
        transaction, number = payload_of(call)
        if topic == COMMIT:
            return await self._commit(transaction, number, call)
        if topic == FINISH:
            return self._finish(transaction, number)
        if topic == END:
            entry = self._open.get(transaction)
            if entry is not None and entry.committing:
                raise Invalid(f"transaction {transaction} is being committed; it cannot be rolled back")
            self.let_go(transaction)
            return self.drop(transaction, aborted("rolled-back", "it was rolled back; nothing was published"))
        raise Invalid(f"{self.manager} takes no message {topic!r}; it takes commit, finish and end")

    def let_go(self, transaction: str) -> None:
        """The transaction has ended: let others in."""

    def judge(self, transaction: str, number: int) -> Verdict | None:
        """Return the verdict on a transaction that has ended or whose calls are not all here, None if it may commit."""
        ended = self.ending_of(transaction)
        if ended is None and self._open[transaction].last != number:  # some call's outcome never reached its client
            ended = self._lost()
        return ended

    def _finish(self, transaction: str, number: int) -> Verdict:
        verdict = [COMMITTED] if not number else self.judge(transaction, number)
        if verdict is None:
            fork = self._open[transaction].fork
            verdict = [COMMITTED]
            if fork is not None and fork.changed():
                if not self.outrun(self._open[transaction]):
                    return [MODIFIED]
                verdict = self.conflict()
        self.let_go(transaction)
        return self.drop(transaction, verdict) or verdict

    async def _commit(self, transaction: str, number: int, call: Call) -> Verdict:
        effects = call.effects
        if effects is not None and effects.replaying:
            recorded: Verdict = list(effects.value(effects.next("verdict"), list))
            if recorded[0] != COMMITTED:
                return recorded
            operations = _decode_operations(effects.value(effects.next("operations"), bytes))
            return await self.apply(operations, call) or recorded
        verdict = self.judge(transaction, number)
        if verdict is None:
            entry = self._open[transaction]
            entry.committing = True
            try:
                verdict = await self._publish(entry, call)
            finally:
                entry.committing = False
        self.drop(transaction, verdict)
        if verdict[0] == ABORTED:
            self.void += 1
        if effects is not None:
            effects.value(effects.next("verdict"), lambda: verdict)
        return verdict

    async def _publish(self, entry: Open, call: Call) -> Verdict:
        fork = entry.fork
        assert fork is not None
        if self.outrun(entry):
            return self.conflict()
        try:
            failed = await self.apply(fork.operations, call)
        except BaseException:
            fork.undo()
            raise
        if failed is not None:
            fork.undo()
            return failed
        if call.effects is not None:
            packed = _encode_operations(fork.operations)
            call.effects.value(call.effects.next("operations"), lambda: packed)
        return [COMMITTED]

    async def apply(self, operations: list[Operation], call: Call) -> Verdict | None:
        """Replay ``operations`` on the object; returns the verdict if one of them does not do what it did before."""
        request = call.request
        for number, operation in enumerate(operations, 1):
            part = msgspec.structs.replace(
                operation,
                client=request.client,
                root=request.microservice,
                sequence=request.sequence,
                nested=(*request.path, number),
                floor=call.floor,
            )
            found = await self.context.object.replay(part, call.deadline)
            if found.digest != operation.digest or found.unfaithful:
                why = found.unfaithful or "it had another outcome than the transaction was shown"
                return aborted(
                    "diverged",
                    f"{operation.method}, call {number} of the transaction, is not deterministic: {why}; take time and "
                    "random numbers from amino.now() and amino.random()",
                )
        return None

    # --- life of the replica -------------------------------------------------------------------------------------------

    def on_restore(self, state: Any) -> None:  # noqa: ARG002 - it keeps no state
        """The object is another: what was copied of it is void."""
        for transaction in list(self._open):
            self.drop(transaction, self._lost())
            self.let_go(transaction)

    async def on_start(self) -> None:
        """Begin to end transactions whose clients went away."""
        self.context.spawn(self._reap(), "transactions")

    async def on_low_memory(self) -> None:
        """Drop what has expired."""
        for transaction in list(self._open):
            if self.ending_of(transaction) is not None:
                self.let_go(transaction)

    async def _reap(self) -> None:
        clock = self.context.clock
        while True:
            await self._some.wait()
            self._some = Signal()
            while self._open:
                soonest = min(entry.expires for entry in list(self._open.values()))
                await sleep(max(soonest - clock.monotonic(), 0.001))
                await self.on_low_memory()


def transaction_of(call: Call) -> tuple[str, int]:
    """Return transaction and number of a call that belongs to one. Raises ``Invalid`` for a malformed header."""
    try:
        transaction, number = (call.headers or {})[PROVISIONAL_HEADER]
        return str(transaction), int(number)
    except (TypeError, ValueError) as error:
        raise Invalid(f"the header {PROVISIONAL_HEADER!r} of {call.method} is malformed: {error}") from error


def payload_of(call: Call) -> tuple[str, int]:
    """Return transaction and number of calls of a message. Raises ``Invalid``."""
    try:
        transaction, number, *_ = call.args[0]
        return str(transaction), int(number)
    except (IndexError, TypeError, ValueError) as error:
        raise Invalid(f"{call.method} takes [transaction, number of calls]: {error}") from error


def _transaction_in(call: Call) -> str:
    try:
        return str(call.args[0][0])
    except (IndexError, TypeError, KeyError) as error:
        raise Invalid(f"{call.method} takes [transaction, ...]: {error}") from error


def aborted(reason: str, text: str) -> Verdict:
    """Return the verdict of an abort."""
    return [ABORTED, reason, text]


def error_of(verdict: Verdict) -> TransactionAborted:
    """Return what the client is told of an ``ABORTED`` verdict."""
    return TransactionAborted(f"the transaction was aborted: {verdict[2]}", reason=verdict[1])
