"""The caller's side of every transaction: the ``with`` block, and which calls belong to it.

Owns blocks, the numbers of their calls, and the client component that marks those. Leaves how a block ends to ``client`` (one
microservice) and ``distributed`` (several).
Invariants: calls join in the block's own context only, never from within methods that they call; a transaction's calls on
one microservice run one at a time; a call whose outcome is not known dooms the transaction; in a method that is recorded
or replayed, the end of a block is one effect.
Failure behaviour: whatever leaves the block early rolls back; a rollback that does not arrive is made up for by expiry.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Self

from amino.aio.mode import drive, on_loop
from amino.aio.signal import Turn
from amino.contracts.calls import COMPONENT, CURRENT, FORKED, GUARD, PROVISIONAL_HEADER, Raised
from amino.dm.base import ClientBase
from amino.dm.control import operation
from amino.dm.transactions.component import ABORTED, COMMITTED, Verdict, error_of
from amino.errors import AminoError, Invalid, NotExecuted, OutcomeUnknown, TransactionAborted
from amino.marks import READONLY
from amino.stubs.sender import ChainChanged

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence
    from contextvars import Token
    from types import TracebackType

    from amino.contracts.calls import Call, Forward
    from amino.contracts.context import ClientContext
    from amino.contracts.documents import DmSpec
    from amino.stubs.runtime import Runtime

IN_DOUBT = "in doubt"
EVERYWHERE = ""
"""The place of transactions over several microservices among the blocks."""

_BLOCKS: ContextVar[dict[str, Block] | None] = ContextVar("amino_transactions", default=None)
"""Transactions in whose blocks this code runs, by microservice."""


def block_here(place: str) -> Block | None:
    """Return the block at ``place`` that this code runs in, not one further out that only called it."""
    blocks = _BLOCKS.get()
    block = blocks.get(place) if blocks else None
    return block if block is not None and block.invocation is CURRENT.get() else None


class Joining(ClientBase):
    """Marks calls that belong to a transaction.

    Args:
        place: the microservice, or ``EVERYWHERE``.
    """

    def __init__(self, place: str, context: ClientContext) -> None:
        self._place = place
        self._context = context

    async def on_call(self, call: Call, forward: Forward) -> Any:
        """Let ``call`` join the transaction of the block it is made in, if it is in one."""
        block = block_here(self._place)
        if block is None or call.method.startswith(COMPONENT):
            return await forward(call)
        return await block.join(call, forward, self._context.clock.monotonic())


class Part:
    """A transaction on one microservice: the calls that joined it."""

    def __init__(self) -> None:
        self.turn = Turn()
        self.last = 0
        self.doubtful = False
        self.wrote = False
        self.doomed: TransactionAborted | None = None
        self.paths: list[str] = []
        self.addressed = "/"

    @property
    def silent(self) -> bool:
        """Whether no server has heard of it."""
        return not (self.last or self.doubtful)

    @property
    def problem(self) -> TransactionAborted | None:
        """Why it cannot be published, None if it can."""
        if self.doubtful:
            return TransactionAborted(
                "the transaction was aborted: the outcome of one of its calls is not known", reason="lost"
            )
        return self.doomed

    async def send(self, transaction: str, call: Call, forward: Forward) -> Any:
        """Send ``call`` as the transaction's next, or again if it was sent before."""
        headers = call.headers or {}
        sent = headers.get(PROVISIONAL_HEADER)
        if sent is None:
            if self.problem is not None:
                raise self.problem
            call.headers = {**headers, PROVISIONAL_HEADER: [transaction, self.last + 1]}
        elif sent[1] != self.last + 1:
            raise Invalid(f"call {sent[1]} of transaction {transaction} was repeated after a later one")
        self.doubtful = True
        self.wrote = self.wrote or not call.flags & READONLY
        try:
            result = await forward(call)
        except Raised:
            self._settled(call)
            raise
        except NotExecuted:
            self.doubtful = call.attempt > 0
            raise
        except ChainChanged:  # this attempt was not sent; what earlier calls left went with the chain
            self.doubtful = call.attempt > 0
            raise
        except TransactionAborted as error:
            self._settled(call)
            self.doomed = error
            raise
        self._settled(call)
        return result

    def _settled(self, call: Call) -> None:
        self.last += 1
        self.doubtful = False
        if call.path not in self.paths:
            self.paths.append(call.path)
        self.addressed = self.paths[0]
        if len(self.paths) > 1:
            self.doomed = TransactionAborted(
                f"the transaction was aborted: {call.method} belongs to group {call.path} and the calls before it to "
                f"{self.paths[0]}; a transaction stays within one shard",
                reason="refused",
            )
            raise self.doomed


class Block(ABC):
    """Base of transactions: ``with ... as t``, or ``async with``. Not to be entered twice, or shared by threads."""

    def __init__(self, runtime: Runtime, place: str, transaction: str) -> None:
        self._runtime = runtime
        self._place = place
        self._token: Token[dict[str, Block] | None] | None = None
        self.state = "new"
        self.invocation: Any = None
        self.id = transaction

    def __repr__(self) -> str:
        return f"<transaction {self.id}: {self.state}>"

    # --- what kinds of transactions differ in --------------------------------------------------------------------------

    @abstractmethod
    def part(self, microservice: str) -> Part:
        """Return the transaction on ``microservice``."""

    @abstractmethod
    def check(self, chain: Sequence[DmSpec], call: Call) -> None:
        """Refuse a call in the block that would not be part of the transaction. Raises an ``AminoError``."""

    @abstractmethod
    async def publish(self) -> Verdict:
        """End it so that all of it takes effect, or none."""

    @abstractmethod
    async def give_up(self) -> None:
        """End it so that none of it takes effect; never raises an ``AminoError``."""

    # --- the block -----------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        if on_loop():
            raise RuntimeError("a transaction's block waits at its end, and an event loop is running: use async with")
        self.begin()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        drive(self._end(publish=error is None))

    async def __aenter__(self) -> Self:
        self.begin()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self._end(publish=error is None)

    async def _rollback(self) -> None:
        """Publish nothing, and free what the transaction holds; the block may go on without calls. Idempotent."""
        if self.state == "open":
            self.state = "rolled back"
            await self._as_one_effect(self._given_up())

    rollback = operation(_rollback)

    def begin(self) -> None:
        """Enter the block."""
        if self.state != "new":
            raise Invalid(f"{self!r} was begun before; make another")
        current = CURRENT.get()
        if current is not None and FORKED.get() == current.request:
            raise Invalid(
                f"{current.request} runs in a transaction already, as one of its calls; transactions do not nest"
            )
        blocks = _BLOCKS.get() or {}
        outer = next((each for each in blocks.values() if each.invocation is current and self._clashes(each)), None)
        if outer is not None:
            raise Invalid(f"{outer!r} is open in this block already; transactions do not nest")
        self.invocation = current
        self.state = "open"
        self._token = _BLOCKS.set({**blocks, self._place: self})
        self._guard = GUARD.set(self._both(GUARD.get()))

    def _both(self, outer: Callable[[Any, Call], None] | None) -> Callable[[Any, Call], None]:
        def check(chain: Sequence[DmSpec], call: Call) -> None:
            if outer is not None:
                outer(chain, call)
            if self.invocation is CURRENT.get():
                self.check(chain, call)

        return check

    def _clashes(self, other: Block) -> bool:
        return self._place == other._place or EVERYWHERE in (self._place, other._place)

    async def _end(self, *, publish: bool) -> None:
        try:
            if self.state == "open" and publish:
                await self._commit()
            else:
                await self._rollback()
        finally:
            if self.state == "open":
                self.state = "aborted"
            if self._token is not None:
                _BLOCKS.reset(self._token)
                GUARD.reset(self._guard)

    async def _commit(self) -> None:
        verdict = await self._as_one_effect(self.publish())
        if verdict[0] == ABORTED:
            raise error_of(verdict)
        if verdict[0] == IN_DOUBT:
            self.state = IN_DOUBT
            raise OutcomeUnknown(verdict[1])
        self.state = COMMITTED

    async def _given_up(self) -> Verdict:
        await self.give_up()
        return []

    async def _as_one_effect(self, work: Coroutine[Any, Any, Verdict]) -> Verdict:
        """Record ``work`` as a whole, or take its outcome from the record: what it sends depends on calls not replayed."""
        invocation = self.invocation
        effects = invocation.effects if invocation is not None else None
        if effects is None:
            return await work

        async def ask() -> list[Any]:
            invocation.effects = None
            try:
                return [await work, invocation.nested]
            finally:
                invocation.effects = effects

        try:
            verdict, invocation.nested = await effects.outcome(effects.next("transaction"), ask, self._runtime)
        finally:
            work.close()
        return list(verdict)

    # --- its calls -----------------------------------------------------------------------------------------------------

    async def join(self, call: Call, forward: Forward, now: float) -> Any:
        """Send ``call`` in this transaction."""
        part = self.part(call.microservice)
        try:
            await part.turn.acquire(max(call.deadline - now, 0.0))
        except TimeoutError:
            raise NotExecuted(
                f"{call.method} waited until its deadline for an earlier call of its transaction", reason="deadline"
            ) from None
        try:
            if self.state != "open":
                raise Invalid(f"{self!r} has ended; {call.method} was not called")
            return await part.send(self.id, call, forward)
        finally:
            part.turn.release()


async def quietly(work: Callable[[], Coroutine[Any, Any, Any]]) -> bool:
    """Await ``work()``; returns whether it went well."""
    try:
        await work()
    except AminoError:
        return False
    return True
