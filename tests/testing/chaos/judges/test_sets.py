"""The judge of growing sets."""

from __future__ import annotations

import itertools
import random

import pytest

from amino.testing.chaos.judges.sets import growing_sets
from tests.testing.chaos.histories import did, right


class Sets:
    """Sets by key, as they should be."""

    def __init__(self):
        self.sets = {}

    def ask(self, random, key, token):
        """Return a function, its argument, and what does it."""
        function = random.choice(["add", "add", "all"])

        def do():
            elements = self.sets.setdefault(key, [])
            if function == "add":
                elements.append(token)
                return True
            return list(elements)

        return function, token if function == "add" else None, do


@pytest.mark.parametrize("seed", range(20))
def test_right_histories_pass(seed):
    """What one set answered is fine, whatever the outcomes of additions."""
    assert growing_sets(right(seed, Sets())).ok


def one_by_one(operations):
    """Try every order: the truth on small histories."""

    def search(state, rest):
        if all(one.outcome != "ok" for one in rest):
            return True
        for one in rest:
            if any(other.outcome == "ok" and other.ended_s < one.began_s for other in rest if other is not one):
                continue
            left = [other for other in rest if other is not one]
            if one.function == "add" and search(state | {one.argument}, left):
                return True
            if one.function == "all" and set(one.value or ()) == state and search(state, left):
                return True
        return False

    return search(
        frozenset(), [one for one in operations if one.outcome == "ok" or (one.argument and one.outcome != "failed")]
    )


def test_it_says_what_every_order_says():
    """On small histories whose reads were changed, it agrees with trying all orders."""
    chance = random.Random(3)
    wrong = 0
    for seed in range(400):
        history = right(seed, Sets(), workers=3, calls=3, keys=1, busy=3.0)
        reads = [one for one in history if one.function == "all" and one.outcome == "ok"]
        adds = [one.argument for one in history if one.function == "add"]
        if not reads or not adds:
            continue
        other = chance.choice(reads)
        other.value = sorted(set(other.value) ^ {chance.choice(adds)}) if chance.random() < 0.7 else other.value
        expected = one_by_one(history)
        assert growing_sets(history).ok == expected, seed
        wrong += not expected
    assert wrong > 50


@pytest.mark.parametrize(
    ("text", "history"),
    [
        ("not there", [did(0, "add", "a", True, at=(0, 1)), did(1, "all", None, [], at=(2, 3))]),
        ("nobody added", [did(0, "all", None, ["a"], at=(2, 3))]),
        ("not added", [did(0, "add", "a", at=(0, 1), outcome="failed"), did(1, "all", None, ["a"], at=(2, 3))]),
        ("before it was added", [did(0, "all", None, ["a"], at=(0, 1)), did(1, "add", "a", True, at=(2, 3))]),
        ("twice", [did(0, "add", "a", True, at=(0, 1)), did(1, "all", None, ["a", "a"], at=(2, 3))]),
        (
            "disagree",
            [
                *(did(number, "add", "ab"[number], True, at=(0, 9)) for number in range(2)),
                *(did(2 + number, "all", None, ["ab"[number]], at=(1, 2)) for number in range(2)),
            ],
        ),
        (
            "less than an earlier",
            [
                did(0, "add", "a", True, at=(0, 9)),
                did(1, "all", None, ["a"], at=(1, 2)),
                did(2, "all", None, [], at=(3, 4)),
            ],
        ),
        (
            "is there without a",
            [
                did(0, "add", "a", True, at=(0, 1)),
                did(1, "add", "b", True, at=(2, 9)),
                did(2, "all", None, ["b"], at=(0.5, 8)),
            ],
        ),
    ],
)
def test_planted_bugs_are_caught(text, history):
    """Each way of being wrong has its words, and the operations that show it, among others that are right."""
    around = [did(100 + number, "add", f"x{number}", True, at=(0, 20), outcome="unknown") for number in range(20)]
    for order in itertools.islice(itertools.permutations([*history, *around]), 5):
        verdict = growing_sets(order)
        assert not verdict.ok
        assert text in verdict.text
        assert 1 <= len(verdict.smallest) <= 3


def test_without_a_read_nothing_is_proved():
    """Additions alone are no pass."""
    assert growing_sets([did(0, "add", "a", True, at=(0, 1))]).text.startswith("could not judge")
