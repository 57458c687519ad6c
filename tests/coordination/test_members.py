"""The member of etcd that is asked next, and the look at all of them when one is slow."""

from __future__ import annotations

import asyncio

import pytest

from amino.aio.tasks import TaskOwner
from amino.coordination.etcd import EtcdStore
from amino.coordination.etcd.members import (
    GOOD_S,
    GRACE_S,
    LOOK_S,
    SLOW_S,
    Answer,
    Members,
    elected_in,
    next_turn,
)
from tests.coordination.virtual import run_virtual

THREE = ("a", "b", "c")


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ({}, "b"),  # nobody has looked: in their order
        ({"a": Answer(1, 3), "b": Answer(2, 3), "c": Answer(3, 3)}, "b"),
        ({"b": Answer(2, 0), "c": Answer(3, 0)}, "b"),  # electing
        ({"a": Answer(1, 3), "c": Answer(3, 3)}, "c"),  # b is frozen
        ({"a": Answer(1, 2), "c": Answer(3, 2)}, "c"),  # b leads, and is frozen
        ({"b": Answer(2, 1), "c": Answer(3, 3)}, "c"),  # b has not noticed yet that a is gone
        ({"a": Answer(1, 1)}, "a"),  # alone
        ({"b": Answer(0, 0), "c": Answer(3, 3)}, "c"),  # b answers, but not this
    ],
)
def test_the_next_member(answers, expected):
    """One whose leader lives, else one that lives, else the next in order."""
    assert THREE[next_turn(THREE, 0, answers) % 3] == expected


def test_one_member_is_its_own_next():
    """Whatever it says."""
    assert next_turn(("a",), 4, {}) == 5
    assert next_turn(("a",), 4, {"a": Answer(1, 0)}) == 5


def test_a_look_is_believed_for_a_while():
    """One look at a time; what it saw counts until it is old."""

    async def main(clock):
        asked = []

        async def ask(endpoint):
            asked.append(endpoint)
            await asyncio.sleep(LOOK_S)
            return None if endpoint == "b" else Answer(ord(endpoint), ord("c"))

        tasks = TaskOwner("test")
        members = Members(THREE, ask, clock, tasks)
        assert members.next_turn(0) == 1
        members.look_soon()
        members.look_soon()
        await asyncio.sleep(LOOK_S * 2)
        assert asked == list(THREE)
        assert members.next_turn(0) == 2
        await asyncio.sleep(GOOD_S)
        assert members.next_turn(0) == 1
        await tasks.aclose()
        members.look_soon()
        assert asked == list(THREE)

    run_virtual(main)


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ({}, 0),
        ({"a": Answer(1, 3, 4), "b": Answer(2, 3, 4)}, 0),  # their leader does not answer
        ({"a": Answer(1, 0, 5), "b": Answer(2, 0, 5)}, 0),  # electing
        ({"a": Answer(1, 2, 5), "b": Answer(2, 2, 5)}, 5),
        ({"a": Answer(1, 2, 5), "c": Answer(3, 3, 4), "b": Answer(2, 2, 5)}, 5),  # c has not noticed yet
    ],
)
def test_the_term_of_a_leader(answers, expected):
    """The newest of those in which a leader is seen to live."""
    assert elected_in(answers) == expected


@pytest.mark.parametrize("heard", [4, 0])
def test_a_try_whose_leader_is_replaced_ends(heard):
    """What its member had passed on to the old leader is lost: ended soon after, unless no term was known before."""

    async def main(clock):
        began = clock.monotonic()
        term = 4

        async def ask(endpoint):
            return None if endpoint == "c" else Answer(ord(endpoint), ord("b"), term) if term > 4 else Answer(1, 0, 4)

        tasks = TaskOwner("test")
        members = Members(THREE, ask, clock, tasks)

        async def send():
            async with members.trying(heard):
                await asyncio.sleep(5)

        trying = tasks.spawn(send())
        await asyncio.sleep(1)  # of virtual time, as all of these
        assert not trying.done()
        term = 5
        if heard:
            with pytest.raises(TimeoutError, match="another leader was elected"):
                await trying
            assert clock.monotonic() - began <= 1 + LOOK_S + GRACE_S + 0.01
        else:
            await trying
            assert clock.monotonic() - began == pytest.approx(5)
        await tasks.aclose()

    run_virtual(main)


def test_a_slow_try_of_the_same_leader_is_left_alone():
    """Looking ends nothing as long as the leader stays, and ends when nothing is slow."""

    async def main(clock):
        asked = []

        async def ask(endpoint):
            asked.append(endpoint)
            return Answer(ord(endpoint), ord("b"), 4)

        tasks = TaskOwner("test")
        members = Members(THREE, ask, clock, tasks)
        async with members.trying(4):
            await asyncio.sleep(SLOW_S * 4)
        assert len(asked) > len(THREE)
        await asyncio.sleep(LOOK_S * 2)
        done = len(asked)
        await asyncio.sleep(GOOD_S)
        assert len(asked) == done
        await tasks.aclose()

    run_virtual(main)


async def test_a_closed_store_looks_at_nobody():
    """A look that is under way when the store is closed opens no further connection, which nobody would close."""
    store = await EtcdStore.open(["127.0.0.1:1"])
    await store.aclose()
    before = set(store._open_connections)
    assert await store._status("127.0.0.1:1") is None
    assert set(store._open_connections) == before
