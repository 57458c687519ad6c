"""Switching the telemetry of a running process off and on again, so that a process can be compared with itself.

Owns the switch, for this process and (as a microservice) for the server that it runs on. Leaves timing to ``telemetry_cost``.
Invariants: only what hot paths ask is changed, by which a process runs exactly what it would run with telemetry off; exporters go on.
Failure behaviour: none.
"""

from __future__ import annotations

import gc

from amino.telemetry.trace import Telemetry

SWITCHES = ("tracing", "metering", "observing", "surrounds")
_kept: list[tuple[Telemetry, dict[str, bool]]] = []


def switch_telemetry(*, on: bool) -> int:
    """Switch all telemetry of this process; returns how many had been configured to show something."""
    if not _kept:
        gc.unfreeze()  # servers freeze what was imported, and what is frozen is not listed
        for each in [one for one in gc.get_objects() if isinstance(one, Telemetry)]:
            known = {name: getattr(each, name) for name in SWITCHES}
            if any(known.values()):
                _kept.append((each, known))
        gc.freeze()
    for each, known in _kept:
        for name, value in known.items():
            setattr(each, name, value and on)
    return len(_kept)


class Switch:
    """Switches the telemetry of its server."""

    def turn(self, on: bool) -> int:
        """As ``switch_telemetry``, on the server."""
        return switch_telemetry(on=on)
