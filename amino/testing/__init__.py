"""The public test kit: local and simulated clusters, a fault-injecting transport, a pytest plugin, conformance kits.

Not here: tests of Amino itself (``tests/``). Fakes here are products, held to the same suites as the real parts.
"""

from __future__ import annotations

import importlib
import typing

if typing.TYPE_CHECKING:
    from amino.testing.local_cluster import LocalCluster, LocalEtcd, LocalServer

__all__ = ["LocalCluster", "LocalEtcd", "LocalServer"]


def __getattr__(name: str) -> typing.Any:
    """Load parts when first used: the pytest plugin is loaded in every test session of every project."""
    if name in __all__:
        return getattr(importlib.import_module("amino.testing.local_cluster"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
