"""Classes that travel by value keep their identity and are never changed by an arrival."""

from __future__ import annotations

import enum
import os
import pickle
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from amino.errors import Invalid
from amino.wire import by_value

SCRIPT = """
import sys, hashlib, pickle
from dataclasses import dataclass
from amino.wire import by_value
{before}
@dataclass
class Item:
    price: int = 1
    def double(self): return {double}
class Basket:
    kinds = {{"a", "b", "c"}}
    def __init__(self): self.items = [Item()]
    def is_item(self, x): return isinstance(x, Item)
sys.stdout.buffer.write(by_value.dumps((Basket, Basket(), Item(5))))
"""


def _from_script(double: str = "2 * self.price", before: str = "", seed: str = "0") -> bytes:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(double=double, before=before)],
        capture_output=True,
        check=True,
        timeout=60,
        env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    return done.stdout


def test_the_defining_process_gets_its_own_class_back_unchanged() -> None:
    """An object that comes back is of the very class that was sent, and no attribute of that class was replaced."""

    class Item:
        total = 0

        def work(self) -> int:
            return Item.total

    by_value.dumps(Item())  # pickling itself caches __slotnames__
    before = dict(vars(Item))
    Item.total = 5
    again = pickle.loads(by_value.dumps(Item()))
    Item.total = 6
    assert type(again) is Item
    assert again.work() == 6
    assert {**vars(Item), "total": 0} == before


def test_runs_of_one_script_agree() -> None:
    """Objects of two runs of an unchanged script, at other lines and hash seeds, are of one class at the receiver."""
    basket_cls, basket, item = pickle.loads(_from_script())
    basket_cls_2, _, item_2 = pickle.loads(_from_script(before="# moved\nx = 1\n", seed="7"))
    assert basket_cls is basket_cls_2
    assert type(item) is type(item_2)
    assert basket.is_item(item_2)
    assert item == item_2


def test_a_changed_class_is_another_class() -> None:
    """A class with another body does not touch what the earlier one does."""
    _, _, item = pickle.loads(_from_script())
    _, _, changed = pickle.loads(_from_script(double="3 * self.price"))
    assert type(item) is not type(changed)
    assert (item.double(), changed.double()) == (10, 15)


def test_arrivals_do_not_reset_a_class() -> None:
    """What a method keeps in a class attribute survives the next arrival of that class."""
    data = _from_script()
    basket_cls, _, _ = pickle.loads(data)
    basket_cls.kinds = {"changed"}
    basket_cls_2, _, _ = pickle.loads(data)
    assert basket_cls_2.kinds == {"changed"}


def test_passing_on_keeps_the_identity() -> None:
    """A receiver that sends an object on sends the class it got, so the third process sees the same one."""
    _, _, item = pickle.loads(_from_script())
    assert type(pickle.loads(by_value.dumps(item))) is type(item)


def test_enums_dataclasses_and_recursion() -> None:
    """Enumerations, frozen dataclasses and classes that refer to each other travel."""

    class Colour(enum.Enum):
        RED = 1

    @dataclass(frozen=True, slots=True)
    class Point:
        x: int
        colour: Colour = Colour.RED

        def other(self) -> Any:
            return Point(self.x + 1)

    again = pickle.loads(by_value.dumps(Point(3).other()))
    assert again == Point(4)
    assert again.colour is Colour.RED


def test_importable_things_stay_references() -> None:
    """What can be imported goes by name, not by value."""
    assert len(by_value.dumps(Path)) < 200
    assert pickle.loads(by_value.dumps([Path, 1])) == [Path, 1]


def test_other_byte_code_is_refused_before_it_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Code of another Python version is refused by a check that runs before any of it is rebuilt."""

    def function() -> int:
        return 1

    with monkeypatch.context() as patch:
        patch.setattr(by_value, "PYTHON", "cpython-27")
        data = by_value.dumps(function)
    with monkeypatch.context() as patch:
        patch.setattr(cloudpickle.cloudpickle, "_make_function", lambda *_: pytest.fail("was rebuilt"))
        with pytest.raises(Invalid, match="cpython-27"):
            pickle.loads(data)
