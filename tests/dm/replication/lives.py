"""Ordinary lives of a group, as scripts: what the protocol looks like when it works."""

from __future__ import annotations

from amino.dm.replication.insync import promoted
from amino.dm.replication.view import View
from tests.dm.replication.stage import Stage, group, member


def founding() -> Stage:
    """A group is founded, two replicas copy a snapshot and are added, a write is committed by all three."""
    stage = Stage(View(1, 1, (member("r1"),), "r1", ("r1",)), state_at={"r1": 0})
    stage.show("r1")
    stage.do("r1", "may_write")
    stage.say("the slot leader lists two more")
    stage.rewrite(replicas=(member("r1"), member("r2"), member("r3")))
    for replica in ("r2", "r3"):
        stage.enter(member(replica), None)
    stage.show("r1", "r2", "r3")
    stage.talk()
    stage.at(10.05)
    stage.do("r1", "tick")
    stage.land(answered="r1")
    stage.show("r2", "r3")
    stage.do("r1", "may_write")
    stage.write("r1", "one")
    stage.talk()
    stage.say("the followers learn of the commit with the next entry, or at the next tick")
    stage.at(10.1)
    stage.do("r1", "tick")
    stage.talk()
    return stage


def silent_member() -> Stage:
    """A member falls silent, is removed, comes back and catches up by entries."""
    stage = group("r1", "r2", "r3")
    stage.write("r1", "one")
    stage.talk("r1", "r2")
    stage.lose("r1", "r3")
    for now in (10.15, 10.3):
        stage.at(now)
        stage.beat("r1", "r2")
        stage.do("r1", "tick")
        stage.lose("r1", "r3")
    stage.land(answered="r1")
    stage.say("r3 answers again")
    stage.at(10.45)
    stage.beat("r1", "r2", "r3")
    stage.do("r1", "tick")
    stage.talk()
    stage.at(10.5)
    stage.do("r1", "tick")
    stage.land(answered="r1")
    return stage


def takeover() -> Stage:
    """A new primary truncates what only a follower has, commits its own log, and waits for the old lease."""
    stage = group("r1", "r2", "r3")
    stage.write("r1", "one")
    stage.talk()
    stage.write("r1", "two")
    stage.talk("r1", "r3")
    stage.lose("r1", "r2")
    stage.say("entry 2 is at r1 and r3 only; r2 is promoted")
    stage.at(10.2)
    changed = promoted(stage.view, "r2", ())
    stage.rewrite(epoch=2, replicas=changed.replicas, primary="r2", in_sync=changed.in_sync)
    stage.show("r2")
    stage.talk("r2", "r3")
    stage.beat("r2", "r3")
    stage.do("r2", "may_read", 1)
    stage.at(10.51)
    stage.do("r2", "tick")
    stage.talk("r2", "r3")
    stage.beat("r2", "r3")
    stage.do("r2", "may_read", 1)
    stage.say("the old primary still sends; then it sees the document")
    stage.write("r1", "three")
    stage.deliver("r1", "r3")
    stage.deliver("r3", "r1")
    stage.do("r1", "may_write")
    stage.show("r3")
    stage.do("r1", "document", stage.view)
    return stage


def handover() -> Stage:
    """A primary that sees its successor's document resigns: the next one need not wait for the lease, and what is late finds it."""
    stage = group("r1", "r2", "r3")
    stage.write("r1", "one")
    stage.talk()
    stage.at(10.1)
    stage.beat("r1", "r2", "r3")
    stage.say("r2 is promoted and sees it first: it waits")
    changed = promoted(stage.view, "r2", ("r1",))
    stage.rewrite(epoch=2, replicas=changed.replicas, primary="r2", in_sync=changed.in_sync)
    stage.show("r2")
    stage.talk("r2", "r3")
    stage.say("the old primary sees it, too")
    stage.show("r1")
    stage.do("r1", "may_read", 1)
    stage.deliver("r1", "r2")
    stage.say("a heartbeat of before it arrives late: nothing is promised")
    stage.do("r2", "heartbeat", "s1", 1, 1)
    stage.beat("r2", "r3")
    stage.do("r2", "may_read", 1)
    return stage


def divergence() -> Stage:
    """A replay gives another result than the primary's: the follower copies a fresh snapshot."""
    stage = group("r1", "r2")
    stage.digest_of["r2", 1] = 99
    stage.write("r1", "one")
    stage.talk()
    stage.at(10.05)
    stage.do("r1", "tick")
    stage.talk()
    stage.write("r1", "two")
    stage.talk()
    stage.at(10.1)
    stage.do("r1", "tick")
    stage.talk()
    return stage


def stuck() -> Stage:
    """Of two members one dies: the primary can neither commit nor shrink, until a joiner takes the dead one's place."""
    stage = group("r1", "r2")
    stage.write("r1", "one")
    stage.lose("r1", "r2")
    stage.do("r1", "server_lost", "s2", 1, proven=True)
    for now in (10.05, 10.5, 10.6):
        stage.at(now)
        stage.do("r1", "tick")
        stage.lose("r1", "r2")
    stage.do("r1", "may_write")
    stage.say("the slot leader promotes r1 again, without r2, and lists r3")
    stage.rewrite(epoch=2, replicas=(member("r1"), member("r3")), in_sync=("r1",))
    stage.enter(member("r3"), None)
    stage.show("r1", "r3")
    stage.talk("r1", "r3")
    stage.do("r1", "may_write")
    stage.at(10.65)
    stage.do("r1", "tick")
    stage.land(answered="r1")
    stage.do("r1", "may_write")
    return stage


LIVES = {
    "founding": founding,
    "silent-member": silent_member,
    "takeover": takeover,
    "handover": handover,
    "divergence": divergence,
    "stuck": stuck,
}
