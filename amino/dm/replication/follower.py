"""What a replica that is not the primary does with entries.

Owns the consistency check, truncation and acknowledgement. Leaves who may send at all to ``machine``.
Invariants: what is acknowledged equals the primary's log up to the index named; nothing up to the commit index is
truncated; entries are handed out only when committed.
Failure behaviour: what does not follow on the log is answered with where it ends; too much unapplied: nothing is taken.
"""

from __future__ import annotations

from amino.dm.replication.effects import Effect, Send
from amino.dm.replication.messages import Append, Appended, Entry, Lagging, SnapshotWanted
from amino.dm.replication.state import ReplicaState


def accept(state: ReplicaState, append: Append) -> list[Effect]:
    """Take the entries of a primary whose epoch is the present one, and answer."""
    if state.applied is None:
        if state.installing is not None:
            return []  # the primary asks again
        wanted = SnapshotWanted(append.epoch, state.me, append.sequence)
        return [Send(append.sender, wanted)]
    _drop_what_the_primary_lacks(state, append)
    end = _where_to_try(state, append)
    if end is not None:
        return [Send(append.sender, Lagging(append.epoch, state.me, append.sequence, end))]
    match = append.previous
    if _has_room(state):
        for entry in append.entries:
            _take(state, entry)
        match += len(append.entries)
    state.commit = max(state.commit, min(append.commit, match))
    match = max(match, state.commit)
    effects: list[Effect] = [Send(append.sender, Appended(append.epoch, state.me, append.sequence, match))]
    effects.extend(state.hand_out())
    state.trim()
    return effects


def _drop_what_the_primary_lacks(state: ReplicaState, append: Append) -> None:
    """Truncate entries of older epochs beyond the log end that the primary began with. Safe to repeat at any time."""
    log, inherited = state.log, append.inherited
    if log.base <= inherited < log.end and log.epoch_at(inherited + 1) < append.epoch:
        _truncate(state, inherited)


def _where_to_try(state: ReplicaState, append: Append) -> int | None:
    """Return None if the entries follow on our log, else an index up to which they may."""
    log = state.log
    if append.previous > log.end:
        return log.end
    if append.previous <= state.commit or log.epoch_at(append.previous) == append.previous_epoch:
        return None  # committed entries are equal everywhere
    return state.commit


def _has_room(state: ReplicaState) -> bool:
    waiting = state.commit > (state.applied or 0)
    return not waiting or state.log.payload_bytes <= state.options.log_bytes_max


def _take(state: ReplicaState, entry: Entry) -> None:
    log = state.log
    if entry.index <= log.base:
        return
    if entry.index <= log.end:
        if log.epoch_at(entry.index) == entry.epoch:
            return
        _truncate(state, entry.index - 1)
    log.append(entry)


def _truncate(state: ReplicaState, after: int) -> None:
    assert after >= state.commit, f"invariant 3: truncating committed entries {after + 1} to {state.commit}"
    state.log.truncate(after)
