"""Transactions over several microservices, as their callers hold them.

Owns sending what the coordinator's machine says, and the resource that takes part from outside. Leaves the order to ``machine``,
blocks to ``block``.
Invariants: nothing is prepared before the decision's key exists; only the registry's (or the database's) word counts.
Failure behaviour: as ``machine``; what cohorts are not told they learn by themselves.
"""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from amino.aio.mode import together
from amino.contracts.calls import CURRENT, Call, component_message
from amino.contracts.decisions import ABORT, COMMIT, PENDING, BeginDecisionRequest, DecideRequest
from amino.contracts.decisions import COMMITTED as DECIDED
from amino.dm.transactions import machine
from amino.dm.transactions.block import EVERYWHERE, IN_DOUBT, Block, Part, block_here, quietly
from amino.dm.transactions.cohort import DECIDE, PREPARE, PREPARED
from amino.dm.transactions.component import ABORTED, COMMITTED, END, FINISH, Verdict
from amino.errors import AminoError, Invalid, OutcomeUnknown, TransactionAborted
from amino.stubs.current import deadline

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from amino.contracts.documents import DmSpec
    from amino.dm.transactions.participant import Participant
    from amino.stubs.runtime import Runtime

P = ParamSpec("P")
R = TypeVar("R")
MANAGER = "TwoPhaseCommit"
_TELL_S = 5.0
_REGISTRY_S = 10.0


class DistributedTransaction(Block):
    """One transaction: ``with cluster.transaction() as t``, or ``async with``.

    Calls in the block on microservices that carry ``TwoPhaseCommit`` belong to it; others are refused. Leaving the block
    commits; an exception that leaves it rolls back, and goes on.

    Args:
        participant: a resource outside that takes part and can veto, for example ``SqlParticipant``.

    Raises:
        TransactionAborted: at the end of the block, or of a call in it: nothing was published anywhere. OutcomeUnknown: at
            its end: the answer to the decision was lost; every cohort learns it.
    """

    def __init__(self, runtime: Runtime, participant: Participant | None = None) -> None:
        super().__init__(runtime, EVERYWHERE, runtime.entropy(12).hex())
        self._parts: dict[str, Part] = {}
        self._participant = participant
        self._revision = 0

    def part(self, microservice: str) -> Part:
        """Return the transaction on one of them."""
        return self._parts.setdefault(microservice, Part())

    def check(self, chain: Sequence[DmSpec], call: Call) -> None:
        """Refuse a call to a microservice that takes no part. Raises ``Invalid``."""
        if self.state == "open" and all(dm.name != MANAGER for dm in chain):
            raise Invalid(
                f"{call.method} of {call.microservice} was called in {self!r}, and its chain has no {MANAGER}; name it there, "
                "or make the call outside of the transaction"
            )

    # --- the end -------------------------------------------------------------------------------------------------------

    async def publish(self) -> Verdict:
        """Run the protocol."""
        problem = next((part.problem for part in self._parts.values() if part.problem is not None), None)
        if problem is not None:
            await self.give_up()
            return [ABORTED, problem.reason, problem.message.partition(": ")[2]]
        active = {each: part for each, part in self._parts.items() if not part.silent}
        writers = tuple(each for each, part in active.items() if part.wrote)
        readers = tuple(each for each, part in active.items() if not part.wrote)
        if not writers and self._participant is not None:
            return await self._resource_alone(readers)
        coordinator = machine.Coordinator(writers, readers, resource=bool(self._resource))
        await self._conduct(coordinator)
        if self._participant is not None and coordinator.outcome == ABORTED:
            await self._participant.rollback()
        return self._verdict(coordinator)

    async def _conduct(self, coordinator: machine.Coordinator) -> None:
        while due := coordinator.due():
            for answer in await together(self._carry_out(effect) for effect in due):
                coordinator.done(*answer)

    def _verdict(self, coordinator: machine.Coordinator) -> Verdict:
        if coordinator.outcome == COMMITTED:
            return [COMMITTED]
        if coordinator.outcome == "in doubt":
            return [IN_DOUBT, f"the decision on transaction {self.id} is not known here; every cohort learns it"]
        return [ABORTED, *coordinator.why]

    async def _resource_alone(self, readers: tuple[str, ...]) -> Verdict:
        """Nothing here was changed: validate, and let the resource commit by itself."""
        assert self._participant is not None
        coordinator = machine.Coordinator((), readers)
        await self._conduct(coordinator)
        if coordinator.outcome != COMMITTED:
            await self._participant.rollback()
            return self._verdict(coordinator)
        answer, reason, text = await self._commit_resource()
        return [COMMITTED] if answer == machine.YES else [ABORTED, reason, text]

    @property
    def _resource(self) -> str:
        return self._participant.name if self._participant is not None else ""

    async def give_up(self) -> None:
        """Tell everybody who heard of it."""
        for microservice, part in self._parts.items():
            for path in part.paths or ["/"]:
                part.addressed = path
                if not part.silent:
                    await self._drop(microservice)
        if self._participant is not None:
            await self._participant.rollback()

    async def _drop(self, microservice: str) -> bool:
        with deadline(2.0):  # what does not arrive expires
            return await quietly(lambda: self._message(microservice, END, [self.id, self._parts[microservice].last]))

    # --- what the machine says -----------------------------------------------------------------------------------------

    async def _carry_out(self, effect: machine.Effect) -> tuple[str, str, str]:
        match effect:
            case machine.Begin():
                return await self._begin()
            case machine.Prepare(cohort):
                payload = [self.id, self._parts[cohort].last, self._revision, self._groups(), self._resource]
                return await self._vote(cohort, PREPARE, payload, PREPARED)
            case machine.Validate(cohort):
                return await self._vote(cohort, FINISH, [self.id, self._parts[cohort].last], COMMITTED)
            case machine.CommitResource():
                return await self._commit_resource()
            case machine.Decide(commit):
                return await self._decide(commit=commit)
            case machine.Tell(cohort, commit):
                outcome = DECIDED if commit else "aborted"
                with deadline(_TELL_S):
                    told = await quietly(lambda: self._message(cohort, DECIDE, [self.id, outcome]))
                return (machine.YES if told else machine.UNKNOWN), "", ""
            case machine.Drop(cohort):
                await self._drop(cohort)
            case machine.End():
                await quietly(lambda: self._ask("end_decision", DecideRequest(self.id, self._revision)))
        return machine.YES, "", ""

    def _groups(self) -> list[str]:
        return [f"{each}{part.addressed}" for each, part in self._parts.items() if part.wrote and not part.silent]

    async def _begin(self) -> tuple[str, str, str]:
        request = BeginDecisionRequest(self.id, tuple(self._groups()), self._resource)
        try:
            self._revision = (await self._ask("begin_decision", request)).revision
        except AminoError as error:
            return machine.UNKNOWN, "lost", str(error)
        return machine.YES, "", ""

    async def _vote(self, cohort: str, topic: str, payload: list[Any], yes: str) -> tuple[str, str, str]:
        try:
            verdict = list(await self._message(cohort, topic, payload))
        except AminoError as error:
            return machine.UNKNOWN, "lost", f"{cohort} did not vote: {error}"
        if verdict[0] == yes:
            return machine.YES, "", ""
        return machine.NO, verdict[1], verdict[2]

    async def _commit_resource(self) -> tuple[str, str, str]:
        assert self._participant is not None
        try:
            await self._participant.prepare(self.id)
            await self._participant.commit(self.id)
        except OutcomeUnknown as error:
            return machine.UNKNOWN, "lost", str(error)
        except TransactionAborted as error:
            return machine.NO, "veto", str(error)
        except Exception as error:  # noqa: BLE001 - a participant of the user's may raise anything; it may have committed
            return machine.UNKNOWN, "lost", f"{self._resource} raised {error!r}"
        return machine.YES, "", ""

    async def _decide(self, *, commit: bool) -> tuple[str, str, str]:
        request = DecideRequest(self.id, self._revision, COMMIT if commit else ABORT)
        try:
            decision = await self._ask("decide", request)
            if decision.outcome == PENDING and not commit:  # the answer to its creation, with its revision, was lost
                decision = await self._ask("decide", DecideRequest(self.id, decision.revision, ABORT))
        except AminoError as error:
            return machine.UNKNOWN, "lost", str(error)
        return (machine.YES if decision.outcome == DECIDED else machine.NO), "", ""

    async def _message(self, microservice: str, topic: str, payload: list[Any]) -> Any:
        target = self._runtime.target(microservice)
        path = self._parts[microservice].addressed
        return await self._runtime.invoke(target, component_message(MANAGER, topic), 0, (payload,), {}, path)

    async def _ask(self, method: str, request: Any) -> Any:
        return await self._runtime.registry.call(method, request, timeout_s=_REGISTRY_S)


def transaction_here() -> DistributedTransaction | None:
    """Return the transaction over several microservices in whose block this code runs, if any."""
    return cast("DistributedTransaction | None", block_here(EVERYWHERE))


def transactional(method: Callable[P, R]) -> Callable[P, R]:
    """Run a microservice's method in a transaction over the microservices that it calls.

    The calls that the method makes are atomic together; what it does to its own object is not part of the transaction. An
    exception rolls back.

    Raises:
        TransactionAborted, OutcomeUnknown: from the method, as ``cluster.transaction()`` does.
    """
    if inspect.iscoroutinefunction(method):

        @functools.wraps(method)
        async def asynchronous(*args: Any, **kwargs: Any) -> Any:
            async with _here():
                return await method(*args, **kwargs)

        return cast("Callable[P, R]", asynchronous)

    @functools.wraps(method)
    def blocking(*args: Any, **kwargs: Any) -> Any:
        with _here():
            return method(*args, **kwargs)

    return cast("Callable[P, R]", blocking)


def _here() -> DistributedTransaction:
    current = CURRENT.get()
    if current is None:
        raise Invalid("@amino.transactional is for methods of microservices; use with cluster.transaction() elsewhere")
    return DistributedTransaction(current.runtime)
