"""Fixtures that every test can use, and the strictness that holds for all.

Owns the list of plugins. Leaves leak detection to ``tests/strictness.py``, etcd to ``tests/etcd_fixtures.py``, clusters
to the test kit's own plugin. The seed of the random order is printed (repeat a run with ``--randomly-seed=N``).
"""

from __future__ import annotations

import importlib.util

pytest_plugins = ["pytester", "tests.strictness"]
if importlib.util.find_spec("tests.etcd_fixtures") is not None:
    pytest_plugins.append("tests.etcd_fixtures")
