"""Telling components that memory is short, or that their calls take unusually long.

Owns when that is so, and the round that tells. Leaves measuring calls to chains and what follows to components.
Invariant: a component that fails at this harms nobody else.
Failure behaviour: what a component raises is logged; the round goes on.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from amino.kernel.object import KernelObject

_log = logging.getLogger("amino.kernel")
EVERY_S = 5.0
LOW_MEMORY_SHARE = 0.05
"""Memory is short when less than this share of it is available."""

UNUSUAL_FACTOR = 5.0
UNUSUAL_S_MIN = 0.02
_WEIGHT = 0.2


class Usual:
    """What is usual for one object's latency, learnt slowly; 0 while nothing is known."""

    __slots__ = ("usual_s",)

    def __init__(self) -> None:
        self.usual_s = 0.0

    def is_unusual(self, p99_s: float) -> bool:
        """Judge the 99th percentile of the last while, in seconds; what is unusual changes what is usual little."""
        unusual = 0.0 < self.usual_s * UNUSUAL_FACTOR < p99_s and p99_s >= UNUSUAL_S_MIN
        weight = _WEIGHT / 4 if unusual else _WEIGHT
        self.usual_s = p99_s if not self.usual_s else self.usual_s + weight * (p99_s - self.usual_s)
        return unusual


class Pressure:
    """The rounds.

    Args:
        objects: returns the kernel objects here. available: returns the available share of memory, 0 to 1.
        told: is told the share when memory becomes short, once each time.
    """

    def __init__(
        self,
        objects: Callable[[], Iterable[KernelObject]],
        available: Callable[[], float],
        told: Callable[[float], None] = lambda _share: None,
    ) -> None:
        self._objects = objects
        self._available = available
        self._told = told
        self._short = False
        self._usual: dict[tuple[str, str], Usual] = {}

    async def run(self) -> None:
        """Look every ``EVERY_S`` seconds, until cancelled."""
        while True:
            await asyncio.sleep(EVERY_S)
            await self.look()

    async def look(self) -> None:
        """Tell those who have to know, once."""
        share = self._available()
        short = share < LOW_MEMORY_SHARE
        if short and not self._short:
            _log.warning("memory is short: %.1f %% is available", 100 * share)
            self._told(share)
        self._short = short
        seen: dict[tuple[str, str], Usual] = {}
        for target in list(self._objects()):
            p99_s = target.chain.latency_p99_s()
            try:
                if short:
                    await target.chain.on_low_memory()
                if p99_s is not None:
                    place = (target.microservice, target.path)
                    usual = seen[place] = self._usual.get(place) or Usual()
                    if usual.is_unusual(p99_s):
                        await target.chain.on_high_latency(p99_s)
            except Exception:  # noqa: BLE001 - a manager's fault; the others must be told all the same
                _log.exception("a component of %s failed to react to pressure", target.microservice)
        self._usual = seen
