"""Faults: what goes wrong, on purpose, and is undone; and schedules of them from a seed.

Owns causing, proving and undoing each fault, and when which is caused. Leaves clusters to ``clusters``, judging to ``judges``.
Invariants: a fault counts only if it was seen to have happened; everything caused is undone, in the opposite order; the same
seed gives the same schedule.
Failure behaviour: a fault that cannot be caused is recorded as not verified, with the reason, and undone as far as it came.
"""

from amino.testing.chaos.faults.catalogue import FAULTS, applicable, make
from amino.testing.chaos.faults.fault import Fault, Scene, Shape
from amino.testing.chaos.faults.nemesis import Nemesis
from amino.testing.chaos.faults.schedule import Planned, plan

__all__ = ["FAULTS", "Fault", "Nemesis", "Planned", "Scene", "Shape", "applicable", "make", "plan"]
