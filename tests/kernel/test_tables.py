"""What Amino keeps in an object's state: fencing tokens, refused when older, in every snapshot and replay."""

from __future__ import annotations

import pytest

import amino
from amino import limits
from amino.aio.mode import drive
from amino.errors import Invalid, StaleToken
from amino.kernel import snapshots
from amino.kernel.object import KernelObject
from amino.kernel.tables import Tables
from amino.wire import codec
from tests.kernel.world import call_of, serving, value_of


class Account:
    """Guarded by a lock."""

    def __init__(self) -> None:
        self.balance = 0

    @amino.inline
    def put(self, amount: int, lock: amino.Fence) -> int:
        amino.fenced(lock)
        self.balance += amount
        return self.balance

    @amino.inline
    @amino.readonly
    def look(self, token: int) -> int:
        amino.check_token("account", token)
        return self.balance


def run(target: KernelObject, method: str, *args: object, sequence: int) -> object:
    return value_of(drive(target.serve(call_of(target, method, *args, sequence=sequence))))


def test_an_older_token_is_refused_and_changes_nothing() -> None:
    """After a later holder was here, an earlier one's write is refused; equal and newer tokens pass; names are apart."""
    target = serving(Account())
    assert run(target, "put", 1, amino.Fence("account", 5), sequence=1) == 1
    assert run(target, "put", 1, amino.Fence("account", 5), sequence=2) == 2
    assert run(target, "put", 1, amino.Fence("account", 9), sequence=3) == 3
    with pytest.raises(StaleToken, match="older than 9") as caught:
        run(target, "put", 1, amino.Fence("account", 5), sequence=4)
    assert caught.value.details == {"lock": "account", "token": 5, "newest": 9}
    assert run(target, "put", 1, amino.Fence("other", 2), sequence=5) == 4


def test_a_reader_is_checked_and_leaves_no_trace() -> None:
    """A readonly method refuses an older token and remembers no newer one."""
    target = serving(Account())
    run(target, "put", 1, amino.Fence("account", 5), sequence=1)
    assert run(target, "look", 8, sequence=2) == 1
    assert run(target, "put", 1, amino.Fence("account", 5), sequence=3) == 2
    with pytest.raises(StaleToken):
        run(target, "look", 4, sequence=4)


def test_tokens_travel_with_the_state() -> None:
    """A snapshot restored elsewhere refuses the same tokens; snapshots without tables, as earlier releases made, restore."""
    first, second = serving(Account()), serving(Account())
    plain = first.snapshot_sealed()
    assert "tables" not in codec.unpack(plain)
    run(first, "put", 1, amino.Fence("account", 5), sequence=1)
    second.restore_sealed(first.snapshot_sealed())
    with pytest.raises(StaleToken):
        run(second, "put", 1, amino.Fence("account", 4), sequence=2)
    second.restore_sealed(plain)  # going back forgets no token
    with pytest.raises(StaleToken):
        run(second, "put", 1, amino.Fence("account", 4), sequence=3)
    third = serving(Account())
    third.restore_sealed(plain)
    assert third.tables is None
    assert snapshots.read(plain, "m1", None, None).tables is None


def test_names_are_bounded_and_tokens_are_numbers() -> None:
    """More lock names than the bound, tokens that are none, and callers outside of methods are refused by name."""
    tables = Tables(lambda timer: None)
    for number in range(limits.TOKENS_PER_OBJECT_MAX):
        tables.check_token(str(number), 1, readonly=False)
    with pytest.raises(Invalid, match="bound"):
        tables.check_token("another", 1, readonly=False)
    tables.check_token("7", 2, readonly=False)
    with pytest.raises(Invalid, match="outside"):
        amino.check_token("account", 1)
    with pytest.raises(Invalid, match=r"lock\.token"):
        run(serving(Account()), "look", True, sequence=1)
    with pytest.raises(Invalid, match="check_token"):
        run(serving(Account()), "put", 1, 7, sequence=1)
