"""Fixtures that every test can use, and the strictness that holds for all.

Owns the list of plugins. Leaves leak detection to ``tests/strictness.py``, etcd to ``tests/etcd_fixtures.py``, clusters
to the test kit's own plugin. The seed of the random order is printed (repeat a run with ``--randomly-seed=N``).
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from hypothesis import settings

# How long an example takes depends on what else the machine does: speed is measured in bench/, never judged by a test.
settings.register_profile("untimed", settings.default, deadline=None)
settings.load_profile("untimed")

pytest_plugins = ["pytester", "tests.strictness"]
if importlib.util.find_spec("tests.etcd_fixtures") is not None:
    pytest_plugins.append("tests.etcd_fixtures")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Take the program of the tests that need one the project does not bring along."""
    parser.addoption(
        "--jaeger-binary", default="", help="Jaeger's program (2.x, or jaeger-all-in-one 1.x), for tests of its traces"
    )


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave tests of Jaeger aside where there is none."""
    return True if collection_path.name == "test_jaeger.py" and not config.getoption("--jaeger-binary") else None
