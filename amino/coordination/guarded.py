"""``GuardedWriter``: many small guarded transactions in few large ones.

Owns combining concurrent writes under etcd's limit of operations and handing each caller its own answer. Leaves the
guards themselves to the callers.
Invariants: a caller's answer is the one its transaction would have had alone, at some moment after it was handed over;
two writes that could see each other are never combined; the queue is bounded.
Failure behaviour: a combined transaction whose compares fail, or that is refused, is repeated as its parts; one without
an answer is ``CoordinationUnavailable`` (unknown) for each part, whatever ended it; a full queue is ``Overloaded`` at once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from amino.aio.tasks import TaskOwner
from amino.coordination.rules import check_transaction
from amino.coordination.store import OPERATIONS_MAX, Compare, Delete, Get, Operation, Put, Store, TxnResult
from amino.errors import AminoError, Conflict, CoordinationUnavailable, Invalid, Overloaded

QUEUE_MAX = 8192
IN_FLIGHT_MAX = 2
GATHER = 32
BUSY = 4
PAUSE_S = 0.01
BYTES_MAX = 512 * 1024  # etcd refuses requests over 1.5 MiB


@dataclass(slots=True, eq=False)
class _Write:
    compares: tuple[Compare, ...]
    then: tuple[Operation, ...]
    answer: asyncio.Future[TxnResult]
    size: int


class _Batch:
    """Writes that can share a transaction."""

    def __init__(self) -> None:
        self.writes: list[_Write] = []
        self.compares: dict[Compare, None] = {}
        self.operations: list[Operation] = []
        self._touched: set[str] = set()
        self._written: set[str] = set()
        self._size = 0

    def add(self, write: _Write) -> bool:
        """Add ``write`` if it fits; returns whether it did."""
        compares = [compare for compare in write.compares if compare not in self.compares]
        written = {one.key for one in write.then if not isinstance(one, Get)}
        touched = {one.key for one in write.then}
        touched.update(compare.key for compare in write.compares)
        if self.writes and (
            len(self.compares) + len(compares) > OPERATIONS_MAX
            or len(self.operations) + len(write.then) > OPERATIONS_MAX
            or self._size + write.size > BYTES_MAX
            or not self._written.isdisjoint(touched)
            or not self._touched.isdisjoint(written)
        ):
            return False
        self.writes.append(write)
        self.compares.update(dict.fromkeys(compares))
        self.operations.extend(write.then)
        self._touched |= touched
        self._written |= written
        self._size += write.size
        return True


class GuardedWriter:
    """Combines the writes of all its callers.

    Args:
        store: where they go.
        queue_max: writes that may wait.
        in_flight_max: transactions under way at once; while they are, further writes gather.
        gather: while a transaction is under way, and ``PAUSE_S`` longer if it combined ``BUSY`` writes or more, another
            begins only for so many writes. Each transaction costs etcd, us and everybody who watches about as much as ten
            writes in it; callers who are alone, or few, never wait.
    """

    def __init__(
        self, store: Store, *, queue_max: int = QUEUE_MAX, in_flight_max: int = IN_FLIGHT_MAX, gather: int = GATHER
    ) -> None:
        self._store = store
        self._queue_max = queue_max
        self._in_flight_max = in_flight_max
        self._gather = gather
        self._queue: deque[_Write] = deque()
        self._in_flight = 0
        self._resting: asyncio.TimerHandle | None = None
        self._flushing = False
        self._closed = False
        self._tasks = TaskOwner("guarded writer")
        self._drained = asyncio.Event()
        self._drained.set()
        self.transactions = 0
        self.combined = 0
        self.repeated = 0

    def __repr__(self) -> str:
        return f"GuardedWriter({len(self._queue)} waiting, {self._in_flight} in flight)"

    async def write(self, compares: Sequence[Compare], then: Sequence[Operation]) -> TxnResult:
        """Do ``then`` if all compares hold, as ``Store.txn`` does.

        Cancelling abandons the wait: the write may still be done.

        Raises:
            CoordinationUnavailable: no answer; whether it was done is unknown.
            Invalid: etcd would refuse it.
            Conflict: a lease named in it does not exist.
            Overloaded: too many writes wait; nothing was done.
        """
        check_transaction(compares, then, ())
        if any(isinstance(one, Delete | Get) and one.prefix for one in then):
            return await self._store.txn(compares, then)  # what a prefix touches cannot be seen from here
        if self._closed:
            raise CoordinationUnavailable("the guarded writer is closed; nothing was sent")
        if len(self._queue) >= self._queue_max:
            raise Overloaded(
                f"{len(self._queue)} writes to etcd wait already, the bound; back off and repeat", reason="overloaded"
            )
        size = sum(len(one.key) + len(one.value) for one in then if isinstance(one, Put))
        answer: asyncio.Future[TxnResult] = asyncio.get_running_loop().create_future()
        self._queue.append(_Write(tuple(compares), tuple(then), answer, size))
        self._drained.clear()
        if not self._flushing:
            self._flushing = True
            asyncio.get_running_loop().call_soon(self._flush)
        return await answer

    async def aclose(self) -> None:
        """Take no more writes, wait for those handed over. Idempotent."""
        self._closed = True
        await self._drained.wait()
        await self._tasks.aclose()

    def _flush(self) -> None:
        self._flushing = False
        while self._may_send():
            batch = self._next_batch()
            if batch.writes:
                self._in_flight += 1
                self._tasks.spawn(self._send(batch), "send")
        if not self._queue and not self._in_flight:
            self._drained.set()

    def _may_send(self) -> bool:
        if not self._queue or self._in_flight >= self._in_flight_max:
            return False
        return len(self._queue) >= self._gather or (not self._in_flight and self._resting is None)

    def _rest(self) -> None:
        if self._resting is None:
            self._resting = asyncio.get_running_loop().call_later(PAUSE_S, self._rested)

    def _rested(self) -> None:
        self._resting = None
        self._flush()

    def _next_batch(self) -> _Batch:
        """Take writes in order; those that do not fit keep their places."""
        batch = _Batch()
        left: deque[_Write] = deque()
        while self._queue and len(left) < OPERATIONS_MAX:
            write = self._queue.popleft()
            if not write.answer.done() and not batch.add(write):
                left.append(write)
        self._queue.extendleft(reversed(left))
        return batch

    async def _send(self, batch: _Batch) -> None:
        try:
            if len(batch.writes) == 1 or not await self._send_together(batch):
                self.repeated += len(batch.writes) - 1
                await asyncio.gather(*(self._send_alone(write) for write in batch.writes))
        except BaseException as problem:  # a bug of the store's, or closing: nobody may wait for ever
            for write in batch.writes:
                _fail(write, CoordinationUnavailable(f"whether it was written is unknown: {problem!r}"))
            raise
        finally:
            self._in_flight -= 1
            if len(batch.writes) >= BUSY:
                self._rest()
            self._flush()

    async def _send_together(self, batch: _Batch) -> bool:
        self.transactions += 1
        try:
            result = await self._store.txn(tuple(batch.compares), batch.operations)
        except (Invalid, Conflict):  # one of them; each will hear for itself
            return False
        except AminoError as error:
            for write in batch.writes:
                _fail(write, error)
            return True
        if not result.succeeded:
            return False
        self.combined += len(batch.writes)
        reads = iter(result.reads)
        for write in batch.writes:
            own = tuple(next(reads) for one in write.then if isinstance(one, Get))
            if not write.answer.done():
                write.answer.set_result(TxnResult(succeeded=True, revision=result.revision, reads=own))
        return True

    async def _send_alone(self, write: _Write) -> None:
        self.transactions += 1
        try:
            result = await self._store.txn(write.compares, write.then)
        except AminoError as error:
            _fail(write, error)
        else:
            if not write.answer.done():
                write.answer.set_result(result)


def _fail(write: _Write, error: AminoError) -> None:
    if not write.answer.done():
        copy = type(error)(error.message, **error.details)  # an exception raised in two places mixes its tracebacks
        copy.__cause__ = error
        write.answer.set_exception(copy)
