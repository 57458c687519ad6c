"""How far one replica is, as its primary knows it.

Owns what is known of that replica and what is under way to it. Leaves what follows from it to ``primary``.
Invariants: ``match`` never goes back within an epoch; one append is under way at a time.
Failure behaviour: none.
"""

from __future__ import annotations

from dataclasses import dataclass

from amino.dm.replication.messages import Member, SnapshotHeader

UNKNOWN = -1
NEVER = float("-inf")


@dataclass(slots=True)
class Progress:
    """One replica other than the primary.

    Args:
        began: when this record was made, seconds.
        next: index of the entry to send next.
        match: its log equals ours up to here; ``UNKNOWN`` until it has said so.
        sequence: of the last append sent.
        under_way: sequence of the append that is not yet answered, 0 for none.
        sent_at: when that was sent.
        sent_to: index of the last entry ever sent.
        waiting_since: since when it owes an acknowledgement without progress; None if it owes none.
        covered: send time of the last heartbeat that its server acknowledged.
        notice: sequence of the last notice of a commit, which does not keep entries waiting; 0 for none.
        commit_sent: commit index in the append under way.
        commit_noticed: commit index in that notice.
        commit_known: commit index that it has been told for certain.
        snapshot: one is being taken or sent for it.
        header: of the snapshot taken that is not yet committed.
        pinned: index of its snapshot until it has reached it: entries after it are kept.
        paused: it takes no entries before a snapshot has arrived.
    """

    member: Member
    began: float
    next: int
    match: int = UNKNOWN
    sequence: int = 0
    under_way: int = 0
    sent_at: float = 0.0
    sent_to: int = 0
    waiting_since: float | None = None
    covered: float = NEVER
    notice: int = 0
    commit_sent: int = 0
    commit_noticed: int = 0
    commit_known: int = 0
    snapshot: bool = False
    header: SnapshotHeader | None = None
    pinned: int | None = None
    paused: bool = False

    def noticed(self, commit: int) -> int:
        """Note that a notice of ``commit`` is sent; return its sequence."""
        self.sequence += 1
        self.notice, self.commit_noticed = self.sequence, commit
        return self.sequence

    def sent(self, to: int, commit: int, now: float) -> int:
        """Note that an append is sent that ends with entry ``to``; return its sequence."""
        self.sequence += 1
        self.under_way = self.sequence
        self.sent_at = now
        self.sent_to = max(self.sent_to, to)
        self.commit_sent = commit
        if self.waiting_since is None:
            self.waiting_since = now
        return self.sequence

    def answered(self, sequence: int) -> bool:
        """Note an answer; return whether it answers the append under way."""
        if sequence and sequence == self.notice:
            self.notice, self.commit_known = 0, max(self.commit_known, self.commit_noticed)
        if not sequence or sequence != self.under_way:
            return False
        self.under_way, self.commit_known = 0, max(self.commit_known, self.commit_sent)
        return True

    def reached(self, index: int, now: float) -> bool:
        """Note that its log equals ours up to ``index``; return whether that is progress."""
        if index <= self.match:
            return False
        self.match = index
        self.next = index + 1
        self.waiting_since = now if self.sent_to > index else None
        if self.pinned is not None and index >= self.pinned:
            self.pinned = None
        return True
