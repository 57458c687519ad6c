"""Clocks: monotonic for durations, boot time for validity, wall clock for display only.

Owns the clock port and its real adapter; the virtual one belongs to ``amino.testing``. Leaves deadlines to callers.
Invariant: ``monotonic`` and ``boottime`` never go back. ``boottime`` is the same for all processes of a machine and
counts suspension; pauses that a hypervisor hides from it are a stated limit.
Failure behaviour: none.
"""

from __future__ import annotations

import sys
import time
from functools import partial
from typing import Protocol


class Clock(Protocol):
    """Where components read time."""

    def monotonic(self) -> float:
        """Seconds since some fixed point; for durations and deadlines within a process."""
        ...

    def boottime(self) -> float:
        """Seconds on the clock that no one sets, shared by all processes of the machine."""
        ...

    def wall(self) -> float:
        """Seconds since 1970-01-01 UTC; for display only."""
        ...


if sys.platform == "linux":
    _boottime = partial(time.clock_gettime, time.CLOCK_BOOTTIME)  # no Python frame: every reply asks for it

else:  # the monotonic clocks of macOS and Windows are machine-wide and count suspension
    _boottime = time.monotonic


class RealClock:
    """The machine's clocks."""

    __slots__ = ()
    monotonic = staticmethod(time.monotonic)
    boottime = staticmethod(_boottime)
    wall = staticmethod(time.time)
