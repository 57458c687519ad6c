"""What every replica has, whatever its role: log, indexes, what it promised to whom.

Owns that state and the few steps all roles share. Leaves decisions to ``machine``, ``follower`` and ``primary``.
Invariants: ``applied <= handed``; ``handed <= commit`` except at a primary, which has executed its whole log.
Failure behaviour: none.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from amino.dm.replication.effects import Apply, Effect
from amino.dm.replication.log import Log
from amino.dm.replication.messages import Member, SnapshotHeader
from amino.dm.replication.view import ALL_RULES, Options, Rules, View

CLOCK_DRIFT_MAX = 0.01
"""By how much two clocks may differ in rate: who waits out a promise waits this share longer."""

PROMISES_MAX = 16
"""Beyond this many, those that have ended are forgotten."""

Server = tuple[str, int]
"""Name and incarnation."""

Promised = tuple[str, int, int]
"""To whom something is promised: name and incarnation of a server, and the epoch in which a replica there was primary."""

BEFORE_ME: Promised = ("", 0, 0)
"""Whoever was promised something, for this group, by an earlier replica on a joiner's server."""


@dataclass(slots=True)
class ReplicaState:
    """State of one replica.

    Args:
        epoch: the highest it knows of, from documents or messages.
        commit: index of the last entry known to be committed.
        handed: index of the last entry handed out to be applied, or executed here.
        applied: index up to which the object's state goes; None while there is no state.
        distrusted: 0, or the index which a snapshot must reach to replace a state that diverged.
        installing: the snapshot being loaded.
        promised: when a heartbeat of that primary was last acknowledged.
        lost: incarnations that a list of servers misses.
        dead: incarnations proven dead.
    """

    me: Member
    options: Options = field(default_factory=Options)
    rules: Rules = ALL_RULES
    log: Log = field(default_factory=Log)
    view: View | None = None
    epoch: int = 0
    commit: int = 0
    handed: int = 0
    applied: int | None = None
    distrusted: int = 0
    installing: SnapshotHeader | None = None
    promised: dict[Promised, float] = field(default_factory=dict)
    lost: set[Server] = field(default_factory=set)
    dead: set[Server] = field(default_factory=set)

    def is_me(self, member: Member | None) -> bool:
        """Return whether ``member`` is this replica: under this incarnation, not just under this id."""
        if member is None or member.id != self.me.id:
            return False
        return member == self.me or not self.rules.identity

    def hand_out(self) -> list[Effect]:
        """Hand out what is committed and not yet handed out, unless the state is missing, replaced or distrusted."""
        if self.commit <= self.handed or self.applied is None or self.installing is not None or self.distrusted:
            return []
        entries = self.log.between(self.handed, self.commit)
        self.handed = self.commit
        return [Apply(entries)]

    def trim(self, pinned: int | None = None) -> None:
        """Drop entries that nobody will ask for: neither this object, nor (within bounds) a replica that returns."""
        keep_after = self.commit - self.options.snapshot_every
        if pinned is not None:
            keep_after = min(keep_after, pinned)
        droppable = min(self.commit, self.applied or 0)
        self.log.trim(keep_after, droppable, self.options.log_bytes_max)

    def promise(self, to: Promised, now: float) -> None:
        """Note that a heartbeat of that primary is acknowledged now."""
        if len(self.promised) >= PROMISES_MAX:
            ended = now - 2 * self.options.read_lease_s
            self.promised = {primary: at for primary, at in self.promised.items() if at > ended}
        self.promised[to] = now

    def release(self, to: Promised) -> None:
        """Note that this primary has resigned: what was promised to it holds nobody up. Others on its server keep theirs."""
        self.promised.pop(to, None)

    def free_at(self) -> float:
        """Return when every earlier primary to which this server promised anything has stopped serving reads."""
        if not self.rules.lease_waited:
            return 0.0
        gone = self.dead if self.rules.list_is_no_proof else self.dead | self.lost
        lease_s = self.options.read_lease_s * (1 + CLOCK_DRIFT_MAX)
        return max(
            (at + lease_s for (*server, _), at in self.promised.items() if tuple(server) not in gone), default=0.0
        )
