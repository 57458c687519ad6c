"""Runs of the simulated group: one seed, one run; what is checked is in ``oracle``.

``python -m tests.dm.replication.simulation FIRST COUNT [PROFILE [RULE OFF]]`` runs many and prints what it saw.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from dataclasses import dataclass, replace

from amino.dm.replication.view import ALL_RULES, Rules
from tests.dm.replication.oracle import Violation
from tests.dm.replication.world import Faults, World

FAULTY_S = 3.0
HEALED_S = 6.0

PROFILES = {
    "everything": Faults(),
    "lagging": Faults(lazy_host=0.5, between_promotions_s=0.3),
    "late edits": Faults(
        lazy_host=0.4,
        lazy_s=0.2,
        between_promotions_s=0.3,
        edit_late=0.8,
        edit_lost=0,
        watch_slow=0.9,
        kinds=("part", "one way"),
        between_faults_s=0.2,
    ),
    "islands": Faults(
        writes=0.05,
        kinds=("island", "island", "crash"),
        watch_slow=0.5,
        between_faults_s=0.5,
        between_promotions_s=1.5,
    ),
    "partitions": Faults(writes=0.05, kinds=("part",), watch_slow=0.9, between_faults_s=0.5, between_promotions_s=0.5),
}


@dataclass(frozen=True)
class Removed:
    """A rule, and where its removal shows: the profile, and the first seed known to show it."""

    rule: str
    profile: str
    seed: int = 0


REMOVED = (
    Removed("caught_up_first", "lagging"),
    Removed("union", "lagging"),
    Removed("unknown_may_land", "late edits"),
    Removed("identity", "everything"),
    Removed("suffix_first", "everything"),
    Removed("lease_to_read", "islands"),
    Removed("lease_waited", "partitions"),
    Removed("list_is_no_proof", "everything"),
)


def run(seed: int, profile: str = "everything", rules: Rules = ALL_RULES) -> World:
    """Run one seed: first with faults, then healed, when the group must recover.

    Raises:
        Violation: a promise was broken. AssertionError: a machine found so itself.
    """
    world = World(seed, rules, PROFILES[profile])
    world.run(FAULTY_S)
    if world.lost:
        return world
    world.heal()
    enough, at_least = world.oracle.writes + 3, world.now + 0.5
    world.run(world.now + HEALED_S, lambda: world.oracle.writes >= enough and world.now >= at_least)
    if world.oracle.writes < enough and not world.lost:
        machines = [actor.machine for host in world.hosts.values() for actor in host.actors.values()]
        raise Violation(f"the group did not recover: {machines}, {world.etcd.view}")
    return world


def without(rule: str) -> Rules:
    """Return the rules without one."""
    return replace(ALL_RULES, **{rule: False})


def main(first: int, count: int, profile: str = "everything", rule: str = "") -> None:
    """Run ``count`` seeds and print what happened."""
    rules = without(rule) if rule else ALL_RULES
    began, seen, broken = time.perf_counter(), Counter[str](), Counter[str]()
    for seed in range(first, first + count):
        try:
            world = run(seed, profile, rules)
        except AssertionError as error:
            broken[str(error)[:40]] += 1
            if broken.total() <= 5:
                sys.stdout.write(f"seed {seed}: {error}\n")
            continue
        seen.update(
            writes=world.oracle.writes,
            reads=world.oracle.reads,
            takeovers=world.takeovers,
            changes=world.etcd.view.epoch - 1,
            edits=world.etcd.view.revision,
            divergences=world.divergences,
            given_up=world.lost,
        )
    took = time.perf_counter() - began
    sys.stdout.write(
        f"{count} seeds of {profile!r} in {took:.0f} s: {dict(seen)}; broken: {broken.total()} {dict(broken)}\n"
    )


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
