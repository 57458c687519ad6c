"""The one module of names is complete, and the documentation repeats it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import amino
from amino.telemetry import names

ROOT = Path(__file__).parents[2]
PACKAGE = Path(amino.__file__).parent
PLAIN = {"SCOPE", "OK", "FAILED"}


def constants():
    return {key: value for key, value in vars(names).items() if key.isupper() and isinstance(value, str)}


def test_every_name_is_a_span_a_metric_an_attribute_or_a_value():
    """No constant is forgotten in the sets that the rest relies on."""
    known = (
        names.SPANS | names.METRICS.keys() | names.ATTRIBUTES.keys() | names.CONVENTIONS.keys() | set(names.LOG_KEYS)
    )
    for key, value in constants().items():
        assert value in known or key in PLAIN or key.startswith(("OUTCOME_", "SIDE_", "QUEUE_")), key


@pytest.mark.parametrize("kind", ["SPANS", "METRICS", "ATTRIBUTES"])
def test_names_are_shaped_alike(kind):
    """Names are lower case, dotted, and ours."""
    for name in getattr(names, kind):
        assert re.fullmatch(r"amino(\.[a-z_]+)+", name), name


def test_documentation_lists_every_name():
    """``docs/telemetry.md`` names every span, attribute and log key."""
    text = (ROOT / "docs" / "telemetry.md").read_text()
    everything = [*names.SPANS, *names.ATTRIBUTES, *names.CONVENTIONS, *names.LOG_KEYS]
    assert [name for name in everything if f"`{name}`" not in text] == []


def test_metrics_have_known_attributes():
    """A series is told apart by attributes that have a meaning."""
    for name, about in names.METRICS.items():
        assert set(about.attributes) <= names.ATTRIBUTES.keys(), name


def test_no_name_is_left_over():
    """Each name is used by some module; one that nobody emits would be a promise in the documentation."""
    sources = "".join(path.read_text() for path in PACKAGE.rglob("*.py") if path.name != "names.py")
    unused = [key for key in constants() if not re.search(rf"\b(names|shown)\.{key}\b", sources)]
    assert unused == []


def test_no_other_module_spells_a_span_or_metric():
    """Other modules take names from ``names``: a string literal of one is found."""
    spelled = re.compile(
        "|".join(f'"{re.escape(name)}"' for name in [*names.SPANS, *names.METRICS] if name.count(".") > 1)
    )
    guilty = [
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if path.name != "names.py" and spelled.search(path.read_text())
    ]
    assert guilty == []
