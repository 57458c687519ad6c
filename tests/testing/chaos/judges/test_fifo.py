"""The judge of queues."""

from __future__ import annotations

import random

import pytest

from amino.testing.chaos.judges.fifo import queues
from tests.testing.chaos.histories import did, right


class Queues:
    """A queue, as it should be."""

    def __init__(self):
        self.inside, self.taken = {}, {}

    def ask(self, random, key, token):
        """Return a function, its argument, and what does it."""
        function = random.choice(["put", "take"])

        def do():
            inside = self.inside.setdefault(key, [])
            if function == "put":
                inside.append(token)
                return None
            value = inside.pop(0) if inside else None
            self.taken.setdefault(key, []).append([token, value])
            return value

        return function, token, do

    def closed(self, history, at):
        """Return the history with what the queues say in the end."""
        keys = {one.key for one in history}
        ends = [
            did(9000 + place, "close", None, [self.taken.get(key, []), self.inside.get(key, [])], at=(at, at), key=key)
            for place, key in enumerate(sorted(keys))
        ]
        return [*history, *ends]


@pytest.mark.parametrize("seed", range(20))
def test_right_histories_pass(seed):
    """What one queue answered is fine, whatever the outcomes of calls."""
    thing = Queues()
    verdict = queues(thing.closed(right(seed, thing), 1e6))
    assert verdict.ok, verdict


def one_by_one(history):
    """Try every order: the truth on small histories, in which everything was answered."""

    def search(state, rest):
        if not rest:
            return True
        for one in rest:
            if any(other.ended_s < one.began_s for other in rest if other is not one):
                continue
            left = [other for other in rest if other is not one]
            if one.function == "put" and search((*state, one.argument), left):
                return True
            if one.function == "take" and one.value == (state[0] if state else None) and search(state[1:], left):
                return True
            if one.function == "close" and one.value[1] == list(state) and search(state, left):
                return True
        return False

    return search((), history)


def test_it_says_what_every_order_says():
    """On small histories of which two answers were exchanged, it agrees with trying all orders."""
    chance = random.Random(5)
    wrong = 0
    for seed in range(600):
        thing = Queues()
        made = right(seed, thing, workers=3, calls=3, keys=1, busy=3.0)
        if any(one.outcome != "ok" for one in made):
            continue
        history = thing.closed(made, 1e6)
        takes = [one for one in made if one.function == "take"]
        if len(takes) > 1:
            one, other = chance.sample(takes, 2)
            one.value, other.value = other.value, one.value
        close = history[-1]
        close.value = [[[one.argument, one.value] for one in takes], close.value[1]]
        if not any(one.value for one in takes):
            continue
        expected = one_by_one(history)
        assert queues(history).ok == expected, (seed, queues(history))
        wrong += not expected
    assert wrong > 30


def close(taken=(), left=()):
    """What the queue says in the end."""
    return did(99, "close", None, [[list(one) for one in taken], list(left)], at=(50, 51))


@pytest.mark.parametrize(
    ("text", "history"),
    [
        (
            "taken twice",
            [did(0, "put", "a", at=(0, 1)), *(did(n, "take", f"t{n}", "a", at=(2, 3)) for n in (1, 2)), close()],
        ),
        ("nobody put", [did(1, "take", "t", "a", at=(2, 3)), close([["t", "a"]])]),
        ("not put", [did(0, "put", "a", at=(0, 1), outcome="failed"), did(1, "take", "t", "a", at=(2, 3)), close()]),
        ("before it was put", [did(1, "take", "t", "a", at=(2, 3)), did(0, "put", "a", at=(4, 5)), close()]),
        ("neither taken nor left", [did(0, "put", "a", at=(0, 1)), close()]),
        ("still there", [did(0, "put", "a", at=(0, 1)), did(1, "take", "t", "a", at=(2, 3)), close(left=["a"])]),
        (
            "not done",
            [did(0, "put", "a", at=(0, 1)), did(1, "take", "t", at=(2, 3), outcome="failed"), close([["t", "a"]])],
        ),
        (
            "b was taken before a",
            [
                did(0, "put", "a", at=(0, 1)),
                did(1, "put", "b", at=(2, 3)),
                did(2, "take", "t", "b", at=(4, 5)),
                did(3, "take", "u", "a", at=(6, 7)),
                close(),
            ],
        ),
        ("stands before a", [did(0, "put", "a", at=(0, 1)), did(1, "put", "b", at=(2, 3)), close(left=["b", "a"])]),
        (
            "something was in it",
            [
                did(0, "put", "a", at=(0, 1)),
                did(1, "put", "b", at=(2, 3)),
                did(2, "take", "t", None, at=(4, 9)),
                did(3, "take", "u", "a", at=(5, 6)),
                did(4, "take", "v", "b", at=(20, 21)),
                close(),
            ],
        ),
    ],
)
def test_planted_bugs_are_caught(text, history):
    """Each way of being wrong has its words, and shows the operations."""
    good = [did(50, "put", "z", at=(-4, -3)), did(51, "take", "y", "z", at=(-2, -1))]
    verdict = queues([*history, *good])
    assert not verdict.ok
    assert text in verdict.text
    assert len(verdict.smallest) <= 4


def test_what_was_not_read_is_no_pass():
    """A queue that nobody closed, and one from which nothing was taken, prove nothing."""
    assert queues([did(0, "put", "a", at=(0, 1))]).text.startswith("could not judge")
    assert queues([did(0, "put", "a", at=(0, 1)), close(left=["a"])]).text.startswith("could not judge")


def test_a_take_that_nobody_heard_of_again_may_be_late():
    """A take whose caller gave up may have taken what was put afterwards."""
    late = [did(0, "take", "t", at=(0, 1), outcome="unknown"), did(1, "put", "a", at=(2, 3)), close([["t", "a"]])]
    assert queues(late).ok
