"""The timers of one object: what is due when, and what happens to occurrences that were missed.

Owns the table and the decisions; pure. Leaves waiting to ``wheel``, running to ``own_calls`` and the API to ``stubs.timers``.
Invariants: an occurrence is done exactly when the table has gone past it, which happens in the operation that runs its method;
the table changes only in changing methods, from recorded times, so that all copies of the object have equal ones.
Failure behaviour: beyond a bound ``Invalid``; an occurrence that is done already, or cancelled, is no occurrence.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import msgspec

from amino import limits
from amino.contracts.own import Firing, TimerInfo
from amino.errors import Invalid

FIRE, SKIP, COALESCE = "fire", "skip", "coalesce"
MISSED_AFTER_S = 1.0
"""So late an occurrence counts as missed, for ``skip``; sooner if the next one is due."""


class Timer(msgspec.Struct, frozen=True, array_like=True):
    """One timer, with the number of its next occurrence, from 0.

    Args:
        id: never used twice. first_s: wall-clock time of occurrence 0. every_s: seconds between occurrences, 0 for only one.
        arguments: of the method, as packed by ``wire.codec``.
    """

    id: str
    name: str
    method: str
    arguments: bytes
    first_s: float
    every_s: float
    missed: str
    number: int = 0

    @property
    def due_s(self) -> float:
        """Wall-clock time of the next occurrence."""
        return self.first_s + self.number * self.every_s


class Verdict(NamedTuple):
    """What to do with what is due.

    Args:
        run: the number of the occurrence to run, None for none.
        missed: how many occurrences before it (or before the next) were passed over.
        following: the number of the next occurrence, None if there is none.
    """

    run: int | None
    missed: int
    following: int | None


def judge(timer: Timer, now_s: float) -> Verdict:
    """Return what to do at ``now_s``, when ``timer`` is due. Pure."""
    if not timer.every_s:
        missed = timer.missed == SKIP and now_s - timer.due_s > MISSED_AFTER_S
        return Verdict(None if missed else 0, int(missed), None)
    if timer.missed == FIRE:
        return Verdict(timer.number, 0, timer.number + 1)
    latest = max(math.floor((now_s - timer.first_s) / timer.every_s + 1e-9), timer.number)
    late_s = now_s - (timer.first_s + latest * timer.every_s)
    if timer.missed == SKIP and late_s > MISSED_AFTER_S:
        return Verdict(None, latest - timer.number + 1, latest + 1)
    return Verdict(latest, latest - timer.number, latest + 1)


class TimerTable:
    """All timers of an object, by name. Its owner sees to it that one thread uses it at a time."""

    def __init__(self) -> None:
        self.timers: dict[str, Timer] = {}
        self._serial = 0

    def __repr__(self) -> str:
        return f"TimerTable({len(self.timers)} timers)"

    def set(
        self, name: str, method: str, arguments: bytes, *, first_s: float, every_s: float, missed: str, now_s: float
    ) -> Timer:
        """Add a timer and return it; one of the same name is replaced. Without a name it gets one.

        Raises:
            Invalid: too many timers, or arguments too large.
        """
        if len(arguments) > limits.TIMER_ARGUMENTS_BYTES_MAX:
            raise Invalid(
                f"the arguments of timer {name or method!r} take {len(arguments)} bytes; the bound is "
                f"{limits.TIMER_ARGUMENTS_BYTES_MAX}: keep large data in the object"
            )
        if name not in self.timers and len(self.timers) >= limits.TIMERS_PER_OBJECT_MAX:
            raise Invalid(f"this microservice has {len(self.timers)} timers, the bound; cancel some, or spread them")
        self._serial += 1
        name = name or f"timer-{self._serial}"
        # the time keeps ids apart that are given again after the state went back to a checkpoint
        timer = Timer(f"{self._serial}.{int(now_s * 1000)}", name, method, arguments, first_s, every_s, missed)
        self.timers[name] = timer
        return timer

    def adopt(self, timer: Timer) -> Timer | None:
        """Take over a timer of another object; returns it as it is here, None if there is one for the same job already.

        Under a name that is taken here it goes on under another. Bounds do not hold for it: it was accepted before.
        """
        self._serial += 1
        present = self.timers.get(timer.name)
        name = timer.name
        if present is not None:
            if (present.method, present.arguments, present.every_s) == (timer.method, timer.arguments, timer.every_s):
                return None
            name = f"{name}-{self._serial}"
        set_at = timer.id.partition(".")[2]
        adopted = msgspec.structs.replace(timer, id=f"{self._serial}.{set_at}", name=name)
        self.timers[name] = adopted
        return adopted

    def cancel(self, name: str) -> bool:
        """Remove a timer; returns whether there was one."""
        return self.timers.pop(name, None) is not None

    def pending(self, name: str, timer_id: str, number: int) -> Timer | None:
        """Return the timer if that occurrence is its next, None if it is done, cancelled or replaced."""
        timer = self.timers.get(name)
        return timer if timer is not None and timer.id == timer_id and timer.number == number else None

    def advance(self, timer: Timer, now_s: float) -> tuple[Firing | None, Timer | None]:
        """Go past what is due of ``timer``.

        Returns:
            What to run (None: all of it was missed), and the timer as it goes on (None: that was the last).
        """
        run, missed, following = judge(timer, now_s)
        firing = None
        if run is not None:
            firing = Firing(timer.name, timer.first_s + run * timer.every_s, run, missed)
        if following is None:
            del self.timers[timer.name]
            return firing, None
        later = self.timers[timer.name] = msgspec.structs.replace(timer, number=following)
        return firing, later

    def infos(self) -> list[TimerInfo]:
        """Return all timers for display, the next first."""
        timers = sorted(self.timers.values(), key=lambda each: each.due_s)
        return [TimerInfo(each.name, each.method, each.due_s, each.every_s or None, each.missed) for each in timers]

    def snapshot(self) -> dict[str, Any]:
        """Return the table as plain data."""
        return {"serial": self._serial, "timers": [msgspec.structs.astuple(each) for each in self.timers.values()]}

    @classmethod
    def restored(cls, data: dict[str, Any]) -> TimerTable:
        """Return the table that ``snapshot`` returned."""
        table = cls()
        table._serial = data["serial"]
        for fields in data["timers"]:
            timer = Timer(*fields)
            table.timers[timer.name] = timer
        return table
