"""Ending sessions of others: of incarnations proven dead, and of those that have fallen silent.

Owns the transactions that do it. Leaves when to do it to who has proof: the witness of a death, ``silence``.
Invariants: one transaction removes the server's key, its beat and the slots it leads, each only if it still is what it was;
a tombstone is written only together with, or after, the end of the incarnation's keys.
Failure behaviour: ``CoordinationUnavailable`` where etcd does not answer: nothing or all was done; repeating is safe.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from amino.aio.clock import Clock
from amino.coordination.keys import Keys
from amino.coordination.store import (
    Compare,
    Delete,
    Operation,
    Put,
    Record,
    Store,
    created_at,
    not_created_at,
    unchanged,
)
from amino.errors import CoordinationUnavailable

END_TIMEOUT_S = 10.0
_RETRY_S = 0.1
_ATTEMPTS_MAX = 50


async def prove_dead(
    store: Store,
    keys: Keys,
    name: str,
    incarnation: int,
    suspects: bytes = b"",
    *,
    clock: Clock,
    timeout_s: float = END_TIMEOUT_S,
) -> int:
    """Record that an incarnation is dead; call it only when nothing of it can act any more. Repeating is safe.

    One transaction deletes ``servers/<name>`` with its beat and the slot keys of its lease, each only if it still is what
    it was, and puts the tombstone with ``suspects`` as value. If the server's key is already gone: the tombstone only.

    Returns:
        The lease of the incarnation, to be revoked; 0 if its key was gone.

    Raises:
        CoordinationUnavailable: not settled within ``timeout_s`` seconds.
    """
    deadline = clock.monotonic() + timeout_s
    server, tombstone = keys.server(name), Put(keys.tombstone(name, incarnation), suspects)
    for _ in range(_ATTEMPTS_MAX):
        try:
            record = await store.get(server)
            if record is None or record.create_revision != incarnation:
                if (await store.txn([not_created_at(server, incarnation)], [tombstone])).succeeded:
                    return 0
                continue
            if await _remove(store, keys, name, record, [], [tombstone]):
                return record.lease
        except CoordinationUnavailable:
            if clock.monotonic() + _RETRY_S >= deadline:
                raise
            await asyncio.sleep(_RETRY_S)
    raise CoordinationUnavailable(f"server {name}: its slots kept changing while incarnation {incarnation} was ended")


async def end_silent(store: Store, keys: Keys, name: str, revision: int, judge: Sequence[Compare] = ()) -> bool:
    """End the session of ``name`` unless it has beaten since its beat of ``revision``; the caller has waited out its TTL.

    No tombstone is put: its process may live, but has lost its session.

    Args:
        judge: what must hold besides: that who judges is itself a member.

    Returns:
        Whether the session has been ended; False: it has beaten, was ended by somebody else, or its slots changed.

    Raises:
        CoordinationUnavailable: no answer; repeating is safe.
    """
    record, beat = await store.get(keys.server(name)), await store.get(keys.beat(name))
    if record is None or beat is None or beat.mod_revision != revision or beat.lease != record.lease:
        return False
    if not await _remove(store, keys, name, record, [unchanged(beat.key, revision), *judge], []):
        return False
    if record.lease:
        await store.revoke(record.lease)
    return True


async def _remove(
    store: Store, keys: Keys, name: str, record: Record, compares: Sequence[Compare], puts: Sequence[Operation]
) -> bool:
    slots = [one for one in (await store.list(keys.slots_prefix))[0] if one.lease == record.lease != 0]
    result = await store.txn(
        [
            created_at(record.key, record.create_revision),
            *(created_at(one.key, one.create_revision) for one in slots),
            *compares,
        ],
        [Delete(record.key), Delete(keys.beat(name)), *(Delete(one.key) for one in slots), *puts],
    )
    return result.succeeded
