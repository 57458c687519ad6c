"""One replica of a replicated object: what it does at each event, decided without clock, I/O or asyncio.

Owns the roles (joining, follower, taking over, primary, deposed, discarded), the log and what becomes of it. Leaves to the
adapter running methods, carrying messages and snapshots, watching and editing the document, heartbeats; to ``primary``
what only a primary does; to the DM coordinator who is promoted and where replicas are.
Invariants (by number in ``docs/invariants.md``): 1, 2 and 3; entries up to the commit index are never truncated; the
object's state is handed committed entries only, in order, each once. ``docs/replication.md`` names the rules that keep
them.
Failure behaviour: lost, repeated, late and reordered messages and documents are harmless; what must never be asserts, and
the adapter then discards the replica.

How an adapter drives it
------------------------
All on one event loop. Every event is a method call that returns effects, to be carried out in order (``effects``);
``now`` is seconds of a monotonic clock that counts suspended time (``CLOCK_BOOTTIME``), the same for all calls.

* Start: ``Machine(me, options, state_at=0)`` where the constructor has run (the founder), ``state_at=None`` for a joiner;
  then ``document(view, now)`` for every version of the group's document seen, from whatever source (watch, answers).
* ``tick(now)`` every ``TICK_S`` while the object lives.
* Messages: ``message(message, now)`` for what ``Send`` of another replica carried. ``SnapshotHeader`` is no ordinary
  message: transfer it with the bytes of the snapshot, then ``snapshot_arrived(header, now)``; only if that returns
  ``Install`` load the state, then ``installed(header, now)`` (if it cannot be loaded, discard the replica).
* A mutating call at the primary: ask ``may_write()`` (None, or why not) before the method; run it; then
  ``index, effects = executed(payload, digest, now)``. ``index`` is None if this is no primary any more: the outcome is
  unknown. Release the reply at ``Committed(index or more)`` if the session is valid; end it as unknown at
  ``TimedOut(index or more)`` or ``Deposed``. A retry answered from the table of answered requests waits likewise,
  for ``log_end``, and needs ``may_write()`` too.
* A read at the primary: run the method, note ``log_end``, then ask ``may_read(log_end, now)`` (None, or why not yet) and
  that the session is valid, then release. Ask again after every event and tick until the call's time is up.
* A mutating call and ``Apply`` never run at once: a primary gets ``Apply`` only before ``Serving``. After each applied
  entry: ``applied(index, digest, now)``.
* Heartbeats: a primary's server sends them to the servers of all members of ``view.replicas``, at least every
  ``read_lease_s / 4``, naming group and ``epoch``. The receiving server asks
  ``heartbeat(server, incarnation, epoch, now)`` of its replica of that group: True covers it in the acknowledgement;
  False (or no such replica) names it as not covered. The sender tells covered ones with
  ``peer_acknowledged(server, incarnation, sent_at, now)``: server and incarnation as the peer stated them, the time as
  taken before sending.
* The end: ``stop()``, before the replica leaves its server in good order.
* Servers: ``server_lost(server, incarnation, now, proven=...)``; ``proven`` only if a tombstone says so.
* ``Edit``: one guarded write; then ``edit_settled(view, now)`` with the document as written or, if it was refused, as read
  in the same transaction, or ``edit_unknown(now)`` if no answer came.
* ``TakeSnapshot(to)``: between two methods, take object and answered requests as they are, keep the bytes, tell
  ``snapshot_taken(to, log_end, now)`` (``applied_index`` before ``Serving``). ``SendSnapshot`` follows once it may leave
  the server. ``snapshot_ended(to, now)`` when the transfer ended, well or not, or when the snapshot could not be taken.
  Drop snapshots kept for replicas that the view no longer lists, and all at ``Deposed``.
"""

from __future__ import annotations

from enum import Enum

from amino.dm.replication import follower
from amino.dm.replication.effects import Deposed, Discard, Diverged, Effect, Install, Send
from amino.dm.replication.messages import (
    Append,
    Appended,
    Lagging,
    Member,
    Message,
    Resigned,
    SnapshotHeader,
    SnapshotWanted,
    Superseded,
)
from amino.dm.replication.primary import Primacy
from amino.dm.replication.state import BEFORE_ME, ReplicaState
from amino.dm.replication.view import ALL_RULES, Options, Rules, View

TICK_S = 0.05
_SERVERS_REMEMBERED_MAX = 1000
_ANSWERS = (Appended, Lagging, SnapshotWanted)


class Role(Enum):
    """What a replica is at the moment."""

    JOINING = "joining"
    FOLLOWER = "follower"
    TAKING_OVER = "taking over"
    PRIMARY = "primary"
    DEPOSED = "deposed"
    DISCARDED = "discarded"


class Machine:
    """The machine of one replica.

    Args:
        me: its identity.
        options: of the group; equal at all replicas.
        state_at: 0 if the object was just constructed as the group's first; None if it must get a snapshot.
        rules: all on, but in tests that show what each is for.
    """

    def __init__(
        self,
        me: Member,
        options: Options | None = None,
        *,
        state_at: int | None,
        rules: Rules = ALL_RULES,
    ) -> None:
        self.me = me
        self._state = ReplicaState(me, options or Options(), rules, applied=state_at)
        self._primacy: Primacy | None = None
        self._deposed = False
        self._discarded = False

    # -- what it is

    @property
    def role(self) -> Role:
        """What the replica is at the moment."""
        view = self._state.view
        if self._discarded:
            return Role.DISCARDED
        if self._primacy is not None:
            return Role.PRIMARY if self._primacy.serving else Role.TAKING_OVER
        if self._deposed:
            return Role.DEPOSED
        return Role.FOLLOWER if view is not None and self.me.id in view.in_sync else Role.JOINING

    @property
    def view(self) -> View | None:
        """The newest document seen."""
        return self._state.view

    @property
    def epoch(self) -> int:
        """Epoch of this primary; elsewhere the highest known."""
        return self._primacy.epoch if self._primacy is not None else self._state.epoch

    @property
    def log_end(self) -> int:
        """Index of the last entry."""
        return self._state.log.end

    @property
    def log_end_epoch(self) -> int:
        """Epoch of the last entry."""
        return self._state.log.end_epoch

    @property
    def commit_index(self) -> int:
        """Index of the last entry known to be committed."""
        return self._state.commit

    @property
    def applied_index(self) -> int | None:
        """Index up to which the object's state goes; None while there is no state."""
        return self._state.applied

    @property
    def lag(self) -> int | None:
        """Entries that the slowest in-sync replica has still to acknowledge; None if this is no primary."""
        return self._primacy.lag if self._primacy is not None else None

    @property
    def distrusted(self) -> bool:
        """Whether the state was found to differ from the primary's, and a copy is awaited."""
        return bool(self._state.distrusted)

    def __repr__(self) -> str:
        state = self._state
        return f"<{self.me} {self.role.value} epoch {self.epoch} commit {state.commit} of {state.log.end}>"

    # -- the document

    def document(self, view: View, now: float) -> list[Effect]:
        """Obey a document, unless one at least as new was seen."""
        state = self._state
        if self._discarded or (state.view is not None and view.revision <= state.view.revision):
            return []
        if not state.is_me(view.member(self.me.id)):
            if state.view is None and state.applied is None:
                return []  # a document from before this joiner was listed
            ended = self._resign(view)
            self._discarded = True
            return [*ended, Discard(f"the group of epoch {view.epoch} does not list {self.me}")]
        before, state.view = state.view, view
        if before is None and state.applied is None:
            state.promise(BEFORE_ME, now)
        state.epoch = max(state.epoch, view.epoch)
        if self._primacy is not None and view.epoch == self._primacy.epoch:
            return self._primacy.document(view, now)
        if view.primary == self.me.id and (before is None or view.epoch > before.epoch):
            return self._take_over(view, now)
        self._deposed = self._deposed or self._primacy is not None
        return self._resign(view)

    def stop(self) -> list[Effect]:
        """Take no part any more; a primary tells all others, for the next one may be chosen already, or soon."""
        state = self._state
        if self._primacy is None or state.view is None:
            return []
        served, self._primacy, self._deposed = self._primacy.epoch, None, True
        others = [member for member in state.view.replicas if not state.is_me(member)]
        return [Send(member, Resigned(served + 1, self.me, served)) for member in others]

    def _resign(self, view: View) -> list[Effect]:
        """Be no primary any more, and tell the next one, which need not wait for the lease then; if lost, it waits."""
        if self._primacy is None:
            return []
        served, self._primacy = self._primacy.epoch, None
        successor = view.member(view.primary)
        told = [Send(successor, Resigned(view.epoch, self.me, served))] if successor is not None else []
        return [Deposed(view.epoch), *told]

    def _take_over(self, view: View, now: float) -> list[Effect]:
        state = self._state
        effects: list[Effect] = [] if self._primacy is None else [Deposed(view.epoch)]
        self._deposed = False
        state.distrusted = 0  # nobody has a better state
        self._primacy = Primacy(state, view, now)
        return [*effects, *state.hand_out(), *self._primacy.go_on(now)]

    def edit_settled(self, view: View | None, now: float) -> list[Effect]:
        """Take the answer to ``Edit``: the document as it was written, or as read in the transaction that refused.

        None if it was refused for another reason than the document.
        """
        effects = self.document(view, now) if view is not None else []
        return effects + (self._primacy.edit_ended(now, known=True) if self._primacy is not None else [])

    def edit_unknown(self, now: float) -> list[Effect]:
        """Take that no answer to ``Edit`` came: it may have been carried out, and may still be."""
        return self._primacy.edit_ended(now, known=False) if self._primacy is not None else []

    # -- messages

    def message(self, message: Message, now: float) -> list[Effect]:
        """Take a message of another replica."""
        state = self._state
        if self._discarded or state.view is None:
            return []
        if isinstance(message, Append):
            return self._append(message)
        if isinstance(message, Superseded):
            state.epoch = max(state.epoch, message.epoch)
            return []
        if isinstance(message, Resigned):
            return self._resigned(message, now)
        if isinstance(message, _ANSWERS) and self._primacy is not None:
            return self._primacy.answer(message, now)
        return []

    def _append(self, append: Append) -> list[Effect]:
        state = self._state
        if not state.is_me(append.to):
            return []
        if append.epoch < state.epoch:
            return [Send(append.sender, Superseded(state.epoch, self.me))]
        state.epoch = append.epoch
        if self._primacy is not None or self._deposed:
            return []  # what was executed here may differ from that log; the next document says what becomes of it
        return follower.accept(state, append)

    def _resigned(self, message: Resigned, now: float) -> list[Effect]:
        state, sender = self._state, message.sender
        state.epoch = max(state.epoch, message.epoch)  # a late heartbeat of the former primary is promised nothing
        state.release((sender.server, sender.incarnation, message.served))
        return self._primacy.go_on(now) if self._primacy is not None else []

    # -- heartbeats and servers

    def heartbeat(self, server: str, incarnation: int, epoch: int, now: float) -> bool:
        """Return whether the heartbeat of the primary on ``server`` may be acknowledged for this group.

        True is a promise: this replica serves as primary only after ``read_lease_s`` from now.
        """
        state = self._state
        if self._discarded or state.view is None or epoch < state.epoch:
            return False
        state.epoch = epoch
        state.promise((server, incarnation, epoch), now)
        return True

    def peer_acknowledged(self, server: str, incarnation: int, sent_at: float, now: float) -> list[Effect]:
        """Take that ``server`` acknowledged, for this group, a heartbeat sent at ``sent_at`` (own clock)."""
        self._state.lost.discard((server, incarnation))
        if self._primacy is None:
            return []
        self._primacy.peer_acknowledged(server, incarnation, sent_at)
        return self._primacy.go_on(now)

    def server_lost(self, server: str, incarnation: int, now: float, *, proven: bool) -> list[Effect]:
        """Take that an incarnation is gone: according to a list of servers, or ``proven`` by a tombstone."""
        state = self._state
        for known in (state.lost, state.dead):
            if len(known) >= _SERVERS_REMEMBERED_MAX:
                known.clear()
        state.lost.add((server, incarnation))
        if proven:
            state.dead.add((server, incarnation))
        return self._primacy.go_on(now) if self._primacy is not None else []

    # -- calls

    @property
    def blocked(self) -> str:
        """Why this primary needs the slot leader's help; empty if it does not."""
        return self._primacy.membership.blocked if self._primacy is not None else ""

    @property
    def hurried(self) -> bool:
        """Whether ``tick`` moves something on: this primary takes over, has not committed all, or has a joiner that calls may await."""
        view = self.view
        if self._primacy is None or view is None:
            return False
        joined = len(view.in_sync) == len(view.replicas)
        return self.role is not Role.PRIMARY or self.commit_index < self.log_end or not joined

    @property
    def needed(self) -> set[str]:
        """Ids of the replicas whose acknowledgement this primary's commits need; empty elsewhere."""
        return self._primacy.membership.needed if self._primacy is not None else set()

    def may_write(self) -> str | None:
        """Return why no mutating call may begin here, or None if one may."""
        return self._primacy.may_write() if self._primacy is not None else "not the primary"

    def executed(self, payload: bytes, digest: int, now: float) -> tuple[int | None, list[Effect]]:
        """Take that a mutating call ran here; return its index, or None if this is no serving primary any more.

        Args:
            payload: what a replay needs.
            digest: of the result.
            now: seconds.
        """
        return self._primacy.executed(payload, digest, now) if self._primacy is not None else (None, [])

    def may_read(self, index: int, now: float) -> str | None:
        """Return why the result of a read may not be released now, or None if it may.

        Args:
            index: ``log_end`` when the method ran.
            now: seconds.
        """
        return self._primacy.may_read(index, now) if self._primacy is not None else "not the primary"

    def applied(self, index: int, digest: int, now: float) -> list[Effect]:
        """Take that the entry ``index``, which ``Apply`` handed out, was replayed with a result of that digest."""
        state = self._state
        if self._discarded or state.applied is None or index != state.applied + 1:
            return []
        state.applied = index
        effects: list[Effect] = []
        expected = state.log.at(index).digest
        if digest != expected:
            effects.append(Diverged(index, expected, digest))
            if self._primacy is None and not state.distrusted:
                state.distrusted = index
                effects += self._want_snapshot()
        state.trim()
        return effects + (self._primacy.go_on(now) if self._primacy is not None else [])

    # -- snapshots

    def snapshot_taken(self, to: Member, index: int, now: float) -> list[Effect]:
        """Take that a snapshot for ``to`` was taken: the state after entry ``index``."""
        return self._primacy.snapshot_taken(to, index, now) if self._primacy is not None else []

    def snapshot_ended(self, to: Member, now: float) -> list[Effect]:
        """Take that the transfer to ``to`` ended, well or not, or that no snapshot could be taken."""
        return self._primacy.snapshot_ended(to, now) if self._primacy is not None else []

    def snapshot_arrived(self, header: SnapshotHeader, now: float) -> list[Effect]:
        """Take that a snapshot arrived whole; ``Install`` if it is wanted, else drop it."""
        del now
        state = self._state
        if self._discarded or self._deposed or self._primacy is not None or state.view is None:
            return []
        if not state.is_me(header.to) or header.epoch < state.epoch or state.installing is not None:
            return []
        if state.applied is not None and header.index <= state.handed - bool(state.distrusted):
            return []
        state.epoch = header.epoch
        state.installing = header
        return [Install(header)]

    def installed(self, header: SnapshotHeader, now: float) -> list[Effect]:
        """Take that the state of the snapshot is in place."""
        state = self._state
        if self._discarded or state.installing != header:
            return []
        state.installing = None
        log, index = state.log, header.index
        if not (log.base <= index <= log.end and log.epoch_at(index) == header.entry_epoch):
            assert index >= state.commit or log.end < index, (
                f"invariant 3: snapshot at {index} is behind {state.commit}"
            )
            log.reset(index, header.entry_epoch)
        state.commit = max(state.commit, index)
        state.applied = state.handed = index
        state.distrusted = 0
        effects = state.hand_out()
        return effects + (self._primacy.go_on(now) if self._primacy is not None else [])

    def not_installed(self, header: SnapshotHeader) -> list[Effect]:
        """Take that the snapshot could not be loaded: it is asked for again."""
        state = self._state
        if state.installing == header:
            state.installing = None
        return self._want_snapshot() if state.distrusted and not self._discarded else []

    def distrust(self) -> list[Effect]:
        """Take that the state was found to differ from the primary's: it is copied afresh."""
        state = self._state
        if self._discarded or self._primacy is not None or not state.applied or state.distrusted:
            return []
        state.distrusted = state.applied
        return self._want_snapshot()

    def _want_snapshot(self) -> list[Effect]:
        state = self._state
        primary = state.view.member(state.view.primary) if state.view is not None else None
        if primary is None or state.installing is not None:
            return []
        return [Send(primary, SnapshotWanted(state.epoch, self.me, 0))]

    # -- time

    def tick(self, now: float) -> list[Effect]:
        """Do what is due; call it every ``TICK_S``."""
        if self._primacy is not None:
            return self._primacy.tick(now)
        return self._want_snapshot() if self._state.distrusted and not self._discarded else []
