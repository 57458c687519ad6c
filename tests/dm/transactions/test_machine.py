"""The pure machines of two-phase commit, and golden traces of the interleavings that matter."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

import amino.oms.decisions as decisions_module
from amino.aio.clock import RealClock
from amino.contracts.decisions import ABORT, ASK, COMMIT, BeginDecisionRequest, DecideRequest, DecisionsRequest
from amino.contracts.documents import ClusterDocument
from amino.coordination.keys import Keys
from amino.coordination.memory import MemoryStore
from amino.coordination.memory_etcd import MemoryEtcd
from amino.dm.transactions import machine
from amino.dm.transactions.machine import NO, UNKNOWN, YES, Cohort, Coordinator, Prepared
from amino.errors import Invalid

GOLDEN = Path(__file__).parent / "golden"


class Wall:
    """A clock."""

    def wall(self) -> float:
        """The time."""
        return 1.0


class Decisions(decisions_module.DecisionOperations):
    """The registry's part, on a store in memory."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self._keys = Keys("test")
        self._clock = Wall()
        self._directory = SimpleNamespace(cluster=ClusterDocument())


class Account:
    """A cohort: what it holds and what it has done."""

    def __init__(self) -> None:
        self.cohort = Cohort()
        self.done: list[str] = []

    def prepare(self, revision: int) -> str:
        """Promise."""
        return YES if self.cohort.prepare(Prepared("t", revision, ["a", "b"], "", b"")) else NO

    def tell(self, *, commit: bool) -> str:
        """Carry the outcome out, once."""
        if self.cohort.settle("t") is not None:
            self.done.append("committed" if commit else "aborted")
            self.cohort.settled("t")
        return YES


class Trace:
    """Runs one transaction over cohorts a and b, step by step, and writes down what happens."""

    def __init__(self) -> None:
        self.decisions = Decisions(_store())
        self.accounts = {"a": Account(), "b": Account()}
        self.coordinator = Coordinator(("a", "b"))
        self.revision = 0
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        """Write down."""
        self.lines.append(text)

    async def step(self, *, lost: bool = False) -> bool:
        """Let the initiator do one thing; ``lost``: its answer never comes. Returns whether there was one."""
        due = self.coordinator.due()
        if not due:
            return False
        effect = due[0]
        answer = await self._carry_out(effect)
        self.note(f"initiator: {effect} -> {'(lost) ' if lost else ''}{answer}")
        self.coordinator.done(UNKNOWN if lost else answer, "lost" if lost else "", "")
        return True

    async def run(self) -> None:
        """Let it do all it has to."""
        while await self.step():
            pass
        self.note(f"initiator: {self.coordinator.outcome}")

    async def _carry_out(self, effect: machine.Effect) -> str:
        match effect:
            case machine.Begin():
                begun = await self.decisions.begin_decision(BeginDecisionRequest("t", ("a/", "b/")))
                self.revision = begun.revision
            case machine.Prepare(cohort):
                return self.accounts[cohort].prepare(self.revision)
            case machine.Decide(commit):
                wish = COMMIT if commit else ABORT
                told = await self.decisions.decide(DecideRequest("t", self.revision, wish))
                return YES if told.outcome == "committed" else NO
            case machine.Tell(cohort, commit):
                return self.accounts[cohort].tell(commit=commit)
            case machine.End():
                await self.decisions.end_decision(DecideRequest("t", self.revision))
        return YES

    async def ask(self, cohort: str) -> None:
        """Have an overdue cohort learn the outcome, and tell everybody."""
        promise = self.accounts[cohort].cohort.prepared
        assert promise is not None
        told = await self.decisions.decide(DecideRequest("t", promise.revision, ABORT))
        self.note(f"{cohort}: hears nothing, has it aborted unless decided -> {told.outcome}")
        for name, account in self.accounts.items():
            account.tell(commit=told.outcome == "committed")
            self.note(f"{cohort} tells {name}: {told.outcome}")
        if told.outcome == "committed":
            await self.decisions.end_decision(DecideRequest("t", promise.revision))
            self.note(f"{cohort}: removes the decision")

    async def check(self, golden: str) -> None:
        """Compare with the golden trace; all cohorts have done the same, and the initiator says that."""
        for name, account in self.accounts.items():
            self.note(f"{name}: {', '.join(account.done) or 'nothing'}")
        left = (await self.decisions.decisions(DecisionsRequest())).decisions
        self.note(f"decisions left: {', '.join(each.outcome for each in left) or 'none'}")
        outcomes = {each for account in self.accounts.values() for each in account.done}
        assert len(outcomes) <= 1, f"cohorts did not do the same: {outcomes}"
        if self.coordinator.outcome in ("committed", "aborted") and outcomes:
            assert outcomes == {self.coordinator.outcome}, f"the initiator says {self.coordinator.outcome}: {outcomes}"
        text = "\n".join(self.lines) + "\n"
        path = GOLDEN / f"{golden}.txt"
        assert path.read_text() == text


def _store() -> MemoryStore:
    clock = RealClock()
    return MemoryStore(MemoryEtcd(clock), clock=clock)


async def test_commit():
    """Begin, prepare all, decide, tell all, remove."""
    trace = Trace()
    await trace.run()
    await trace.check("commit")


async def test_a_lost_vote_aborts():
    """Whoever did prepare is told."""
    trace = Trace()
    await trace.step()
    await trace.step()
    await trace.step(lost=True)
    await trace.run()
    await trace.check("lost_vote")


async def test_a_lost_answer_to_the_wish_is_in_doubt():
    """The initiator does not know; cohorts learn that it is committed."""
    trace = Trace()
    for _ in range(3):
        await trace.step()
    await trace.step(lost=True)
    await trace.run()
    await trace.ask("b")
    await trace.check("lost_wish")


async def test_an_initiator_that_died_before_its_wish():
    """A cohort has it aborted, and tells the other."""
    trace = Trace()
    for _ in range(3):
        await trace.step()
    trace.note("initiator: dies")
    await trace.ask("a")
    await trace.check("died_before_wish")


async def test_an_initiator_that_died_after_its_wish():
    """A cohort learns of the commit, tells the other, and removes the key."""
    trace = Trace()
    for _ in range(5):
        await trace.step()
    trace.note("initiator: dies")
    await trace.ask("b")
    await trace.check("died_after_wish")


async def thawed() -> Trace:
    """An initiator freezes with all promises in hand, and is thawed after recovery aborted."""
    trace = Trace()
    for _ in range(3):
        await trace.step()
    trace.note("initiator: frozen")
    await trace.ask("a")
    trace.note("initiator: thawed")
    await trace.run()
    return trace


async def test_an_initiator_thawed_after_recovery_aborted():
    """Its wish to commit compares the key's creation, and changes nothing."""
    await (await thawed()).check("thawed_after_abort")


async def test_without_its_rule_the_thawed_initiator_would_commit(monkeypatch):
    """The same trace with a wish that compares nothing: somebody says committed who is alone with it."""
    monkeypatch.setattr(decisions_module, "unchanged", lambda key, revision: decisions_module.absent("never written"))

    class Bare(Decisions):
        async def decide(self, request):
            if request.wish != COMMIT:
                return await super().decide(request)
            await self.begin_decision(BeginDecisionRequest("t"))  # what a put without a compare does
            return await super().decide(request)

    monkeypatch.setattr(f"{__name__}.Decisions", Bare)
    trace = await thawed()
    with pytest.raises(AssertionError, match="the initiator says committed"):
        await trace.check("thawed_after_abort")


def test_readers_are_validated_after_writers_are_prepared():
    """Else two transactions could each read what the other writes."""
    coordinator = Coordinator(("w",), ("r",), resource=True)
    steps = []
    while due := coordinator.due():
        steps.append(type(due[0]).__name__)
        coordinator.done(YES)
    assert steps == ["Begin", "Prepare", "Validate", "CommitResource", "Decide", "Tell", "End"]


def test_readers_alone_need_no_decision():
    """They are validated, nothing else."""
    coordinator = Coordinator((), ("r", "s"))
    coordinator.done(YES)
    assert coordinator.outcome == ""
    coordinator.done(YES)
    assert (coordinator.outcome, coordinator.due()) == ("committed", [])
    outrun = Coordinator((), ("r", "s"))
    outrun.done(NO, "conflict", "x")
    assert outrun.outcome == "aborted"
    assert outrun.why == ("conflict", "x")


def test_a_veto_of_the_resource_aborts_and_its_silence_is_in_doubt():
    """Only the database knows."""
    for answer, outcome, then in ((NO, "", [machine.Decide(commit=False)]), (UNKNOWN, "in doubt", [])):
        coordinator = Coordinator(("w",), resource=True)
        coordinator.done(YES)
        coordinator.done(YES)
        assert coordinator.due() == [machine.CommitResource()]
        coordinator.done(answer, "veto", "x")
        assert (coordinator.outcome, coordinator.due()) == (outcome, then)


def test_writers_are_prepared_in_one_order_and_told_at_once():
    """Of two transactions that meet, the first that both want lets one pass; who is told waits for nobody else."""
    coordinator = Coordinator(("b", "a", "c"), ("r",))
    steps = []
    while due := coordinator.due():
        steps.append(due)
        for _ in due:
            coordinator.done(YES)
    assert steps[1:4] == [[machine.Prepare(each)] for each in "abc"]
    assert steps[-2:] == [[machine.Tell(each, commit=True) for each in "abc"], [machine.End()]]
    refused = Coordinator(("b", "a"), ("r",))
    for answer in (YES, NO, NO):
        refused.done(answer)
    assert refused.due() == [machine.Tell("a", commit=False), machine.Drop("b"), machine.Drop("r")]


def test_a_cohort_that_could_not_be_told_keeps_the_key_alive():
    """It learns by itself and removes it."""
    coordinator = Coordinator(("a", "b"))
    for answer in (YES, YES, YES, YES, UNKNOWN, YES):
        coordinator.done(answer)
    assert (coordinator.outcome, coordinator.due()) == ("committed", [])


def test_a_cohort_makes_one_promise_and_is_overdue_after_its_time():
    """Counted from when it was first looked at."""
    cohort = Cohort()
    assert cohort.overdue(0.0, 1.0) is None
    assert cohort.prepare(Prepared("t", 1, [], "", b""))
    assert cohort.prepare(Prepared("t", 1, [], "", b""))
    assert not cohort.prepare(Prepared("u", 2, [], "", b""))
    assert cohort.overdue(5.0, 1.0) is None
    assert cohort.overdue(6.0, 1.0) is cohort.prepared
    assert cohort.settle("u") is None
    cohort.settled("t")
    assert cohort.prepared is None


async def test_decisions_are_listed_and_asked_for():
    """By resource; asking changes nothing; what there is no key for is aborted; a bad wish is refused."""
    decisions = Decisions(_store())
    begun = await decisions.begin_decision(BeginDecisionRequest("t", ("a/",), "bank"))
    assert await decisions.begin_decision(BeginDecisionRequest("t", ("a/",), "bank")) == begun
    assert (await decisions.decide(DecideRequest("t", begun.revision, ASK))).outcome == "pending"
    assert (await decisions.decisions(DecisionsRequest("bank"))).decisions == (begun,)
    assert (await decisions.decisions(DecisionsRequest())).decisions == ()
    assert (await decisions.decide(DecideRequest("u", 7, ASK))).outcome == "aborted"
    assert (await decisions.decide(DecideRequest("u", 7, COMMIT))).outcome == "aborted"
    await decisions.end_decision(DecideRequest("t", begun.revision))
    assert (await decisions.decide(DecideRequest("t", begun.revision, COMMIT))).outcome == "committed"
    assert (await decisions.decide(DecideRequest("t", begun.revision, ABORT))).outcome == "committed"
    with pytest.raises(Invalid, match="wish is 'maybe'"):
        await decisions.decide(DecideRequest("t", begun.revision, "maybe"))
    with pytest.raises(Invalid, match="the bound is 64"):
        await decisions.begin_decision(BeginDecisionRequest("v", tuple(map(str, range(65)))))
