"""The coordination store port: what Amino asks of etcd, and nothing more.

Owns the promises both adapters (``etcd.EtcdStore`` and ``memory.MemoryStore``) keep. Leaves keys to ``keys``.
Invariants: a transaction is atomic and linearizable; revisions grow by one per writing transaction.
Failure behaviour: ``CoordinationUnavailable`` when no answer came in time; a write may still land later, so every write
that matters is guarded by compares (a put that timed out can land over a newer value).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from enum import Enum
from typing import Protocol

import msgspec

OPERATIONS_MAX = 128  # etcd's default limit for one transaction, compares and operations counted separately


class Record(msgspec.Struct, frozen=True, gc=False):
    """One key with its value and revisions, as read at some store revision."""

    key: str
    value: bytes
    create_revision: int
    mod_revision: int
    lease: int = 0


class Field(Enum):
    """What a compare looks at."""

    CREATE = "create_revision"
    MOD = "mod_revision"
    VALUE = "value"

    __hash__ = object.__hash__  # compares are hashed often, and the hash of an enum is written in Python


class Compare(msgspec.Struct, frozen=True, gc=False):
    """Holds when ``field`` of ``key`` equals ``expected``. An absent key has revisions 0 (and no value)."""

    key: str
    field: Field
    expected: int | bytes


def absent(key: str) -> Compare:
    """Holds when the key does not exist."""
    return Compare(key, Field.CREATE, 0)


def created_at(key: str, revision: int) -> Compare:
    """Holds when the key is the same creation as seen at ``revision``, however often it was changed since."""
    return Compare(key, Field.CREATE, revision)


def unchanged(key: str, revision: int) -> Compare:
    """Holds when nobody changed the key since ``revision`` (0: when it does not exist)."""
    return Compare(key, Field.MOD, revision)


class NotCreatedAt(Compare, frozen=True, gc=False):
    """Holds when the key is absent or another creation than ``revision``: its former holder is gone.

    Written as a compare of its own, because etcd offers "not equal".
    """


def not_created_at(key: str, revision: int) -> NotCreatedAt:
    """Holds when ``key`` is not (any more) the creation seen at ``revision``."""
    return NotCreatedAt(key, Field.CREATE, revision)


class Put(msgspec.Struct, frozen=True, gc=False):
    """Write ``value``; with a lease the key goes when the lease does."""

    key: str
    value: bytes
    lease: int = 0


class Delete(msgspec.Struct, frozen=True, gc=False):
    """Remove a key (or all that start with it). Removing what does not exist is no error."""

    key: str
    prefix: bool = False


class Get(msgspec.Struct, frozen=True, gc=False):
    """Read a key (or all that start with it) as part of a transaction."""

    key: str
    prefix: bool = False


Operation = Put | Delete | Get


class TxnResult(msgspec.Struct, frozen=True):
    """What a transaction did.

    Args:
        succeeded: whether all compares held, so that ``then`` was done, else ``otherwise``.
        revision: the store's revision after it.
        reads: the records of each ``Get`` of the branch that was done, in order.
    """

    succeeded: bool
    revision: int
    reads: tuple[tuple[Record, ...], ...] = ()


class EventKind(Enum):
    """What happened to a key."""

    PUT = "put"
    DELETE = "delete"


class Event(msgspec.Struct, frozen=True):
    """One change; a DELETE has an empty value, and ``mod_revision`` is the revision of the deletion."""

    kind: EventKind
    record: Record


class WatchBatch(msgspec.Struct, frozen=True):
    """Events of a watch up to and including ``revision``, in order; a batch without events reports progress."""

    events: tuple[Event, ...]
    revision: int


class Compacted(Exception):
    """The watch's start revision has been compacted away; list again from ``revision``."""

    def __init__(self, revision: int) -> None:
        super().__init__(f"compacted up to revision {revision}")
        self.revision = revision


class Store(Protocol):
    """The port. All methods may be called concurrently, on the loop that opened the store.

    Cancelling a call abandons the wait: a write may still land.
    """

    async def get(self, key: str) -> Record | None:
        """Read one key, linearizably."""
        ...

    async def list(self, prefix: str) -> tuple[list[Record], int]:
        """Read all keys with ``prefix`` at one revision, in key order; pages internally.

        Returns:
            The records, and the revision at which all of them were read.
        """
        ...

    async def txn(
        self, compares: Sequence[Compare], then: Sequence[Operation], otherwise: Sequence[Operation] = ()
    ) -> TxnResult:
        """Do ``then`` if all compares hold, else ``otherwise``, atomically. At most ``OPERATIONS_MAX`` of each.

        A transaction whose branches only read (or are empty) takes etcd's read path, which in 3.4 can be stale after
        a pause: decide ownership only by one that writes (deleting a key that never exists is enough).

        Raises:
            CoordinationUnavailable: no answer in time; whether it was done is unknown.
            Invalid: more operations than allowed, or a key written twice.
            Conflict: a lease named in a ``Put`` does not exist; nothing was done.
        """
        ...

    async def grant(self, ttl_s: int) -> int:
        """Create a lease of ``ttl_s`` seconds (2 or more) and return its id."""
        ...

    async def keep_alive(self, lease: int) -> int:
        """Renew the lease once; returns its remaining seconds, 0 if it does not exist.

        The answer alone proves nothing: etcd 3.4 can answer OK for a revoked lease.
        """
        ...

    async def revoke(self, lease: int) -> None:
        """End the lease and delete its keys. Revoking what does not exist is no error."""
        ...

    def watch(self, prefix: str, start_revision: int) -> AsyncIterator[WatchBatch]:
        """Stream changes of keys with ``prefix`` from ``start_revision`` on, resuming across lost connections.

        Never delivers an event twice or out of order; progress batches come at least every few seconds from a live
        store. Close the iterator (``aclose``) to stop.

        Raises:
            Compacted: ``start_revision`` is no longer available (also when found out while resuming).
        """
        ...

    async def aclose(self) -> None:
        """Wait for calls under way, then disconnect. Idempotent."""
        ...
