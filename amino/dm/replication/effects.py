"""What a replica's machine asks its adapter to do.

Owns the effects. Leaves carrying them out, in the order given, to the adapter.
Invariants: effects are values. Losing a ``Send`` does no harm; every other effect must be carried out, or the replica
discarded.
Failure behaviour: none.
"""

from __future__ import annotations

import msgspec

from amino.dm.replication.messages import Entry, Member, Message, SnapshotHeader


class _Effect(msgspec.Struct, frozen=True, gc=False):
    """Base of all: structs are made in a tenth of the time that frozen dataclasses take."""


class Send(_Effect, frozen=True):
    """Send ``message`` to the replica ``to``, once; it may be lost."""

    to: Member
    message: Message


class Committed(_Effect, frozen=True):
    """Everything up to ``index`` is committed: release the replies that wait for it (if the session is valid)."""

    index: int


class TimedOut(_Effect, frozen=True):
    """Callers that still wait for an index up to ``index`` end as unknown; the entries stay and may commit later."""

    index: int


class Apply(_Effect, frozen=True):
    """Replay ``entries`` (committed, in order, after all handed out before); tell each with ``applied``."""

    entries: tuple[Entry, ...]


class Serving(_Effect, frozen=True):
    """The takeover is complete: calls may be executed from now on."""

    epoch: int


class Deposed(_Effect, frozen=True):
    """No primary any more: callers that wait end as unknown, new calls are refused as moved."""

    epoch: int


class Discard(_Effect, frozen=True):
    """Drop the replica: the group does not list it any more. The machine does nothing after it."""

    reason: str


class Edit(_Effect, frozen=True):
    """Write the document with this in-sync set, in one transaction that compares own server key, epoch and revision.

    Answer with ``edit_settled`` or, if the outcome is not known, ``edit_unknown``. There is one at a time.
    """

    in_sync: tuple[str, ...]
    epoch: int
    revision: int


class Report(_Effect, frozen=True):
    """Tell the slot leader. Repeated while it holds.

    Args:
        kind: ``stuck``: can neither commit nor shrink; promote this one again without members that are gone, if any are
            (``insync.promoted``), else another. ``short``: writes wait for a replacement.
        reaches: ids of the in-sync members that answer.
    """

    kind: str
    reason: str
    reaches: tuple[str, ...]


class TakeSnapshot(_Effect, frozen=True):
    """Take a snapshot for ``to`` while no mutating method runs; tell its index with ``snapshot_taken``."""

    to: Member


class SendSnapshot(_Effect, frozen=True):
    """The snapshot taken for ``to`` is committed: transfer it; then ``snapshot_ended``, in any case."""

    to: Member
    header: SnapshotHeader


class Install(_Effect, frozen=True):
    """Load the snapshot that arrived with ``header`` in place of the object's state; then ``installed``."""

    header: SnapshotHeader


class Diverged(_Effect, frozen=True):
    """The replay of ``index`` gave another result than the primary's: count it; a fresh snapshot is on its way."""

    index: int
    expected: int
    got: int


Effect = (
    Send
    | Committed
    | TimedOut
    | Apply
    | Serving
    | Deposed
    | Discard
    | Edit
    | Report
    | TakeSnapshot
    | SendSnapshot
    | Install
    | Diverged
)
