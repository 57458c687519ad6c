"""When which fault happens to whom: drawn from a seed. Pure.

Owns drawing. Leaves carrying it out to ``nemesis``.
Invariants: the same seed, kinds and shape give the same schedule; faults that happen together hit different targets.
Failure behaviour: no kind that applies is ``Invalid``.
"""

from __future__ import annotations

import random
from collections.abc import Mapping

import msgspec

from amino.errors import Invalid
from amino.testing.chaos.faults.catalogue import AT, TOGETHER, applicable, parts_of
from amino.testing.chaos.faults.fault import COORDINATOR, PRIMARY, Shape

QUIET_S = 60.0
"""So long a time without further faults is enough to recover in, however long the run."""


class Planned(msgspec.Struct, frozen=True):
    """One fault to come.

    Args:
        at_s: when, since the beginning, at the earliest: one that still heals is waited for. lasts_s: until it is undone.
        kind, target: see ``catalogue.make``.
    """

    at_s: float
    kind: str
    target: str
    lasts_s: float


def plan(
    kinds: Mapping[str, int],
    shape: Shape,
    seed: int | str,
    duration_s: float,
    *,
    gap_s: tuple[float, float] = (3.0, 6.0),
    first_s: float = 1.5,
) -> list[Planned]:
    """Draw a schedule.

    Args:
        kinds: of faults, with weights; those that do not apply to ``shape`` are left out. ``kill-kernel:s1`` fixes the target.
        seed: anything; the same gives the same. duration_s: of the run; no fault begins in its last fifth, or in its last
            minute if that is shorter.
        gap_s: shortest and longest time from the end of one fault to the next. first_s: when the first begins.

    Raises:
        Invalid: nothing of ``kinds`` applies.
    """
    chosen = applicable(kinds, shape)
    if not chosen:
        raise Invalid(f"none of {', '.join(kinds) or 'no faults'} applies to a cluster with {sorted(shape.abilities)}")
    drawn = random.Random(f"{seed}/faults")
    weights = [kinds[kind] for kind in chosen]
    planned: list[Planned] = []
    waiting: list[str] = []
    now = first_s
    until_s = max(first_s + 0.001, 0.8 * duration_s, duration_s - QUIET_S)
    while now < until_s:
        if not waiting:  # a round of all kinds, in an order of its own, so that short runs see many
            waiting = _round(chosen, weights, drawn)
        one = draw(waiting.pop(), shape, drawn, at_s=round(now, 3))
        planned.append(one)
        now += one.lasts_s + drawn.uniform(*gap_s)
    return planned


def _round(kinds: list[str], weights: list[int], drawn: random.Random) -> list[str]:
    """Return all kinds, each once, in an order in which heavier ones tend to come first (taken from the end)."""
    keyed = sorted((drawn.random() ** (1.0 / weight), kind) for kind, weight in zip(kinds, weights, strict=True))
    return [kind for _, kind in keyed]


def draw(kind: str, shape: Shape, drawn: random.Random, *, at_s: float = 0.0) -> Planned:
    """Draw target and duration of one fault."""
    targets: list[str] = []
    lasts_s = 0.0
    for one, named in zip(parts_of(kind), kind.split(TOGETHER), strict=True):
        free = [target for target in one.targets(shape) if target not in targets]
        if targets:  # a role could turn out to be a target that was already chosen
            free = [target for target in free if target not in {PRIMARY, COORDINATOR}] or free
        targets.append(named.partition(AT)[2] or drawn.choice(free))
        lasts_s = max(lasts_s, shape.ttl_s * drawn.uniform(*one.lasts))
    plain = TOGETHER.join(one.kind for one in parts_of(kind))
    return Planned(at_s, plain, TOGETHER.join(targets), round(lasts_s, 3))
