"""The rules of changes that simulations and judges of real runs share."""

from __future__ import annotations

import msgspec

from amino.contracts.documents import GroupDocument, Phase, ReplicaDocument
from amino.testing.documents import Rules

HERE = ReplicaDocument("1-a", "s1", 11, confirmed=True)
GROUP = GroupDocument(phase=Phase.ACTIVE, kind="replicated", replicas=(HERE,), primary="1-a", in_sync=("1-a",))


def broken(after: GroupDocument, *alive: tuple[str, int]) -> list[int]:
    """Return the numbers of what a change of ``GROUP`` to ``after`` breaks."""
    rules = Rules(lambda server, incarnation: (server, incarnation) in alive)
    assert list(rules.group("g", GROUP)) == []
    return [number for number, _ in rules.group("g", after)]


def test_a_group_that_is_lost_has_no_primary_in_the_same_epoch() -> None:
    """Seed 4 of timers-replicated: losing all replicas is no change of primary; taking another without an epoch is one."""
    lost = msgspec.structs.replace(GROUP, phase=Phase.LOST, replicas=(), primary="", in_sync=())
    assert broken(lost) == []
    assert broken(lost, ("s1", 11)) == [1, 3]
    other = msgspec.structs.replace(HERE, id="1-b")
    assert broken(msgspec.structs.replace(GROUP, replicas=(HERE, other), primary="1-b")) == [2]
