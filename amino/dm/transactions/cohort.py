"""The server component of ``TwoPhaseCommit``: a cohort, which promises, waits, and learns.

Owns carrying promises out and learning outcomes. Leaves what a promise is to ``machine``, private copies to ``component``.
Invariants: a promise is part of the state, and so as durable as managers further out make it; from promise to outcome no
other call runs on the object; a promise is kept or dropped only as the registry's decision says.
Failure behaviour: a cohort that hears nothing for ``timeout_s`` asks the registry, which aborts what is still pending. Of a
commit whose initiator is gone the cohorts tell each other, and then remove its key.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import msgspec

from amino.aio.mode import sleep, together
from amino.aio.signal import Signal
from amino.contracts.calls import component_message
from amino.contracts.decisions import ABORT, ASK, COMMITTED, PENDING, DecideRequest, Decision, DecisionsRequest
from amino.contracts.operations import Operation
from amino.dm.transactions.component import (
    COMMIT,
    END,
    FINISH,
    Transactions,
    Verdict,
    aborted,
    payload_of,
    transaction_of,
)
from amino.dm.transactions.machine import Cohort, Prepared
from amino.errors import AminoError, Invalid, NotExecuted
from amino.marks import PROVISIONAL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from amino.contracts.calls import Call
    from amino.contracts.context import ServerContext

PREPARE, DECIDE = "prepare", "decide"
PREPARED, DONE = "prepared", "done"
_VOTE_WAIT_S = 1.0
_OUTCOME_WAIT_S = 0.1
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Operation]).decode


class CohortComponent(Transactions):
    """One cohort.

    Args:
        timeout_s: of the manager.
    """

    def __init__(self, manager: str, timeout_s: float, context: ServerContext) -> None:
        super().__init__(manager, timeout_s, context)
        self._timeout_s = timeout_s
        self._cohort = Cohort()
        self._promised: Signal[bool] = Signal()
        self._carried_out: Signal[bool] = Signal()
        self._left: set[str] = set()

    @property
    def prepared(self) -> Prepared | None:
        """What it has promised."""
        return self._cohort.prepared

    # --- who waits for whom --------------------------------------------------------------------------------------------

    async def before_call(self, call: Call) -> Callable[[], None] | None:
        """Let calls in together; one that votes or commits alone; nobody while a promise is open."""
        if call.flags & PROVISIONAL:
            if self._cohort.prepared is not None and transaction_of(call)[1] == 1:
                await self._outcome_soon(call)
            return None
        message = self.message_of(call)
        if message is None:
            return await self._let_in(call)
        topic, transaction = message
        if topic == DECIDE:
            return lambda: self._let_others_in(transaction)
        if topic in (FINISH, END) or self._cohort.prepared is not None:
            return None  # FINISH and END only look; a vote is no as long as another promise is open
        wait_s = min(_VOTE_WAIT_S, max(call.deadline - self.context.clock.monotonic(), 0.0))
        try:
            await self.lock.own(transaction, call.request, float("inf"), wait_s)
        except TimeoutError:
            raise self._locked(call) from None
        return lambda: self._let_others_in(transaction)

    async def _outcome_soon(self, call: Call) -> None:
        """Wait a moment for the outcome of an open promise: a copy of what is about to change would be void with it.

        Not for long: where nobody can learn outcomes, who waited for them would only come later to what it can do by then.
        """
        with contextlib.suppress(TimeoutError):
            self.lock.unshare(await self.lock.share(call.request, _OUTCOME_WAIT_S))

    async def _let_in(self, call: Call) -> Callable[[], None]:
        wait_s = min(self._timeout_s, max(call.deadline - self.context.clock.monotonic(), 0.0))
        try:
            token = await self.lock.share(call.request, wait_s)
        except TimeoutError:
            raise self._locked(call) from None
        return lambda: self.lock.unshare(token)

    def _let_others_in(self, transaction: str) -> None:
        if not self._cohort.holds(transaction):
            self.lock.disown(transaction)

    def _locked(self, call: Call) -> NotExecuted:
        return NotExecuted(
            f"a transaction that is being committed holds {call.microservice}, and {call.method} waited for it; repeat it later",
            reason="locked",
        )

    # --- messages ------------------------------------------------------------------------------------------------------

    async def on_message(self, topic: str, payload: Any, call: Call) -> Any:
        """Besides those of the base: ``prepare`` (vote) and ``decide`` (carry the outcome out)."""
        if topic == PREPARE:
            return await self._prepare(payload, call)
        if topic == DECIDE:
            return await self._decide(payload, call)
        if topic == FINISH:
            return self._validate(*payload_of(call))
        if topic == COMMIT and self._cohort.prepared is not None:
            return self._busy()
        return await super().on_message(topic, payload, call)

    def _busy(self) -> Verdict:
        return aborted("conflict", f"another transaction is being committed on {self.context.microservice}")

    def _validate(self, transaction: str, number: int) -> Verdict:
        """Say whether what the transaction read here still holds; it is over here either way."""
        verdict = self.judge(transaction, number)
        if verdict is None:
            if self._cohort.prepared is not None:
                verdict = self._busy()
            else:
                verdict = self.conflict() if self.outrun(self._open[transaction]) else [COMMITTED]
        return self.drop(transaction, verdict) or verdict

    async def _prepare(self, payload: Any, call: Call) -> Verdict:
        try:
            transaction, number, revision, cohorts, resource = payload
        except (TypeError, ValueError) as error:
            raise Invalid(f"prepare takes [transaction, calls, revision, cohorts, resource]: {error}") from error
        effects = call.effects
        if effects is not None and effects.replaying:
            verdict: Verdict = list(effects.value(effects.next("verdict"), list))
            if verdict[0] == PREPARED:
                operations = effects.value(effects.next("operations"), bytes)
                self._promise(Prepared(transaction, revision, list(cohorts), resource, operations))
                self.lock.seize(transaction)
            return verdict
        verdict = await self._vote(transaction, number, revision, list(cohorts), resource, call)
        if verdict[0] != PREPARED:
            self.drop(transaction, verdict)
            self.void += 1
        if effects is not None:
            effects.value(effects.next("verdict"), lambda: verdict)
            promise = self._cohort.prepared
            if verdict[0] == PREPARED and promise is not None:
                effects.value(effects.next("operations"), lambda: promise.operations)
        return verdict

    async def _vote(
        self, transaction: str, number: int, revision: int, cohorts: list[str], resource: str, call: Call
    ) -> Verdict:
        if self._cohort.holds(transaction):
            return [PREPARED]
        if self._cohort.prepared is not None:
            return self._busy()
        verdict = self.judge(transaction, number)
        if verdict is not None:
            return verdict
        entry = self._open[transaction]
        assert entry.fork is not None
        if self.outrun(entry):
            return self.conflict()
        failed = await entry.fork.verify(call.deadline)
        if failed:
            return aborted("diverged", failed)
        self._promise(Prepared(transaction, revision, cohorts, resource, _encode(entry.fork.operations)))
        self.drop(transaction, None)
        return [PREPARED]

    def _promise(self, promise: Prepared) -> None:
        self._cohort.prepare(promise)
        self._promised.set(True)

    async def _decide(self, payload: Any, call: Call) -> Verdict:
        try:
            transaction, outcome = payload
        except (TypeError, ValueError) as error:
            raise Invalid(f"decide takes [transaction, outcome]: {error}") from error
        promise = self._cohort.settle(transaction)
        if promise is None:
            if outcome != COMMITTED:
                self.drop(transaction, aborted("rolled-back", "it was rolled back; nothing was published"))
            return [DONE]
        if outcome == COMMITTED:
            failed = await self.apply(_decode(promise.operations), call)
            if failed is not None:  # decided and promised: what it led to stays
                self.context.event("transaction-diverged", transaction=transaction, why=failed[2])
            self._carried_out.set(True)
        self._cohort.settled(transaction)
        if call.effects is not None and call.effects.replaying:
            self.lock.disown(transaction)
        return [DONE]

    # --- life of the replica -------------------------------------------------------------------------------------------

    def on_snapshot(self) -> Any:
        """The promise."""
        return self._cohort.prepared.to_state() if self._cohort.prepared is not None else None

    def on_restore(self, state: Any) -> None:
        """Take the promise over, with its lock; what was copied of the object is void."""
        super().on_restore(None)
        if self._cohort.prepared is not None:
            self.lock.disown(self._cohort.prepared.transaction)
        self._cohort = Cohort()
        self._carried_out.set(True)  # perhaps, before
        if state is not None:
            self._promise(Prepared(*state))
            self.lock.seize(str(state[0]))

    async def on_start(self) -> None:
        """Begin to learn outcomes that nobody tells."""
        await super().on_start()
        self.context.spawn(self._learn(), "two-phase commit")
        self.context.spawn(self._tidy(), "ends of two-phase commits")

    async def _learn(self) -> None:
        pause_s = self._timeout_s * 0.2
        while True:
            await self._promised.wait()
            self._promised = Signal()
            while self._cohort.prepared is not None:
                promise = self._cohort.overdue(self.context.clock.monotonic(), self._timeout_s)
                if promise is not None and self.context.answers:
                    try:
                        await self._ask(promise)
                    except Exception as error:  # noqa: BLE001 - whatever it is, the promise stands and must be settled
                        self.context.event("transaction-in-doubt", transaction=promise.transaction, why=error)
                await sleep(pause_s * (0.5 + self.context.random.random()))

    async def _ask(self, promise: Prepared) -> None:
        """Learn the outcome (abort what is still pending), tell everybody, and remove the key."""
        wish = ASK if promise.resource else ABORT  # where a database decides, only it can abort
        request = DecideRequest(promise.transaction, promise.revision, wish)
        decision = await self.context.registry("decide", request)
        if decision.outcome == PENDING:
            return
        await self._tell(decision, [f"{self.context.microservice}{self.context.path}"])
        self.context.spawn(self._tell_all(decision, promise.cohorts), "outcome of a two-phase commit")

    async def _tell(self, decision: Decision, cohorts: Iterable[str]) -> bool:
        """Tell cohorts of an outcome, all at once; returns whether all have heard."""
        method = component_message(self.manager, DECIDE)

        async def heard(cohort: str) -> bool:
            try:
                await self.context.message(cohort, method, [decision.transaction, decision.outcome])
            except AminoError:
                return False  # it asks by itself
            return True

        return all(await together(heard(each) for each in cohorts))

    async def _tell_all(self, decision: Decision, cohorts: Iterable[str]) -> None:
        """Tell all cohorts of an outcome; once all have heard of a commit, its key can go.

        Apart from learning: one that does not answer for long would keep others from hearing, and new promises from being looked at.
        """
        if await self._tell(decision, cohorts) and decision.outcome == COMMITTED:
            with contextlib.suppress(AminoError):  # whoever carried it out looks later whether it went
                await self.context.registry("end_decision", DecideRequest(decision.transaction, decision.revision, ASK))

    async def _tidy(self) -> None:
        """Some time after commits were carried out here, look whether their keys went, as their initiators see to."""
        while True:
            await self._carried_out.wait()
            self._carried_out = Signal()
            await sleep(self._timeout_s * (1.0 + self.context.random.random()))
            if not self.context.answers:
                continue
            try:
                await self._end_what_is_left()
            except Exception as error:  # noqa: BLE001 - whatever it is, it is tried again
                self.context.event("transaction-not-ended", why=error)
                self._carried_out.set(True)

    async def _end_what_is_left(self) -> None:
        listed = await self.context.registry("decisions", DecisionsRequest())
        ours = f"{self.context.microservice}/"
        seen, self._left = self._left, set()
        for decision in listed.decisions:
            if decision.outcome != COMMITTED or not any(each.startswith(ours) for each in decision.cohorts):
                continue
            if decision.transaction in seen:
                await self._tell_all(decision, decision.cohorts)
            self._left.add(decision.transaction)
            self._carried_out.set(True)
