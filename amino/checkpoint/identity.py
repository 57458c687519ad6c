"""Which store this is, and whether another server sees the same one.

Owns the marker that identifies a store and the markers by which servers prove that they share it. Leaves what follows
for placement to the OMS.
Invariants: a store's identity is written once, by whoever is first; a copy of a store lacks the markers of runs that
began after the copying.
Failure behaviour: ``StoreFailed`` of kind ``not-shared`` when no server that should be visible is, ``broken`` when a
marker is not one of ours.
"""

from __future__ import annotations

import contextlib
import re
import secrets
from collections.abc import Iterable

from amino.checkpoint import names
from amino.checkpoint.store import CheckpointStore
from amino.contracts.documents import ServerRecord
from amino.errors import AlreadyExists, StoreFailed

_IDENTITY = re.compile(rb"amino-store 1 ([0-9a-f]{32})\n")


def identify(store: CheckpointStore) -> str:
    """Return the store's identity (32 hexadecimal digits), giving it one if it has none. Blocks.

    Raises:
        StoreFailed: the store cannot be used, or its marker was damaged.
    """
    content = store.read(names.IDENTITY)
    if content is None:
        with contextlib.suppress(AlreadyExists):  # another server was first
            store.write(names.IDENTITY, [b"amino-store 1 " + secrets.token_hex(16).encode() + b"\n"])
        content = store.read(names.IDENTITY)
    found = _IDENTITY.fullmatch(content or b"")
    if found is None:
        raise StoreFailed(
            f"{names.IDENTITY} in {store.url} does not identify a store ({content!r:.60}); "
            "restore it from a backup, or remove it when the store holds nothing of value",
            kind="broken",
        )
    return found[1].decode()


def run_of(record: ServerRecord) -> str:
    """Return what tells this run of a server from its other runs; known to all from its record."""
    return f"{record.pid}-{record.started_at:.6f}"


def mark(store: CheckpointStore, record: ServerRecord) -> None:
    """Leave this run's marker for others to find; before they can hear of the run. Idempotent. Blocks."""
    with contextlib.suppress(AlreadyExists):
        store.write(names.member(record.name, run_of(record)), [record.name.encode()])


def announce(store: CheckpointStore, record: ServerRecord) -> None:
    """As ``mark``, and remove the markers of earlier runs: the server's name is ours now. Idempotent. Blocks."""
    mark(store, record)
    mine = names.member(record.name, run_of(record))
    for file in store.list(names.members_of(record.name)):
        if file.key != mine:
            store.delete(file.key)


def prove_shared(store: CheckpointStore, store_id: str, others: Iterable[ServerRecord]) -> None:
    """Return if this store is the one that ``others``, live servers, see. Blocks.

    Reading the marker of one of them proves it. Servers whose record names another store do not count.

    Raises:
        StoreFailed: others name this very store but none of their markers is here: it is a copy, or not shared.
    """
    missing = []
    for other in others:
        if other.store_id != store_id:
            continue
        if store.exists(names.member(other.name, run_of(other))):
            return
        missing.append(other.name)
    if missing:
        raise StoreFailed(
            f"{store.url} has the identity {store_id} but none of the markers of {', '.join(sorted(missing))}, which "
            "name the same store: it is a copy or a stale mount; mount the very store that they use",
            kind="not-shared",
        )
