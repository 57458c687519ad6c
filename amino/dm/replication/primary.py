"""What a replica does as primary of one epoch, from the takeover to the end.

Owns replication, commit, calls that wait, reads, snapshots for others. Leaves the in-sync set to ``membership``, roles and
documents to ``machine``.
Invariants: nothing is committed before every needed replica, under the incarnation of the document, has acknowledged it
in this epoch; nothing is served before all of them have the log this primary began with and it has executed it.
Failure behaviour: what is not acknowledged is sent again; calls that wait too long end as unknown; without its in-sync
set it neither commits nor lets read.
"""

from __future__ import annotations

from collections import deque

from amino.dm.replication.effects import Committed, Effect, Send, SendSnapshot, Serving, TakeSnapshot, TimedOut
from amino.dm.replication.membership import Membership
from amino.dm.replication.messages import Append, Appended, Entry, Lagging, Member, SnapshotHeader, SnapshotWanted
from amino.dm.replication.progress import UNKNOWN, Progress
from amino.dm.replication.state import ReplicaState
from amino.dm.replication.view import View

BATCH_ENTRIES_MAX = 512
BATCH_BYTES_MAX = 1024 * 1024

Answer = Appended | Lagging | SnapshotWanted


class Primacy:
    """A primary's state, which begins anew with every epoch.

    Args:
        state: of the replica.
        view: the document that names it primary.
        now: seconds.
    """

    def __init__(self, state: ReplicaState, view: View, now: float) -> None:
        self.epoch = view.epoch
        self.inherited = state.log.end
        self.serving = False
        self.membership = Membership(state, view)
        self._state = state
        self._view = view
        self._progress: dict[str, Progress] = {}
        self._needed: list[Progress] = []
        self._pending: deque[tuple[int, float]] = deque()
        self._timed_out = 0
        self._list(now)

    @property
    def lag(self) -> int:
        """Entries that the slowest replica of those that must have all has still to acknowledge."""
        end = self._state.log.end
        return max((end - max(one.match, 0) for one in self._needed), default=0)

    @property
    def superseded(self) -> bool:
        """Whether a newer epoch is known to exist."""
        return self._state.epoch > self.epoch

    # -- documents and edits

    def document(self, view: View, now: float) -> list[Effect]:
        """Note a newer document of the same epoch."""
        self._view = view
        self.membership.document(view)
        self._list(now)
        return self.go_on(now)

    def _list(self, now: float) -> None:
        before, self._progress = self._progress, {}
        for member in self._view.replicas:
            if member.id == self._state.me.id:
                continue
            known = before.get(member.id)
            if known is None or known.member != member:
                known = Progress(member, began=now, next=self._state.log.end + 1)
            self._progress[member.id] = known
        self._need()

    def _need(self) -> None:
        needed = self.membership.needed
        self._needed = [one for replica, one in self._progress.items() if replica in needed]

    def edit_ended(self, now: float, *, known: bool) -> list[Effect]:
        """Note the end of an edit; the document read with it, if any, was noted before."""
        if known:
            self.membership.settled(now)
        else:
            self.membership.unknown(now)
        self._need()
        return self.go_on(now)

    # -- calls

    def executed(self, payload: bytes, digest: int, now: float) -> tuple[int | None, list[Effect]]:
        """Append what was executed and send it to all."""
        if not self.serving or self.superseded:
            return None, []
        state = self._state
        index = state.log.end + 1
        state.log.append(Entry(self.epoch, index, payload, digest))
        state.applied = state.handed = index
        self._pending.append((index, now + state.options.append_timeout_s))
        return index, self.go_on(now)

    def may_write(self) -> str | None:
        """Return why no mutating call may begin, or None."""
        options, in_sync = self._state.options, self._view.in_sync
        if not self.serving:
            return "the primary is taking over"
        if self.superseded:
            return f"epoch {self.epoch} is over"
        if len(in_sync) < options.min_in_sync:
            return f"{len(in_sync)} in-sync of min_in_sync={options.min_in_sync}; a replacement is awaited"
        if self.membership.blocked:
            return self.membership.blocked
        if self._timed_out > self._state.commit:
            return f"entry {self._timed_out} is not acknowledged by every in-sync replica"
        if self._state.log.payload_bytes > options.log_bytes_max:
            return f"more than {options.log_bytes_max} bytes are not yet committed"
        return None

    def may_read(self, index: int, now: float) -> str | None:
        """Return why a read of the state after entry ``index`` may not be answered now, or None."""
        state = self._state
        if not self.serving:
            return "the primary is taking over"
        if self.superseded:
            return f"epoch {self.epoch} is over"
        if state.commit < index:
            return f"entry {index} is not committed"
        if state.rules.lease_to_read:
            oldest = now - state.options.read_lease_s
            for one in self._needed:
                if one.covered <= oldest:
                    return f"no acknowledged heartbeat from {one.member.server}"
        return None

    # -- messages

    def answer(self, message: Answer, now: float) -> list[Effect]:
        """Note what a replica answered."""
        one = self._progress.get(message.sender.id)
        if one is None or message.epoch != self.epoch:
            return []
        if self._state.rules.identity and one.member != message.sender:
            return []
        current = one.answered(message.sequence)
        if isinstance(message, SnapshotWanted):
            if current:
                one.paused = True
            return self._snapshot_for(one) if current or not message.sequence else []
        if isinstance(message, Lagging):
            if current and one.match == UNKNOWN:
                one.next = min(message.end, self._state.log.end) + 1
                return self._feed(one, now)
            return []
        assert message.match <= self._state.log.end, (message, self._state.log.end)
        if one.reached(message.match, now):
            return self.go_on(now)
        return self._feed(one, now) if one.match >= one.sent_to else []  # else it has no room: after a pause

    def peer_acknowledged(self, server: str, incarnation: int, sent_at: float) -> None:
        """Note that a server acknowledged a heartbeat sent at ``sent_at``."""
        for one in self._progress.values():
            if (one.member.server, one.member.incarnation) == (server, incarnation):
                one.covered = max(one.covered, sent_at)

    # -- snapshots for others

    def snapshot_taken(self, to: Member, index: int, now: float) -> list[Effect]:
        """Note a snapshot of the state after ``index``; it is sent once that is committed."""
        state = self._state
        one = self._progress.get(to.id)
        if one is None or one.member != to or not one.snapshot or index < state.log.base:
            return []
        one.header = SnapshotHeader(self.epoch, state.me, to, index, state.log.epoch_at(index))
        one.pinned = index
        return self.go_on(now)

    def snapshot_ended(self, to: Member, now: float) -> list[Effect]:
        """Note that a transfer has ended: find out where the replica is."""
        one = self._progress.get(to.id)
        if one is None or one.member != to or not one.snapshot:
            return []
        one.snapshot, one.header = False, None
        if not one.paused:
            return []
        one.paused, one.match, one.under_way = False, UNKNOWN, 0
        one.next = (one.pinned if one.pinned is not None else self._state.log.end) + 1
        return self._feed(one, now)

    def _snapshot_for(self, one: Progress) -> list[Effect]:
        if one.paused:
            one.waiting_since = None
        if one.snapshot:
            return []
        one.snapshot = True
        return [TakeSnapshot(one.member)]

    # -- time

    def tick(self, now: float) -> list[Effect]:
        """Send again, end calls, propose another in-sync set."""
        effects: list[Effect] = []
        for one in self._progress.values():
            if one.under_way and now - one.sent_at >= self._state.options.append_timeout_s / 5:
                one.under_way = 0
            effects.extend(self._feed(one, now) or self._notice(one))
        timed_out = 0
        while self._pending and (self._pending[0][0] <= self._state.commit or self._pending[0][1] <= now):
            index, _ = self._pending.popleft()
            timed_out = index if index > self._state.commit else timed_out
        if timed_out:
            self._timed_out = timed_out
            effects.append(TimedOut(timed_out))
        if not self.superseded:
            effects += self.membership.tick(self._progress, max(self._state.commit, self.inherited), now)
            self._need()
        return effects + self.go_on(now)

    # -- what follows from any of these

    def go_on(self, now: float) -> list[Effect]:
        """Send, commit and begin to serve as far as possible; needed after whatever may have changed that."""
        effects: list[Effect] = []
        for one in self._progress.values():
            if not one.under_way:
                effects += self._feed(one, now)
        effects += self._commit()
        if not self.serving:
            effects += self._serve(now)
        return effects

    def _feed(self, one: Progress, now: float) -> list[Effect]:
        """Send the next batch, or a probe, unless something is under way."""
        if one.under_way or one.paused:
            return []
        log = self._state.log
        if one.next <= log.base:
            one.paused = True
            return self._snapshot_for(one)
        if one.match == UNKNOWN:
            return [self._append(one, one.sent(one.next - 1, self._state.commit, now), ())]
        if one.next > log.end:
            return []
        entries = log.between(one.next - 1, log.end, BATCH_ENTRIES_MAX, BATCH_BYTES_MAX)
        return [self._append(one, one.sent(entries[-1].index, self._state.commit, now), entries)]

    def _notice(self, one: Progress) -> list[Effect]:
        """Tell a replica for which there is nothing else what has been committed."""
        commit = self._state.commit
        if one.under_way or one.paused or one.match == UNKNOWN or one.commit_known >= commit:
            return []
        return [self._append(one, one.noticed(commit), ())]

    def _append(self, one: Progress, sequence: int, entries: tuple[Entry, ...]) -> Effect:
        previous = one.next - 1
        message = Append(
            epoch=self.epoch,
            sender=self._state.me,
            to=one.member,
            sequence=sequence,
            previous=previous,
            previous_epoch=self._state.log.epoch_at(previous),
            inherited=self.inherited,
            commit=self._state.commit,
            entries=entries,
        )
        return Send(one.member, message)

    def _commit(self) -> list[Effect]:
        state = self._state
        index = state.log.end
        for one in self._needed:
            if one.match < index:
                index = one.match
        effects: list[Effect] = []
        if index > state.commit:
            state.commit = index
            effects += [Committed(index)] if self.serving else state.hand_out()
            while self._pending and self._pending[0][0] <= index:
                self._pending.popleft()
            pinned = [one.pinned for one in self._progress.values() if one.pinned is not None]
            state.trim(min(pinned) if pinned else None)
        for one in self._progress.values():
            if one.header is not None and one.header.index <= state.commit:
                effects.append(SendSnapshot(one.member, one.header))
                one.header = None
        return effects

    def _serve(self, now: float) -> list[Effect]:
        state = self._state
        if self.superseded or state.applied is None or state.installing is not None:
            return []
        have_all = state.commit >= self.inherited and state.applied >= self.inherited
        if (state.rules.suffix_first and not have_all) or now < state.free_at():
            return []
        self.serving = True
        return [Serving(self.epoch)]
