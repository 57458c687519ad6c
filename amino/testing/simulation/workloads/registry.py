"""All loads by name.

Owns the list. Leaves the loads to their modules, each of which names its own in ``LOADS``.
Invariant: names are unique.
Failure behaviour: none.
"""

from __future__ import annotations

from amino.testing.simulation.workloads import (
    alarms,
    devices,
    journals,
    ledgers,
    listeners,
    placed,
    sharded,
    transactions,
    turnstiles,
    vaults,
)
from amino.testing.simulation.workloads.base import Kind

_MODULES = (alarms, devices, journals, ledgers, listeners, placed, sharded, transactions, turnstiles, vaults)
LOADS: dict[str, Kind] = {kind.name: kind for module in _MODULES for kind in module.LOADS}
