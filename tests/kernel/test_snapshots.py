"""Versions of state: what a class declares, and what its pickles carry."""

from __future__ import annotations

import pickle
import sys
import types
from pathlib import Path
from typing import Any, ClassVar

import pytest

from amino.errors import CodeUnavailable, Invalid
from amino.kernel import snapshots
from amino.wire import codec
from amino.wire.versioned import Reducer, check_versions, version_of

MODULE = "a_shop_for_versions"
PLAIN = """
class Cart:
    def __init__(self):
        self.total = 5
"""
FIRST = """
class Cart:
    __amino_version__ = 1
    def __init__(self):
        self.total = 5
"""
SECOND = """
class Cart:
    __amino_version__ = 2
    def __init__(self):
        self.cents = 500
    @classmethod
    def __amino_upgrade__(cls, state, version):
        return {"cents": state.pop("total") * 100, "was": version}
"""
BOTH_WAYS = (
    SECOND
    + """
    @classmethod
    def __amino_downgrade__(cls, state, version):
        return {"total": state["cents"] // 100}
"""
)


@pytest.fixture
def release(monkeypatch):
    """Make a source the present release of the module; returns its class."""

    def become(source: str) -> Any:
        module = types.ModuleType(MODULE)
        exec(source, module.__dict__)  # as importing it does
        monkeypatch.setitem(sys.modules, MODULE, module)
        return module.Cart

    return become


def written(instance: Any) -> bytes:
    """Return a snapshot of ``instance``."""
    return snapshots.write(snapshots.Contents(instance, {"PeriodicCheckpoint@0": 3}, {}, 7))


def read(snapshot: bytes) -> Any:
    """Return the object of a snapshot, read by the present release."""
    contents = snapshots.read(snapshot, "m1", None, None)
    assert contents.components == {"PeriodicCheckpoint@0": 3}
    assert contents.mutations == 7
    return contents.instance


@pytest.mark.parametrize(("old", "version"), [(PLAIN, 0), (FIRST, 1)])
def test_a_later_class_reads_earlier_state(release, old, version):
    """The upgrade gets the attributes and their version, and what it returns becomes the object's."""
    snapshot = written(release(old)())
    release(SECOND)
    assert vars(read(snapshot)) == {"cents": 500, "was": version}


def test_state_of_the_same_version_is_left_alone(release):
    """No upgrade runs between releases that declare one version."""
    snapshot = written(release(SECOND)())
    release(SECOND)
    assert vars(read(snapshot)) == {"cents": 500}


@pytest.mark.parametrize("old", [PLAIN, FIRST])
def test_an_earlier_class_refuses_later_state(release, old):
    """It says both versions, and that it is a matter of the server's code."""
    snapshot = written(release(SECOND)())
    release(old)
    with pytest.raises(
        CodeUnavailable, match=r"state is of version 2 .* the class here (is of version 1|declares none)"
    ):
        read(snapshot)


def test_state_can_be_written_for_the_release_before(release):
    """A class that declares a downgrade writes both forms, and each release reads its own."""
    snapshot = written(release(BOTH_WAYS)())
    release(FIRST)
    assert vars(read(snapshot)) == {"total": 5}
    release(SECOND)
    assert vars(read(snapshot)) == {"cents": 500}


def test_an_undeclared_class_reads_what_its_first_version_wrote_for_it(release):
    """Version 1 can write state for the release that declared nothing yet."""
    snapshot = written(
        release(FIRST + "    @classmethod\n    def __amino_downgrade__(cls, state, version):\n        return state\n")()
    )
    release(PLAIN)
    assert vars(read(snapshot)) == {"total": 5}


def test_a_downgrade_that_raises_leaves_one_form(release, caplog):
    """State is not lost because an earlier release cannot have it; the log says so."""
    cart = release(BOTH_WAYS)()
    cart.cents = None
    snapshot = written(cart)
    assert "__amino_downgrade__ of Cart failed" in caplog.text
    assert read(snapshot).cents is None


def test_an_upgrade_that_raises_is_a_matter_of_code(release):
    """Another release may read it: the server is not eligible, nothing is lost."""
    snapshot = written(release(FIRST)())
    release(SECOND.replace('state.pop("total")', 'state.pop("absent")'))
    with pytest.raises(CodeUnavailable, match=r"could not read state of version 1: KeyError: 'absent'"):
        read(snapshot)


def test_what_undeclared_classes_write_names_no_version(release):
    """Every release of Amino reads it, as it did before there were versions."""
    snapshot = written(release(PLAIN)())
    assert snapshot[:1] == b"\x02"
    assert pickle.loads(snapshot[1:])["format"] == 1
    assert b"versioned" not in snapshot


def test_the_stored_form_does_not_change(release):
    """Checkpoints written by this release name these functions for good; move them and this fails."""
    stored = (
        b"\x80\x05\x95b\x00\x00\x00\x00\x00\x00\x00\x8c\x13a_shop_for_versions\x94\x8c\x04Cart\x94"
        b"\x93\x94)\x81\x94"
        b"\x8c\x14amino.wire.versioned\x94\x8c\rrestore_state\x94\x93\x94h\x03K\x01"
        b"}\x94\x8c\x05total\x94K\x05s\x86\x94\x86R0."
    )
    release(SECOND)
    assert vars(pickle.loads(stored)) == {"cents": 500, "was": 1}


class Line:
    """A part of an object's state with a version of its own, made with ``__slots__``."""

    __slots__ = ("owner", "text")
    __amino_version__ = 1

    def __init__(self, owner: Any, text: str) -> None:
        self.owner = owner
        self.text = text


class Folder:
    """An object whose parts know it."""

    __amino_version__ = 3
    seen: ClassVar[list[int]] = []

    def __init__(self) -> None:
        self.lines = [Line(self, "a")]

    def __getstate__(self) -> tuple[Any, ...]:
        return tuple(self.lines)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.lines = list(state)

    @classmethod
    def __amino_upgrade__(cls, state: Any, version: int) -> Any:
        cls.seen.append(version)
        return state


def test_parts_keep_their_identity_and_versions():
    """A part that points back at the object still does, slots and own state functions included."""
    again = pickle.loads(codec.pack(Folder(), reduce=Reducer().reduce)[1:])
    assert again.lines[0].owner is again
    assert again.lines[0].text == "a"
    assert Folder.seen == []


def test_an_empty_object_can_be_upgraded(release):
    """State without attributes is an empty dict to the upgrade."""
    cart = release("class Cart:\n    __amino_version__ = 1\n")()
    snapshot = written(cart)
    release(SECOND.replace('state.pop("total") * 100', "len(state)"))
    assert vars(read(snapshot)) == {"cents": 0, "was": 1}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("    __amino_version__ = 2\n", "cannot read what earlier versions wrote; give it a classmethod"),
        ("    __amino_version__ = '2'\n", "declare a whole number"),
        ("    __amino_version__ = True\n", "declare a whole number"),
        ("    __amino_version__ = -1\n", "declare a whole number"),
        ("    __amino_downgrade__ = 1\n", "nothing is older than an undeclared version"),
    ],
)
def test_declarations_that_cannot_work_are_refused(release, body, said):
    """The error names the class, the value and the remedy."""
    with pytest.raises(Invalid, match=said):
        check_versions(release(f"class Cart:\n{body}"))


def test_the_example_of_the_documentation_works(release):
    """Its class reads what the first version wrote, and writes what that reads."""
    text = (Path(__file__).parents[2] / "docs" / "state-versions.md").read_text(encoding="utf-8")
    example = text.partition("```python\n")[2].partition("```")[0]
    snapshot = written(release(FIRST)())
    cart = release(example)
    again = read(snapshot)
    assert vars(again) == {"cents": 500}
    back = written(again)
    release(FIRST)
    assert vars(read(back)) == {"total": 5}
    check_versions(cart)


def test_versions_are_read_and_inherited(release):
    """Undeclared is 0; a subclass has its parent's."""
    assert version_of(release(PLAIN)) == 0
    assert version_of(release(FIRST + "class Bigger(Cart): pass\n")) == 1
    check_versions(release(BOTH_WAYS))
