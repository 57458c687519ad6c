"""The fixture ``history``: recording threads, and failing with what judges saw."""

from __future__ import annotations

import threading

import pytest

from amino.errors import NotExecuted
from amino.testing.chaos.history import History
from amino.testing.chaos.judges.linearizability import linearizable
from amino.testing.chaos.judges.models import Counter
from amino.testing.chaos.judges.once import exactly_once
from amino.testing.chaos.record import Verdict
from amino.testing.chaos.recording import TestHistory


class Full(Exception):
    """Nothing more fits in."""


class Counting:
    """A counter with a lock, or without one that matters."""

    def __init__(self):
        self.log = []
        self.lock = threading.Lock()

    def add(self, token):
        """Count, refuse, or fail."""
        with self.lock:
            if token.endswith("7"):
                raise Full
            if token.endswith("8"):
                raise NotExecuted("moving")
            self.log.append(token)
            return len(self.log)


def test_threads_are_recorded_and_judged(tmp_path):
    """Five workers in threads; answers, refusals and errors of Amino have their outcomes, and the judges are content."""
    history, counting, enough = TestHistory(tmp_path), Counting(), threading.Event()

    def step(worker, random):
        token = f"w{worker}.{len(history.operations)}.{random.random()}"
        history.ask(worker, "add", "", token, lambda: counting.add(token), refused_by=(Full,))
        if len(history.operations) > 300:
            enough.set()

    with history.workers(step, pause_s=0.0):
        assert enough.wait(30)
    outcomes = {one.outcome for one in history.operations}
    assert outcomes == {"ok", "failed"}
    assert len({one.index for one in history.operations}) == len(history.operations)
    history.check(
        exactly_once(history.operations, {"": counting.log}),
        linearizable(history.operations, Counter({"": counting.log})),
    )


def test_what_a_step_raises_ends_the_block(tmp_path):
    """An error that nobody expected is recorded as unknown, and raised where the block ends."""
    history, raised = TestHistory(tmp_path), threading.Event()

    def step(worker, random):
        raised.set()
        history.ask(worker, "add", "", "x", lambda: 1 // 0)

    def block():
        with history.workers(step, count=1):
            assert raised.wait(30)

    with pytest.raises(ExceptionGroup, match="steps of workers"):
        block()
    assert history.operations[0].outcome == "unknown"


def test_a_bad_verdict_fails_with_its_history(tmp_path):
    """The error shows the smallest failing history and where the whole one is."""
    history = TestHistory(tmp_path)
    history.ask(0, "add", "", "a", lambda: 1)
    verdict = exactly_once(history.operations, {"": []})
    with pytest.raises(AssertionError, match="acknowledged and lost") as caught:
        history.check(Verdict("other", True), verdict)
    assert "worker 0: add('a') -> 1" in str(caught.value)
    assert History.load(tmp_path / "history.jsonl").operations == list(history.operations)


def test_the_plugin_has_the_fixture(pytestconfig, request):
    """Every project that has Amino installed has ``history``."""
    assert pytestconfig.pluginmanager.get_plugin("amino") is not None or pytestconfig.pluginmanager.has_plugin(
        "amino.testing.plugin"
    )
    assert isinstance(request.getfixturevalue("history"), TestHistory)
