"""What a replica's machine knows and obeys: the group's document as it sees it, its options, its rules.

Owns their shape. Leaves reading and writing documents to the adapter.
Invariants: values never change; every id in ``in_sync`` and ``primary`` is one of ``replicas``.
Failure behaviour: options out of range, and documents that contradict themselves, raise ``Invalid``.
"""

from __future__ import annotations

from dataclasses import dataclass

from amino.dm.replication.messages import Member
from amino.errors import Invalid


@dataclass(frozen=True, slots=True)
class View:
    """The part of the group's document that replication is about.

    Args:
        epoch: fencing token, +1 at each change of primary.
        revision: of the document in etcd (its key's mod revision).
        replicas: all that are listed, joiners included.
        primary: id of the one that orders operations; empty if there is none.
        in_sync: ids of those that must acknowledge.
    """

    epoch: int
    revision: int
    replicas: tuple[Member, ...]
    primary: str
    in_sync: tuple[str, ...]

    def __post_init__(self) -> None:
        ids = {member.id for member in self.replicas}
        if not {self.primary, *self.in_sync} - {""} <= ids or (self.primary and self.primary not in self.in_sync):
            raise Invalid(
                f"group document: primary {self.primary!r} and in-sync {self.in_sync} must be of {sorted(ids)}"
            )

    def member(self, replica: str) -> Member | None:
        """Return the identity under which ``replica`` is listed."""
        return next((member for member in self.replicas if member.id == replica), None)


@dataclass(frozen=True, slots=True)
class Options:
    """How a group replicates. Times in seconds.

    Args:
        min_in_sync: fewest members of the in-sync set with which writes are accepted (1 to 9).
        append_timeout_s: after which an uncommitted call ends as unknown; half of it makes a member silent.
        read_lease_s: how long an acknowledged heartbeat lets the primary serve reads.
        snapshot_every: how many of the last committed entries are kept for replicas that return.
        log_bytes_max: of payload, for all entries kept.
    """

    min_in_sync: int = 2
    append_timeout_s: float = 0.5
    read_lease_s: float = 0.5
    snapshot_every: int = 10_000
    log_bytes_max: int = 64 * 1024 * 1024

    def __post_init__(self) -> None:
        if not 1 <= self.min_in_sync <= 9:
            raise Invalid(f"min_in_sync {self.min_in_sync}: use 1 to 9")
        if min(self.append_timeout_s, self.read_lease_s) <= 0:
            raise Invalid("append_timeout_s and read_lease_s must be more than 0 s")
        if self.snapshot_every < 1 or self.log_bytes_max < 1:
            raise Invalid("snapshot_every and log_bytes_max must be at least 1")


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules whose absence loses data, each by name; tests switch one off to see that it is missed.

    Args:
        caught_up_first: a joiner has everything committed before the edit that adds it is sent.
        union: while an edit is unsettled, members of the old and of the new set must acknowledge.
        unknown_may_land: an edit whose outcome is unknown stays unsettled until the document is seen to have changed.
        identity: a message, a heartbeat or a listing is a replica's only under the incarnation of the document.
        suffix_first: a new primary serves only after all in-sync replicas have its log and it has executed it.
        lease_to_read: reads need heartbeats acknowledged by every in-sync server.
        lease_waited: a new primary waits out what its server acknowledged to earlier primaries.
        list_is_no_proof: only a tombstone, never a list of servers, proves an earlier primary dead.
    """

    caught_up_first: bool = True
    union: bool = True
    unknown_may_land: bool = True
    identity: bool = True
    suffix_first: bool = True
    lease_to_read: bool = True
    lease_waited: bool = True
    list_is_no_proof: bool = True


ALL_RULES = Rules()
