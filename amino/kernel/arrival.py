"""What made a replica serve where it is, for the traces of the calls that had to wait for it.

Owns the note of it. Leaves linking calls to it to ``shown``.
Invariant: there is a note only of what is traced.
Failure behaviour: none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from amino.telemetry.trace import is_unsampled

if TYPE_CHECKING:
    from amino.kernel.object import KernelObject


class Arrival(NamedTuple):
    """What made a replica serve here, and kept calls waiting: a failover, a move or a change.

    Args:
        traceparent: of its trace.
        at: when the replica began to serve, on the monotonic clock. at_ns: the same by the wall clock.
        failover: whether it was one.
        heard_ns: of a replica that was promoted: when it heard of that, by the wall clock.
    """

    traceparent: str
    at: float
    at_ns: int
    failover: bool = False
    heard_ns: int = 0


def arrived(target: KernelObject, traceparent: str | None, *, failover: bool = False, heard_ns: int = 0) -> None:
    """Note what makes ``target`` serve from now on, if that is traced; see ``Arrival`` for the arguments."""
    if traceparent and not is_unsampled(traceparent):
        clock = target.surroundings.clock
        target.answered = False
        target.arrival = Arrival(traceparent, clock.monotonic(), int(clock.wall() * 1e9), failover, heard_ns)
