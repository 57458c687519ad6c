"""Timers, events and tokens that go along when keys move."""

from __future__ import annotations

from typing import Any

import amino
from amino import limits
from amino.contracts.own import OLDEST
from amino.errors import Invalid
from amino.kernel.own_parts import discard_own, key_of, put_own, take_own
from amino.kernel.tables import Tables
from amino.wire import codec


class Base:
    """Marks a method that its subclass overrides."""

    @amino.key("user")
    def _remind(self, text: str, user: Any) -> None:
        """Private, with a key."""


class Board(Base):
    """Has methods with and without a key."""

    def _remind(self, text: str, user: Any) -> None:
        """As the base class marks it."""

    def tick(self) -> None:
        """Without a key."""


def tables(armed: list[Any] | None = None) -> Tables:
    """Return empty tables that note what they arm."""
    found = armed if armed is not None else []
    return Tables(found.append)


def set_timer(at: Tables, name: str, method: str = "tick", *args: Any, **kwargs: Any) -> str:
    """Set a timer."""
    packed = codec.pack((args, kwargs))
    return at.set_timer(name, method, packed, first_s=50.0, every_s=0.0, missed="coalesce", now_s=40.0)


def emit(at: Tables, count: int, size: int = 1) -> None:
    """Emit events."""
    for _ in range(count):
        at.emit("t", b"x" * size, branch=lambda: 3, kept_max=1000, bytes_max=limits.EVENT_BYTES_KEPT)


def owner(key: Any) -> str:
    """Users in capitals belong to shard 1."""
    if not isinstance(key, str):
        raise Invalid("no key")
    return "1" if key.isupper() else "0"


def names(at: Tables) -> list[str]:
    """Return the names of its timers."""
    return sorted(timer.name for timer in at.all_timers())


def test_the_key_of_a_timer_is_told_by_its_method():
    """By place or by name, inherited marks included; a method without a key has none."""
    at = tables()
    for arguments in ((("hi", "ADA"), {}), (("hi",), {"user": "ADA"})):
        set_timer(at, "one", "_remind", *arguments[0], **arguments[1])
        [timer] = at.all_timers()
        assert key_of(Board, timer, None) == ("ADA",)
    set_timer(at, "one")
    [timer] = at.all_timers()
    assert key_of(Board, timer, None) is None


def test_timers_with_a_key_go_with_it_and_others_stay():
    """While the shard stays; the new owner arms them, under ids of its own."""
    old, armed = tables(), []
    new = tables(armed)
    for name, user in (("a", "ADA"), ("b", "bob"), ("c", 3)):
        set_timer(old, name, "_remind", "hi", user)
    set_timer(old, "d")
    set_timer(new, "z")
    own = take_own(old, Board, owner, "0", ["1"], "", None)
    assert names(old) == ["b", "c", "d"]
    put_own(lambda: new, own["1"])
    assert names(new) == ["a", "z"]
    assert [timer.name for timer in armed] == ["z", "a"]
    assert len({timer.id for timer in new.all_timers()}) == 2


def test_a_shard_that_leaves_gives_everything_to_its_heir():
    """Timers without a key and its events; those it had inherited, too."""
    old, heir, other = tables(), tables(), tables()
    set_timer(old, "tick")
    set_timer(old, "a", "_remind", "hi", "ADA")
    emit(old, 3)
    before = tables()
    emit(before, 2)
    old.inherit(before.bequeathed("4"))
    own = take_own(old, Board, owner, "2", ["0", "1"], "0", None)
    put_own(lambda: heir, own["0"])
    put_own(lambda: other, own["1"])
    assert (names(old), names(heir), names(other)) == ([], ["tick"], ["a"])
    assert {name: outbox.last for name, outbox in heir.former.items()} == {"2": 3, "4": 2}
    assert [event.number for _, event in heir.former["2"].read(OLDEST, "", 10, 1000).events] == [1, 2, 3]
    assert not other.former
    assert old.outbox is not None
    assert Tables.restored(heir.snapshot(), lambda _: None).former["2"].last == 3


def test_the_same_job_is_not_done_twice():
    """A timer that the heir has itself is not doubled; another of that name goes on under a free one."""
    old, heir = tables(), tables()
    for at in (old, heir):
        set_timer(at, "tick")
    set_timer(old, "x", "tick", 1)
    set_timer(heir, "x", "tick", 2)
    put_own(lambda: heir, take_own(old, Board, owner, "2", ["0"], "0", None)["0"])
    assert len(names(heir)) == 3
    assert names(heir)[:2] == ["tick", "x"]
    assert names(heir)[2].startswith("x-")


def test_tokens_are_remembered_on_both_sides():
    """An old holder of a lock is refused wherever the keys have gone."""
    old, new = tables(), tables()
    old.see_tokens({"a": 5, "b": 1})
    new.see_tokens({"a": 3, "b": 2})
    put_own(lambda: new, take_own(old, Board, owner, "0", ["1"], "", None)["1"])
    assert (old.tokens, new.tokens) == ({"a": 5, "b": 1}, {"a": 5, "b": 2})


def test_what_shards_left_behind_is_bounded():
    """The events of those that left first are dropped, and a reader is told so."""
    heir = tables()
    for number in range(1, 7):
        leaving = tables()
        emit(leaving, 4, limits.EVENT_BYTES_KEPT // 4)
        put_own(lambda: heir, take_own(leaving, Board, owner, str(number), ["0"], "0", None)["0"])
    assert sum(outbox.size for outbox in heir.former.values()) <= limits.EVENT_BYTES_INHERITED_MAX
    batch = heir.former["1"].read("3-1", "", 10, 1000)
    assert not batch.events
    assert batch.missed is not None
    assert (batch.missed.why, batch.missed.first, batch.missed.last) == ("dropped", 2, 4)
    assert len(heir.former["6"].read(OLDEST, "", 10, 10**7).events) == 4


def test_timers_that_a_constructor_set_for_keys_that_live_elsewhere_are_discarded():
    """The key brings its own along; and tables that nobody made are not made for nothing."""
    at = tables()
    set_timer(at, "a", "_remind", "hi", "ADA")
    set_timer(at, "b", "_remind", "hi", "bob")
    set_timer(at, "d")
    discard_own(at, Board, lambda key: owner(key) == "1", None)
    assert names(at) == ["b", "d"]
    discard_own(None, Board, lambda key: True, None)
    assert take_own(None, Board, owner, "0", ["1"], "1", None) == {"1": {}}

    def never() -> Tables:
        raise AssertionError("not needed")

    put_own(never, {})
