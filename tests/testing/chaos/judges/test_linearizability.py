"""The judge of linearizability, held to histories that are right, to planted bugs, and to trying every order."""

from __future__ import annotations

import itertools
import random
import time

import msgspec
import pytest

from amino.testing.chaos.judges.linearizability import cut, explained, linearizable
from amino.testing.chaos.judges.models import Cell, Counter
from tests.testing.chaos.histories import Cells, Counters, did, right


@pytest.mark.parametrize("seed", range(20))
def test_right_histories_pass(seed):
    """What one object answered, each call at one moment, is linearizable; unknown outcomes change nothing."""
    counters = Counters()
    assert linearizable(right(seed, Cells()), Cell()).ok
    history = right(seed, counters)
    assert linearizable(history, Counter(counters.log)).ok
    assert linearizable(right(seed, Counters(), workers=3, calls=10), Counter()).ok


def by_brute_force(operations, model):
    """Try every order that fits the times, leaving out any of the unknown ones."""

    def search(state, rest):
        if all(one.outcome != "ok" for one in rest):
            return True
        for one in rest:
            if any(other.outcome == "ok" and other.ended_s < one.began_s for other in rest if other is not one):
                continue
            fits, after = model.step(state, one, True)
            if fits and search(after, [other for other in rest if other is not one]):
                return True
        return False

    return search(model.initial, [one for one in operations if one.outcome != "failed"])


@pytest.mark.parametrize("kind", ["cells", "counters"])
def test_it_says_what_every_order_says(kind):
    """On small histories of which some answer was changed, it agrees with trying all orders; failing parts are real."""
    chance = random.Random(kind)
    wrong = 0
    for seed in range(400):
        thing, model = (Cells(), Cell()) if kind == "cells" else (Counters(), Counter())
        history = right(seed, thing, workers=3, calls=2, keys=1, busy=3.0)
        answered = [one for one in history if one.outcome == "ok" and one.function != "write"]
        if answered and chance.random() < 0.8:
            other = chance.choice(answered)
            other.value = chance.choice(answered).value
        unknown = [one for one in history if one.outcome == "unknown"]
        expected = by_brute_force(history, _Unanswered(model))
        verdict = linearizable(history, model) if answered else None
        if verdict is not None and not verdict.text.startswith("could not"):
            assert verdict.ok == expected, (seed, unknown)
            if not verdict.ok and kind == "cells":
                assert not by_brute_force(verdict.smallest, _Unanswered(model))
        wrong += not expected
    assert wrong > 50


class _Unanswered:
    """The model, with nothing asked of the answers of calls that had none."""

    def __init__(self, model):
        self.initial, self._model = model.initial, model

    def step(self, state, operation, whole):
        if operation.outcome != "ok" and operation.function == "read":
            return True, state
        return self._model.step(state, operation, whole)


def planted(kind):
    """Return a long right history, and the same with one planted bug."""
    thing = Counters() if kind.startswith("counter") else Cells()
    history = right(7, thing, calls=200, keys=3)
    key = "k1"
    if kind == "stale read":
        writes = [one for one in history if one.key == key and one.function == "write" and one.outcome == "ok"]
        reads = [one for one in history if one.key == key and one.function == "read" and one.outcome == "ok"]
        reads[-1].value = writes[2].argument
    elif kind == "lost write":
        reads = [one for one in history if one.key == key and one.function == "read" and one.outcome == "ok"]
        reads[-1].value = None
    elif kind == "refused write seen":
        reads = [one for one in history if one.key == key and one.function == "read" and one.outcome == "ok"]
        refused = next(one for one in history if one.key == key and one.outcome == "failed" and one.argument)
        reads[-1].value = refused.argument
    elif kind == "counter given twice":
        adds = [one for one in history if one.key == key and one.function == "add" and one.outcome == "ok"]
        adds[-1].value = adds[-2].value
    elif kind == "counter gone back":
        reads = [one for one in history if one.key == key and one.function == "read" and one.outcome == "ok"]
        reads[-1].value = 1
    return history, Counter(thing.log) if kind.startswith("counter") else Cell()


@pytest.mark.parametrize(
    ("kind", "size"),
    [
        ("stale read", 3),
        ("lost write", 2),
        ("refused write seen", 2),
        ("counter given twice", 2),
        ("counter gone back", 2),
    ],
)
def test_planted_bugs_are_caught_and_made_small(kind, size):
    """One wrong answer among a thousand operations is found, and shown with the few operations that prove it."""
    history, model = planted(kind)
    verdict = linearizable(history, model)
    assert not verdict.ok
    assert "no order" in verdict.text
    assert len(verdict.smallest) <= size, "\n".join(map(str, verdict.smallest))


def test_a_long_history_is_judged_in_seconds():
    """Minutes of five workers: histories are cut where one call was alone, and each key is judged for itself."""
    began = time.process_time()
    history = right(3, Cells(), calls=4000, keys=5, busy=0.5)
    verdict = linearizable(history, Cell())
    assert verdict.ok
    assert verdict.figures["parts"] > 50
    assert time.process_time() - began < 30


def test_what_takes_too_long_is_no_pass():
    """A search that is given up says so, as a failure."""
    verdict = linearizable(right(1, Cells(), keys=1), Cell(), steps_max=5)
    assert not verdict.ok
    assert verdict.text.startswith("could not judge")


def test_nothing_answered_is_no_pass():
    """A history without one answer proves nothing."""
    refused = did(0, "read", at=(0, 1), outcome="failed")
    assert linearizable([refused], Cell()).text.startswith("could not judge")


def test_a_value_is_written_once():
    """Histories in which two calls write the same value cannot be judged, and are refused."""
    twice = [did(0, "write", "a", at=(0, 1)), did(1, "write", "a", at=(2, 3))]
    with pytest.raises(ValueError, match="twice"):
        linearizable(twice, Cell())


def test_parts_begin_in_the_state_that_the_last_one_told():
    """Cut where a call is alone; judged together or in parts, the answer is the same."""
    history = Cell().settle(right(11, Cells(), calls=300, keys=1, busy=0.05))
    parts = list(cut(history, Cell()))
    assert len(parts) > 3
    assert list(itertools.chain(*(part.operations for part in parts))) == history
    assert all(explained(part.operations, Cell(), part.initial) for part in parts)
    assert explained(history, Cell(), None)


def test_unknown_writes_that_were_seen_happened_before_that():
    """Settling keeps an unknown write that somebody read, ended by that answer, and drops one that nobody did."""
    seen = did(0, "write", "a", at=(0, 9), outcome="unknown")
    unseen = did(1, "write", "b", at=(0, 9), outcome="unknown")
    read = did(2, "read", None, "a", at=(1, 2))
    settled = Cell().settle([seen, unseen, read])
    assert settled == [msgspec.structs.replace(seen, outcome="ok", ended_s=2), read]
