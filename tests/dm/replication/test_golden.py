"""Golden traces: ordinary lives, and the interleavings of the design, each broken when its rule is removed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from amino.dm.replication.view import ALL_RULES
from tests.dm.replication.interleavings import INTERLEAVINGS
from tests.dm.replication.lives import LIVES
from tests.dm.replication.simulation import without

FOLDER = Path(__file__).parent / "golden"


def compare(name: str, title: str, lines: list[str]) -> None:
    """Fail unless the trace equals the one kept; ``AMINO_UPDATE_GOLDEN=1`` keeps it anew."""
    text = "\n".join([f"# {title}", "", *lines]) + "\n"
    path = FOLDER / f"{name}.txt"
    if os.environ.get("AMINO_UPDATE_GOLDEN"):
        FOLDER.mkdir(exist_ok=True)
        path.write_text(text)
    assert text == path.read_text()


@pytest.mark.parametrize("name", LIVES)
def test_life(name):
    """An ordinary life goes exactly as recorded."""
    compare(name, LIVES[name].__doc__, LIVES[name]().lines)


@pytest.mark.parametrize("name", INTERLEAVINGS)
def test_interleaving(name):
    """The interleaving does no harm, and goes exactly as recorded."""
    script, _ = INTERLEAVINGS[name]
    stage, well = script(ALL_RULES)
    compare(name, script.__doc__, stage.lines)
    assert well


@pytest.mark.parametrize("name", INTERLEAVINGS)
def test_interleaving_without_its_rule(name):
    """The same interleaving does harm when its rule is removed, so that the rule is needed and the script shows it."""
    script, rule = INTERLEAVINGS[name]
    _, well = script(without(rule))
    assert not well


def test_every_rule_has_an_interleaving():
    """No rule is there without a script that needs it."""
    assert {rule for _, rule in INTERLEAVINGS.values()} == set(ALL_RULES.__dataclass_fields__)
