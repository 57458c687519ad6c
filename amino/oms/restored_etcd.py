"""An etcd that was restored from a backup is older than the checkpoint store: what has to go from it before anything runs.

Owns that. Leaves bringing back what the store holds to ``rebuilding``, for which it makes room.
Invariants: nothing is touched while a server runs; what the store has checkpoints of leaves etcd, so that it comes back from the
newest of them and not from those that the backup knew; every other epoch, token and decision counts higher than before.
Failure behaviour: ``Conflict`` while servers run; may be repeated at any point.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection

import msgspec

from amino.aio.clock import Clock
from amino.contracts.documents import ClusterDocument, GroupDocument, MicroserviceRecord, Phase, decode, encode
from amino.coordination.keys import Keys
from amino.coordination.store import Delete, Operation, Put, Store, unchanged
from amino.errors import Conflict
from amino.ids import ROOT, slot_of
from amino.oms.ports import Chains
from amino.oms.rebuild_machine import above

GONE = (
    "the store has no checkpoint of it: it was deleted after the backup of etcd was taken, or the store has lost them; "
    "`amino delete` it, or bring the files back"
)


class RestoredEtcd:
    """Makes a restored etcd fit to go on with.

    Args:
        look_s: for how long beats are watched, to see whether a server runs.
    """

    def __init__(self, store: Store, keys: Keys, chains: Chains, clock: Clock, *, look_s: float) -> None:
        self._store = store
        self._keys = keys
        self._chains = chains
        self._clock = clock
        self._look_s = look_s

    def __repr__(self) -> str:
        return f"RestoredEtcd({self._keys!r})"

    async def make_room(self, stored: Collection[str], floor: int) -> None:
        """Remove what concerns servers of before and microservices in ``stored``; lift the epochs of all others above ``floor``.

        Raises:
            Conflict: a server runs.
        """
        await self._check_silence()
        await self._begin_anew()
        groups, _ = await self._store.list(self._keys.groups_prefix)
        for record in groups:
            owned = self._keys.parse_group(record.key)
            if owned.id in stored:
                if owned.path == ROOT:
                    await self._remove(owned.id)
                continue
            document = decode(record.value, GroupDocument, record.key)
            lifted = await self._lifted(owned.id, document, floor)
            await self._store.txn([unchanged(record.key, record.mod_revision)], [Put(record.key, encode(lifted))])

    async def _check_silence(self) -> None:
        before, _ = await self._store.list(self._keys.beats_prefix)
        await asyncio.sleep(self._look_s)
        after, _ = await self._store.list(self._keys.beats_prefix)
        known = {record.key: record.mod_revision for record in before}
        running = [self._keys.parse_beat(one.key) for one in after if known.get(one.key) != one.mod_revision]
        if running:
            raise Conflict(f"servers run: {', '.join(sorted(running))}; stop them all, run this, then start them")

    async def _begin_anew(self) -> None:
        """End all sessions of before, and count higher from now on."""
        keys = self._keys
        while True:
            found = await self._store.get(keys.cluster)
            document = decode(found.value, ClusterDocument, keys.cluster) if found is not None else ClusterDocument()
            since = max(int(self._clock.wall() * 1e6), document.counts_from + 1)
            fresh = msgspec.structs.replace(document, counts_from=since)
            sessions: list[Operation] = [
                Delete(prefix, prefix=True) for prefix in (keys.servers_prefix, keys.slots_prefix, keys.beats_prefix)
            ]
            revision = found.mod_revision if found is not None else 0
            write = [Put(keys.cluster, encode(fresh)), *sessions]
            if (await self._store.txn([unchanged(keys.cluster, revision)], write)).succeeded:
                return

    async def _remove(self, ms_id: str) -> None:
        keys, slot = self._keys, slot_of(ms_id)
        operations: list[Operation] = [
            Delete(keys.microservice(slot, ms_id)),
            Delete(keys.groups_of(slot, ms_id), prefix=True),
            Delete(keys.manifests_of(ms_id), prefix=True),
        ]
        record = await self._store.get(keys.microservice(slot, ms_id))
        name = decode(record.value, MicroserviceRecord, record.key).spec.name if record is not None else ""
        holder = await self._store.get(keys.name(name)) if name else None
        if holder is not None and holder.value == ms_id.encode():
            operations.append(Delete(holder.key))
        await self._store.txn([], operations)

    async def _lifted(self, ms_id: str, document: GroupDocument, floor: int) -> GroupDocument:
        """Return a group's document without its replicas, all of which are gone, at an epoch above all it can have had."""
        lifted = msgspec.structs.replace(
            document,
            epoch=above([document.epoch], floor),
            version=document.version + 1,
            replicas=(),
            primary="",
            in_sync=(),
            move=None,
            leftovers=(),
            changing=False,
            report="",
        )
        record = await self._store.get(self._keys.microservice(slot_of(ms_id), ms_id))
        if record is None or document.phase != Phase.ACTIVE:
            return lifted
        spec = decode(record.value, MicroserviceRecord, record.key).spec
        if self._chains.recovers_from_checkpoint(spec) and spec.on_loss == "fail":
            return msgspec.structs.replace(lifted, phase=Phase.LOST, reason=GONE)
        return lifted
