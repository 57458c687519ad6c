"""Loads of simulated clusters, by name: what clients do, and what they make of the answers.

Owns the protocol of a load, what loads share, and the list of all. Leaves causing trouble to ``faults`` and watching servers
to ``checks``.
Invariants: loads run side by side on one cluster and touch only microservices, locks and keys of their own name.
Failure behaviour: an outcome that the guarantee of a load's manager rules out is a finding.
"""

from amino.testing.simulation.workloads.base import DEADLINE_S, Kind, Load, Setting
from amino.testing.simulation.workloads.registry import LOADS

__all__ = ["DEADLINE_S", "LOADS", "Kind", "Load", "Setting"]
