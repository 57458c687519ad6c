"""Places in the streams of shards: tokens, shards that are new, that have left, and that came and went unseen."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amino.contracts.own import NEWEST, OLDEST
from amino.errors import Invalid
from amino.stubs.positions import Positions

PLACES = st.dictionaries(
    st.integers(0, 30).map(str), st.tuples(st.integers(1, 99), st.integers(0, 99)).map(lambda two: f"{two[0]}-{two[1]}")
)


@given(st.integers(0, 40), PLACES)
def test_a_token_tells_every_place(following, at):
    """What is written is read again."""
    found = Positions.parsed(str(Positions(following, at)))
    assert (found.following, found.at) == (following, at)


def test_a_place_before_the_first_answer_is_the_beginning():
    """A shard that was known and not read yet is read from its oldest event when the subscription is resumed."""
    places = Positions()
    places.learn(["0", "1"])
    assert str(places) == "s2;0=;1="
    assert Positions.parsed(str(places)).at == {"0": OLDEST, "1": OLDEST}


def test_the_token_of_an_object_without_shards_is_a_place_in_the_first():
    """It becomes shard 0 with its events when it is sharded."""
    places = Positions.parsed("5-12")
    assert (places.following, places.at) == (1, {"0": "5-12"})
    assert (Positions.parsed(NEWEST).at, Positions.parsed(OLDEST).at) == ({}, {})


def test_shards_that_came_and_went_unseen_are_read_too():
    """Names are numbers in order and never used twice, so those between two known ones were there once."""
    places = Positions(2, {"0": "1-1", "1": "1-2"})
    places.learn(["0", "4"])
    assert places.at == {"0": "1-1", "1": "1-2", "2": OLDEST, "3": OLDEST, "4": OLDEST}
    places.learn(["4"])
    assert places.following == 5


def test_a_shard_that_was_read_to_its_end_is_not_read_again():
    """Not even if a look-up that is behind still names it."""
    places = Positions(3, {"0": "1-1", "2": "1-5"})
    assert places.pass_to("2", "1-9", ended=True) == "s3;0=1-1"
    places.learn(["0", "2"])
    assert places.at == {"0": "1-1"}


def test_newest_begins_with_the_shards_there_are():
    """What left before is done with."""
    places = Positions()
    places.begin_at({"0", "10", "2"}, NEWEST)
    places.skip(["11"])
    assert (places.following, list(places.at)) == (12, ["0", "2", "10"])


@pytest.mark.parametrize("token", ["s", "s1;", "s1;0=1", "sx;0=1-1", "s1;0=1-1;a=1-1"])
def test_what_is_no_token_is_refused(token):
    """The error names it."""
    with pytest.raises(Invalid, match="is no token of an event"):
        Positions.parsed(token)
