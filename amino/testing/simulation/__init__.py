"""Deterministic simulation: whole clusters in one process, on virtual time, with seeds.

Owns the virtual event loop, simulated machines and clients, faults, a workload and checks of the invariants. Leaves real
processes to ``testing.local_cluster``.
Invariants: one seed, one history. Failure behaviour: a finding names the broken invariant and the seed that shows it.
"""

from amino.testing.simulation.client import SimulatedClient
from amino.testing.simulation.cluster import SimulatedCluster, simulate
from amino.testing.simulation.loop import Deadlock, Process, VirtualClock, VirtualLoop, run_virtual
from amino.testing.simulation.server import SimulatedServer

__all__ = [
    "Deadlock",
    "Process",
    "SimulatedClient",
    "SimulatedCluster",
    "SimulatedServer",
    "VirtualClock",
    "VirtualLoop",
    "run_virtual",
    "simulate",
]
