"""What may be published as a group's newest checkpoint, as pure functions.

Owns the order of checkpoints, what is kept (of logs too: a checkpoint and its log lead to the next checkpoint), and the test whether a replica may still publish. Leaves transactions to
``replica_checkpoints``.
Invariants: (epoch, sequence) grows strictly from each entry to the newer one; nothing of an older epoch is published
over a newer one (invariant 2). Failure behaviour: none; refusals are answers.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

import msgspec

from amino.contracts.documents import CheckpointEntry, GroupDocument, Manifest, Phase

_PHASES_THAT_WRITE = (Phase.CREATING, Phase.ACTIVE)


class Validity(Protocol):
    """The server's session, as far as checkpoints need it (``coordination.session.SessionView``)."""

    @property
    def incarnation(self) -> int:
        """Create revision of the server's key."""
        ...

    def valid(self) -> bool:
        """Whether the session is proved to be valid now."""
        ...

    async def wait_valid(self, hold_s: float) -> bool:
        """Wait on the server's loop until it is valid, at most ``hold_s`` seconds; returns whether it is."""
        ...


@dataclass(frozen=True, slots=True)
class Holder:
    """Who publishes: a replica of a group, as one incarnation of a server has it, at one epoch."""

    microservice: str
    path: str
    replica: str
    server: str
    incarnation: int
    epoch: int


def refusal(holder: Holder, document: GroupDocument | None) -> str:
    """Return why ``holder`` may not publish given the group's document, empty if it may."""
    if document is None:
        return "the microservice is deleted"
    if document.phase not in _PHASES_THAT_WRITE:
        return f"the microservice is {document.phase}"
    if document.epoch != holder.epoch:
        return f"the group is at epoch {document.epoch}, this replica at {holder.epoch}"
    for replica in document.replicas:
        if replica.id == holder.replica:
            if (replica.server, replica.incarnation) == (holder.server, holder.incarnation):
                return ""
            return f"replica {holder.replica} is placed on {replica.server}"
    return f"replica {holder.replica} is not of the group any more"


def next_sequence(manifest: Manifest) -> int:
    """Return the sequence that follows all in ``manifest``; sequences of a group start at 1 and go on over epochs."""
    return 1 + max((entry.sequence for entry in manifest.entries), default=0)


def added(
    manifest: Manifest,
    entry: CheckpointEntry,
    keep: int,
    rejected: Collection[str] = (),
    log_sizes: Mapping[str, int] | None = None,
) -> tuple[Manifest, tuple[CheckpointEntry, ...]]:
    """Return the manifest with ``entry`` as its newest, and the entries that it does not hold any more.

    Args:
        keep: how many intact entries to keep, 1 or more.
        rejected: urls found damaged when this replica was restored. They go, although newer than what was restored: the
            state went on from the older one, and they must never be fallen back to. An entry with a log stays while an
            older one needs that log to come to the present.
        log_sizes: url -> how many bytes of its log count, as far as known here.
    """
    assert keep >= 1
    assert all((old.epoch, old.sequence) < (entry.epoch, entry.sequence) for old in manifest.entries)
    if entry.log:
        older = _leading_on(manifest.entries, keep - 1, rejected, log_sizes or {})
    else:
        older = tuple(old for old in manifest.entries if old.url not in rejected)[: keep - 1]
    kept = (entry, *older)
    urls = {old.url for old in kept}
    return Manifest(entries=kept), tuple(old for old in manifest.entries if old.url not in urls)


def _leading_on(
    entries: tuple[CheckpointEntry, ...], keep: int, rejected: Collection[str], log_sizes: Mapping[str, int]
) -> tuple[CheckpointEntry, ...]:
    """Return ``keep`` intact ones of ``entries`` from which logs of known size lead on, with all between them."""
    kept: list[CheckpointEntry] = []
    useful = intact = 0
    for old in entries:
        size = old.log_size if old.log_size >= 0 else log_sizes.get(old.url, -1)
        if intact >= keep or not old.log or size < 0:
            break
        kept.append(msgspec.structs.replace(old, log_size=size))
        if old.url not in rejected:
            intact += 1
            useful = len(kept)
    return tuple(kept[:useful])
