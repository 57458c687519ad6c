"""Bounds on unavailability by kind of fault, as the design promises them.

Owns the table and comparing with it. Leaves measuring to ``judges.liveness``.
Invariant: where the design names no bound, none is made up.
Failure behaviour: a kind that is not in the table has no bound.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bound:
    """For how long a fault may leave callers unanswered, in seconds with ``ttl_s`` of sessions.

    Args:
        ttls, plus_s: worst case: so many TTLs and seconds; both 0: there is none. p50_s: of the median; 0: there is none.
        after_heal: counted from when the fault is undone, not from when it began.
    """

    ttls: float = 0.0
    plus_s: float = 0.0
    p50_s: float = 0.0
    after_heal: bool = False

    def worst_s(self, ttl_s: float) -> float:
        """Return the bound of the worst case, 0 if there is none."""
        return self.ttls * ttl_s + self.plus_s

    def told(self, ttl_s: float) -> str:
        """Return it for people, empty if there is none."""
        parts = [f"p50 {self.p50_s:g} s"] if self.p50_s else []
        worst_s = self.worst_s(ttl_s)
        if worst_s:
            parts.append(f"{worst_s:g} s" + (" after it is undone" if self.after_heal else ""))
        return ", ".join(parts)

    def broken(self, ttl_s: float, p50_s: float, worst_s: float, healed_s: float) -> bool:
        """Whether what was measured is beyond it.

        Args:
            p50_s, worst_s: from the beginning of the faults. healed_s: worst from when they were undone.
        """
        measured_s, limit_s = healed_s if self.after_heal else worst_s, self.worst_s(ttl_s)
        return bool((self.p50_s and p50_s > self.p50_s) or (limit_s and measured_s > limit_s))


_KERNEL = Bound(p50_s=0.3)
_SUPERVISOR = Bound(plus_s=0.5)
_MACHINE = Bound(ttls=1.0, plus_s=1.0)
_MAJORITY = Bound(ttls=1.0, after_heal=True)
NONE = Bound()
BOUNDS: dict[str, Bound] = {
    "kill-kernel": _KERNEL,
    "kill-supervisor": _SUPERVISOR,
    **dict.fromkeys(
        (
            "kill-server",
            "freeze-kernel",
            "freeze-kernel-long",
            "freeze-supervisor",
            "freeze-supervisor-long",
            "freeze-server",
            "freeze-server-long",
            "cut-etcd",
            "cut-servers",
            "cut-off",
            "isolate",
            "kill-container",
            "freeze-container",
            "disconnect-container",
            "kill-device",
            "freeze-device",
            "freeze-device-long",
            "isolate-device",
        ),
        _MACHINE,
    ),
    **dict.fromkeys(("kill-majority", "freeze-majority", "restart-etcd"), _MAJORITY),
}
"""Of etcd's members it is only promised that no call fails; of slow and lossy ways, and of disks, nothing."""


def bound_of(kind: str) -> Bound:
    """Return the bound of a kind of fault; ``NONE`` if there is none."""
    return BOUNDS.get(kind, NONE)
