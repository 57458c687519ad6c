"""Which keys a shard owns, through changes of shards."""

from __future__ import annotations

import random

import pytest

from amino.contracts.sharding import Ring, place_of
from amino.dm.sharding.ownership import Ownership, Verdict
from amino.errors import Invalid

AMINO = 0x546B1CF193AF9CD4
"""Where the key "amino" falls; were it to change, every sharded object would lose its keys at an upgrade."""
KEYS = [f"key-{number}" for number in range(3_000)]


def _names(count: int) -> tuple[str, ...]:
    return tuple(map(str, range(count)))


def _owners(shards: dict[str, Ownership], key: str) -> list[str]:
    return [name for name, shard in shards.items() if shard.judge(key)[0] is Verdict.MINE]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
def test_a_new_shard_takes_its_share_from_all_and_nothing_else_moves(count: int) -> None:
    """From n to n + 1 at most 1/(n + 1) and a tenth of the keys move, all to the new one; the way back moves the same."""
    before, after = Ring(_names(count)), Ring(_names(count + 1))
    keys = [f"key-{number}" for number in range(20_000)]
    moved = [key for key in keys if before.owner(key) != after.owner(key)]
    assert {after.owner(key) for key in moved} == {str(count)}
    assert len(moved) / len(keys) <= 1 / (count + 1) + 0.1


def test_places_do_not_depend_on_the_process() -> None:
    """Keys that are equal in a dict have one place; every kind of key keeps the place it has always had."""
    assert place_of(1) == place_of(True) == place_of(1.0)
    assert place_of("1") != place_of(1) != place_of(b"1")
    assert place_of(("a", 1)) != place_of(("a1",)) != place_of("a1")
    assert place_of("amino") == AMINO
    with pytest.raises(Invalid, match="has no stable place"):
        place_of(frozenset())


@pytest.mark.parametrize("seed", range(30))
def test_at_most_one_shard_owns_a_key_at_any_moment_of_a_change(seed: int) -> None:
    """Whatever the order and repetition of messages, no key has two owners, and in the end each has the right one."""
    dice = random.Random(seed)
    before = _names(dice.randint(1, 4))
    after = (*before, str(len(before))) if dice.random() < 0.5 or len(before) == 1 else before[:-1]
    shards = {name: Ownership(name, 16) for name in {*before, *after}}
    steps = [("begin", name, "") for name in shards]
    dice.shuffle(steps)
    sources = list(before)
    dice.shuffle(sources)
    for source in sources:
        steps.append(("hand_over", source, ""))
        probe = Ownership(source, 16, before, after, 2)
        steps += [("take", target, source) for target in probe.targets()]
    done: list[tuple[str, str, str]] = []
    keys = dice.sample(KEYS, 200)
    for step in steps:
        repeated = [dice.choice(done)] if done and dice.random() < 0.5 else []
        for what, name, source in [*repeated, step, step]:
            shard = shards[name]
            if what == "begin":
                shard.begin(before, after, 2)
            elif what == "hand_over":
                shard.handed = True
            else:
                if shard.is_next(source, 0):
                    shard.took(source, 0, 1)
            begun = [one for one in shards.values() if one.version]
            if len(begun) == len(shards):
                assert all(len(_owners(shards, key)) <= 1 for key in keys)
        done.append(step)
    ring = Ring(after, 16)
    assert all(_owners(shards, key) == [ring.owner(key)] for key in keys)


def test_a_key_that_left_is_said_to_be_elsewhere_and_one_not_yet_there_on_its_way() -> None:
    """Who handed over names the new owner; who has not yet taken asks for patience."""
    before, after = _names(2), _names(3)
    old, new = Ownership("0", 64), Ownership("2", 64)
    key = next(key for key in KEYS if Ring(before).owner(key) == "0" and Ring(after).owner(key) == "2")
    for shard in (old, new):
        shard.begin(before, after, 2)
    assert old.judge(key) == (Verdict.MINE, "0")
    assert new.judge(key) == (Verdict.ON_ITS_WAY, "0")
    old.handed = True
    assert old.judge(key) == (Verdict.ELSEWHERE, "2")
    assert new.is_next("0", 0)
    new.took("0", 0, 2)
    assert not new.is_next("0", 0)
    assert new.judge(key)[0] is Verdict.ON_ITS_WAY
    assert new.is_next("0", 1)
    new.took("0", 1, 2)
    assert new.judge(key) == (Verdict.MINE, "2")


def test_an_older_change_is_not_begun_again() -> None:
    """A message of a change that is over changes nothing."""
    shard = Ownership("0", 64)
    assert shard.begin(_names(1), _names(2), 2)
    assert shard.begin(_names(2), _names(3), 3)
    shard.handed = True
    assert not shard.begin(_names(1), _names(2), 2)
    assert shard.handed
    assert (shard.before, shard.after, shard.version) == (_names(2), _names(3), 3)


def test_a_shard_that_has_no_part_in_a_keys_move_names_the_one_that_had_it() -> None:
    """Seed 116 of dht-replicated: it named the heir, which had not heard of the change, took the key for its own, and lost a call."""
    before, after = ("0", "2"), ("0", "2", "3")
    key = next(key for key in KEYS if Ring(before).owner(key) == "2" and Ring(after).owner(key) == "3")
    third, heir = Ownership("0", 64), Ownership("3", 64)
    third.begin(before, after, 4)
    assert heir.judge(key) == (Verdict.MINE, "3")
    assert third.judge(key) == (Verdict.ELSEWHERE, "2")
