"""The interleavings that break replication when a rule is missing, each as a script that says whether all went well.

Each is run with all rules on (then it goes well, and its trace is the one kept) and with its rule removed (then not).
"""

from __future__ import annotations

from amino.dm.replication import effects as does
from amino.dm.replication.insync import promoted
from amino.dm.replication.machine import Role
from amino.dm.replication.view import Rules
from tests.dm.replication.stage import Stage, group, member


def _joiner(rules: Rules) -> Stage:
    """Return r1 and r2 in sync with one entry, and r3 with a snapshot of it."""
    stage = group("r1", "r2", rules=rules)
    stage.write("r1", "one")
    stage.talk()
    stage.rewrite(replicas=(*stage.view.replicas, member("r3")))
    stage.enter(member("r3"), None)
    stage.show("r1", "r2", "r3")
    stage.talk()
    stage.beat("r1", "r2", "r3")
    return stage


def _promote(stage: Stage, successor: str, *dead: str) -> None:
    """Let the slot leader promote ``successor``, who then serves if it can."""
    stage.say(f"{stage.view.primary} is gone; the slot leader promotes {successor}")
    changed = promoted(stage.view, successor, dead)
    stage.rewrite(epoch=changed.epoch, replicas=changed.replicas, primary=changed.primary, in_sync=changed.in_sync)
    stage.show(successor)


def _serves_all(stage: Stage, successor: str, acknowledged: int) -> bool:
    """Let the successor take over from a primary that is proven dead; return whether it has all that was acknowledged."""
    stage.do(successor, "server_lost", "s1", 1, proven=True)
    stage.talk(*stage.view.in_sync)
    stage.at(stage.now + 0.6)
    stage.do(successor, "tick")
    machine = stage.machines[successor]
    stage.say(f"acknowledged up to {acknowledged}; {machine!r}")
    return machine.role is not Role.PRIMARY or machine.log_end >= acknowledged


def join_race(rules: Rules) -> tuple[Stage, bool]:
    """A joiner that lacks what was committed must not become a member."""
    stage = _joiner(rules)
    stage.say("two more entries are committed; what is sent to the joiner is under way for long")
    stage.write("r1", "two")
    stage.write("r1", "three")
    stage.talk("r1", "r2")
    stage.at(10.05)
    stage.beat("r1", "r2", "r3")
    stage.do("r1", "tick")
    if stage.edit is None:
        stage.say("no edit yet: r3 lacks 2 and 3")
        successor = "r2"
    else:
        stage.land(answered="r1")
        successor = "r3"
    _promote(stage, successor, *({"r2", "r3"} - {successor}))
    return stage, _serves_all(stage, successor, stage.acknowledged("r1"))


def union_of_sets(rules: Rules) -> tuple[Stage, bool]:
    """While an edit that removes a member is unsettled, that member is still needed: the edit may never land."""
    stage = group("r1", "r2", "r3", rules=rules)
    stage.write("r1", "one")
    stage.talk("r1", "r3")
    stage.at(10.3)
    stage.say("r2 is silent: the primary asks to go on without it")
    stage.beat("r1", "r3")
    stage.do("r1", "tick")
    assert stage.edit is not None
    stage.write("r1", "two")
    stage.talk("r1", "r3")
    stage.say("the edit has not landed when r1 dies")
    _promote(stage, "r2", "r3")
    stage.land()
    return stage, _serves_all(stage, "r2", stage.acknowledged("r1"))


def timed_out_write(rules: Rules) -> tuple[Stage, bool]:
    """An edit that was given up for lost lands later, and makes a member of a replica that lacks an entry."""
    stage = _joiner(rules)
    stage.at(10.05)
    stage.do("r1", "tick")
    assert stage.edit is not None
    stage.say("no answer comes to the edit that adds r3")
    stage.do("r1", "edit_unknown")
    stage.write("r1", "two")
    stage.talk("r1", "r2")
    stage.land()
    _promote(stage, "r3", "r2")
    return stage, _serves_all(stage, "r3", stage.acknowledged("r1"))


def reborn_replica(rules: Rules) -> tuple[Stage, bool]:
    """A replica that is born again, empty, under its old id is not the member that the document lists."""
    stage = group("r1", "r2", rules=rules)
    stage.write("r1", "one")
    stage.talk()
    acknowledged = stage.acknowledged("r1")
    stage.say("the process of r2 dies; its server starts again, and r2 with it, empty")
    stage.enter(member("r2", incarnation=2), 0)
    _promote(stage, "r2")
    return stage, _serves_all(stage, "r2", acknowledged)


def suffix_of_new_primary(rules: Rules) -> tuple[Stage, bool]:
    """What the old primary acknowledged, the new one has in its log, but does not know to be committed."""
    stage = group("r1", "r2", "r3", rules=rules)
    stage.write("r1", "one")
    stage.talk()
    assert stage.acknowledged("r1") == 1
    _promote(stage, "r2")
    stage.do("r2", "server_lost", "s1", 1, proven=True)
    if stage.machines["r2"].role is not Role.PRIMARY:
        stage.say("it does not serve before r3 has the same log and the entry is executed")
        stage.do("r2", "may_read", 0)
        stage.talk("r2", "r3")
    machine = stage.machines["r2"]
    stage.say(f"it serves with {machine.applied_index} executed")
    return stage, machine.applied_index == 1


def _two_primaries(rules: Rules) -> Stage:
    """Return r1, which may read, cut off, and r2, which is promoted."""
    stage = group("r1", "r2", rules=rules)
    stage.say("r1 is cut off from all but its clients; it holds a lease from 10.00")
    stage.at(10.1)
    _promote(stage, "r2")
    return stage


def _both(stage: Stage, now: float) -> bool:
    """Return whether both serve reads at that time."""
    stage.at(now)
    stage.do("r2", "tick")
    old = stage.do("r1", "may_read", 0)
    new = stage.do("r2", "may_read", 0)
    return old is None and new is None


def read_lease_waited(rules: Rules) -> tuple[Stage, bool]:
    """A new primary waits until the old one, which may not know of it, has stopped serving reads."""
    stage = _two_primaries(rules)
    both = [_both(stage, now) for now in (10.4, 10.52)]
    return stage, not any(both)


def read_lease_needed(rules: Rules) -> tuple[Stage, bool]:
    """A primary that hears nothing from its in-sync set may have been replaced, and lets nobody read."""
    return read_lease_waited(rules)


def stale_list(rules: Rules) -> tuple[Stage, bool]:
    """A list that misses a server does not prove that the primary on it has stopped; a tombstone does."""
    stage = _two_primaries(rules)
    stage.say("a list of servers misses s1")
    stage.do("r2", "server_lost", "s1", 1, proven=False)
    both = _both(stage, 10.2)
    stage.say("a tombstone says that s1's incarnation 1 is dead")
    stage.do("r2", "server_lost", "s1", 1, proven=True)
    return stage, not both and bool(stage.did("r2", does.Serving))


INTERLEAVINGS = {
    "join-race": (join_race, "caught_up_first"),
    "union-of-sets": (union_of_sets, "union"),
    "timed-out-guarded-write": (timed_out_write, "unknown_may_land"),
    "reborn-replica": (reborn_replica, "identity"),
    "suffix-of-new-primary": (suffix_of_new_primary, "suffix_first"),
    "read-lease-waited": (read_lease_waited, "lease_waited"),
    "read-lease-needed": (read_lease_needed, "lease_to_read"),
    "stale-list-of-servers": (stale_list, "list_is_no_proof"),
}
