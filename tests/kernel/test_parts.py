"""What of an object's state goes with its keys."""

from __future__ import annotations

import enum
from collections import defaultdict
from typing import Any

import pytest

from amino.contracts.sharding import place_of
from amino.errors import Invalid
from amino.kernel import parts
from amino.kernel.parts import discard, put_in, take_out


class Names(enum.StrEnum):
    """Keys of a subclass of ``str``."""

    ADA = "ada"


class Store:
    """Keyed state in the forms that are looked into, and state that is not."""

    def __init__(self) -> None:
        self.values: dict[Any, Any] = {}
        self.lists: defaultdict[Any, list[int]] = defaultdict(list)
        self.members: set[Any] = set()
        self.log = ["b"]


class Slotted:
    """Has no attributes that can be listed."""

    __slots__ = ("values",)


class OwnWay:
    """Says itself what goes with which key."""

    def __init__(self) -> None:
        self.rows = [("a", 1), ("b", 2)]

    def __amino_split__(self, owns: Any) -> Any:
        """Take out."""
        gone = [row for row in self.rows if owns(row[0])]
        self.rows = [row for row in self.rows if not owns(row[0])]
        return gone

    def __amino_merge__(self, part: Any) -> None:
        """Put in."""
        self.rows += part


def _owner(key: Any) -> str:
    place_of(key)  # refuses what is no key
    return "1" if key in ("b", Names.ADA, ("b", 1)) else "0"


def test_entries_and_elements_go_with_their_keys() -> None:
    """Dicts and sets are divided, whatever else there is stays; putting a part in twice changes nothing more."""
    old, new = Store(), Store()
    old.values = {"a": 1, "b": 2, Names.ADA: 3, ("b", 1): 4}
    old.lists["b"].append(5)
    old.members = {"a", "b"}
    taken = take_out(old, _owner, "0", ["1"])
    assert (old.values, old.lists, old.members, old.log) == ({"a": 1}, {}, {"a"}, ["b"])
    for part in [*taken["1"], *taken["1"]]:
        put_in(new, part, None)
    assert (new.values, new.lists, new.members) == ({"b": 2, "ada": 3, ("b", 1): 4}, {"b": [5]}, {"b"})
    assert new.lists["c"] == []


def test_what_is_no_key_stays() -> None:
    """A tuple with something in it that has no stable place cannot be anybody's key."""
    store = Store()
    store.values = {"b": 1, ("b", frozenset()): 2}
    take_out(store, _owner, "0", ["1"])
    assert store.values == {("b", frozenset()): 2}


def test_what_cannot_be_encoded_leaves_the_object_as_it_was() -> None:
    """Nothing is taken out unless everything can be."""
    store = Store()
    store.values = {"a": 1, "b": (one for one in ())}
    with pytest.raises(Exception, match="generator"):
        take_out(store, _owner, "0", ["1"])
    assert set(store.values) == {"a", "b"}


def test_large_parts_are_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    """However large the values, a part fits into a frame unless one value alone does not."""
    monkeypatch.setattr(parts, "PART_BYTES_MAX", 1000)
    old, new = Store(), Store()
    old.values = {number: bytes(300) for number in range(8)}
    taken = take_out(old, lambda _: "1", "0", ["1"])
    assert len(taken["1"]) > 2
    for part in taken["1"]:
        put_in(new, part, None)
    assert new.values == {number: bytes(300) for number in range(8)}


def test_an_attribute_that_is_made_later_is_made() -> None:
    """The receiver may not have it yet."""
    old, new = Store(), Store()
    old.values, old.members = {"b": 1}, {"b"}
    del new.values, new.members
    for part in take_out(old, _owner, "0", ["1"])["1"]:
        put_in(new, part, None)
    assert (new.values, new.members) == ({"b": 1}, {"b"})


def test_content_of_keys_can_be_discarded() -> None:
    """From dicts and sets, or by the class's own way."""
    store, own = Store(), OwnWay()
    store.values, store.members = {"a": 1, "b": 2}, {"b"}
    for each in (store, own):
        discard(each, lambda key: key == "b")
    assert (store.values, store.members, own.rows) == ({"a": 1}, set(), [("a", 1)])


def test_a_class_says_what_goes() -> None:
    """By ``__amino_split__`` and ``__amino_merge__``; without them an object without ``__dict__`` is refused."""
    old, new = OwnWay(), OwnWay()
    new.rows = []
    for part in take_out(old, _owner, "0", ["1"])["1"]:
        put_in(new, part, None)
    assert (old.rows, new.rows) == ([("a", 1)], [("b", 2)])
    with pytest.raises(Invalid, match="__amino_split__"):
        take_out(Slotted(), _owner, "0", ["1"])
