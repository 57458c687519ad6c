"""The public test kit: local and simulated clusters, a fault-injecting transport, a pytest plugin, conformance kits.

Not here: tests of Amino itself (``tests/``). Fakes here are products, held to the same suites as the real parts.
"""

from __future__ import annotations

import importlib
import typing

if typing.TYPE_CHECKING:
    from amino.testing.local_cluster import LocalCluster, LocalEtcd, LocalServer
    from amino.testing.proxy import FaultyNetwork
    from amino.testing.simulation import SimulatedClient, SimulatedCluster, SimulatedServer, simulate

_SIMULATION = ("SimulatedClient", "SimulatedCluster", "SimulatedServer", "simulate")
__all__ = [
    "FaultyNetwork",
    "LocalCluster",
    "LocalEtcd",
    "LocalServer",
    "SimulatedClient",
    "SimulatedCluster",
    "SimulatedServer",
    "simulate",
]


def __getattr__(name: str) -> typing.Any:
    """Load parts when first used: the pytest plugin is loaded in every test session of every project."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name in _SIMULATION:
        module = "amino.testing.simulation"
    else:
        module = "amino.testing.proxy" if name == "FaultyNetwork" else "amino.testing.local_cluster"
    return getattr(importlib.import_module(module), name)
