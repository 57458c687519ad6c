"""The deliberate defects: each still changes exactly what it is meant to, and what is left is Python."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import pytest

from amino.errors import Invalid
from amino.testing.chaos.faults.catalogue import parts_of
from amino.testing.simulation.faults import Nemesis
from amino.testing.simulation.workloads import LOADS
from chaos.defects import DEFECTS, Defect, Edit
from chaos.proof import SOURCES, apply
from chaos.scenarios import SCENARIOS
from chaos.staged import SCENES


def _source(edit: Edit) -> Path:
    package, _, rest = edit.file.partition("/")
    return SOURCES[package] / rest


def _copied(defect: Defect, root: Path) -> list[Path]:
    files = [root / one.file for one in defect.edits]
    for file, one in zip(files, defect.edits, strict=True):
        file.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(_source(one), file)
    return files


@pytest.mark.parametrize("name", DEFECTS)
def test_a_defect_applies(name: str, tmp_path: Path) -> None:
    """What a defect changes is there once; the changed file is another, and still compiles."""
    defect = DEFECTS[name]
    files = _copied(defect, tmp_path)
    apply(defect, tmp_path)
    assert files
    for file, one in zip(files, defect.edits, strict=True):
        changed = file.read_text(encoding="utf-8")
        assert changed != _source(one).read_text(encoding="utf-8")
        compile(changed, one.file, "exec")


def test_a_defect_that_lost_its_place_is_an_error(tmp_path: Path) -> None:
    """A defect whose text is not there any more is refused, not skipped."""
    lost = Defect("lost", "", (Edit("amino/errors.py", "no such text", ""),), "chaos", ())
    _copied(lost, tmp_path)
    with pytest.raises(Invalid, match="0 times"):
        apply(lost, tmp_path)


def test_defects_are_run_where_there_is_something_to_run() -> None:
    """Each names a scenario, faults, a load or a scene that exists."""
    for one in DEFECTS.values():
        first, *rest = one.arguments
        if one.module == "chaos":
            assert rest[0] in SCENARIOS
            for flag, kind in itertools.pairwise(rest):
                assert flag != "--fault" or parts_of(kind)
        elif one.module == "chaos.staged":
            assert first in SCENES
        else:
            assert first in LOADS
            chosen = [word for word in rest if word.isidentifier()]
            assert all(hasattr(Nemesis, word) for word in chosen)


def test_what_must_be_caught_is_planted() -> None:
    """The nine defects that must be caught at least."""
    assert DEFECTS.keys() >= {
        "epoch-not-checked",
        "early-acknowledgement",
        "session-never-ends",
        "answers-left-behind",
        "manifest-without-guard",
        "restored-unverified",
        "acknowledged-before-sync",
        "empty-replica-in-sync",
        "inner-chain-bypassed",
    }
