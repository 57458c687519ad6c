"""Guarded writes of a slot leader: each is one transaction that proves what it was decided on.

Owns the compares of every write to records, names and groups. Leaves deciding to ``group_machine`` and ``leader``.
Invariants: every write compares the slot key (create revision) and the document's revision; placing compares the
target's ``servers/`` key; what is done because a server is lost also compares that its incarnation is gone.
Failure behaviour: ``Conflict`` when a compare failed (nothing was written), ``CoordinationUnavailable`` when the
outcome is unknown: then only ``settle``, a later successful write to the same document, tells.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from amino.contracts.documents import GroupDocument, MicroserviceRecord, ReplicaDocument, decode, encode
from amino.coordination.keys import Keys
from amino.coordination.store import (
    Compare,
    Delete,
    Field,
    Operation,
    Put,
    Record,
    Store,
    absent,
    created_at,
    not_created_at,
    unchanged,
)
from amino.errors import Conflict, NotExecuted
from amino.ids import ROOT, slot_of
from amino.oms.directory import Directory, Found
from amino.oms.ports import SlotGuards, Writer


class Writes:
    """Writes under the slots that this server leads.

    Args:
        store: for reads.
        writer: runs the transactions, combined where it can.
        guards: proof of leadership.
    """

    def __init__(self, store: Store, writer: Writer, keys: Keys, directory: Directory, guards: SlotGuards) -> None:
        self._store = store
        self._writer = writer
        self._keys = keys
        self._directory = directory
        self._guards = guards

    def guard(self, ms_id: str) -> Compare:
        """Return the proof that this server leads the microservice's slot; raises ``NotExecuted`` if it does not."""
        slot = slot_of(ms_id)
        try:
            return self._guards.guard(slot)
        except Conflict as error:
            raise NotExecuted(
                f"this server does not lead slot {slot}; ask again", reason="not-ready", slot=slot
            ) from error

    def leader_revision(self, ms_id: str) -> int:
        """Return the create revision of our slot key, for fences."""
        return int(self.guard(ms_id).expected)

    async def begin(self, ms_id: str, record: MicroserviceRecord, document: GroupDocument) -> int | None:
        """Write record, name and first document, if id and name are free; returns the revision, None if they are not."""
        slot = slot_of(ms_id)
        replica = document.replicas[0]
        group_key = self._keys.group(slot, ms_id, ROOT)
        compares = [
            self.guard(ms_id),
            created_at(self._keys.server(replica.server), replica.incarnation),
            absent(self._keys.microservice(slot, ms_id)),
            absent(group_key),
        ]
        puts = [Put(self._keys.microservice(slot, ms_id), encode(record)), Put(group_key, encode(document))]
        if record.spec.name:
            compares.append(absent(self._keys.name(record.spec.name)))
            puts.append(Put(self._keys.name(record.spec.name), ms_id.encode()))
        result = await self._writer.write(compares, puts)
        if not result.succeeded:
            return None
        self._directory.learn(ms_id, ROOT, document, result.revision)
        return result.revision

    async def replace(
        self,
        ms_id: str,
        path: str,
        found: Found,
        document: GroupDocument,
        *,
        placing: ReplicaDocument | None = None,
        lost: ReplicaDocument | None = None,
        orphan: bool = False,
    ) -> Found:
        """Write ``document`` over ``found``.

        Args:
            placing: the replica that is being given to a server.
            lost: the replica whose server's incarnation must be gone.
            orphan: whether the microservice's record must not exist.

        Raises:
            Conflict: the document changed, the target is gone, the lost server is not lost after all, or the slot is no
                longer ours.
        """
        key = self._keys.group(slot_of(ms_id), ms_id, path)
        compares = [self.guard(ms_id), unchanged(key, found.revision)]
        if placing is not None:
            compares.append(created_at(self._keys.server(placing.server), placing.incarnation))
        if lost is not None and (placing is None or placing.server != lost.server):
            compares.append(not_created_at(self._keys.server(lost.server), lost.incarnation))
        if orphan:
            compares.append(absent(self._keys.microservice(slot_of(ms_id), ms_id)))
        result = await self._writer.write(compares, [Put(key, encode(document))])
        if not result.succeeded:
            raise Conflict(f"group {path} of {ms_id} is not what was decided on any more; decide again")
        self._directory.learn(ms_id, path, document, result.revision)
        return Found(document, result.revision)

    async def read(self, ms_id: str, path: str = ROOT) -> Found | None:
        """Read a group's document from etcd."""
        key = self._keys.group(slot_of(ms_id), ms_id, path)
        record = await self._store.get(key)
        if record is None:
            return None
        found = Found(decode(record.value, GroupDocument, key), record.mod_revision)
        self._directory.learn(ms_id, path, *found)
        return found

    async def settle(self, ms_id: str, path: str = ROOT) -> Found | None:
        """After a write of unknown outcome: make sure, by a write, that it has landed or never will.

        Returns:
            The document as it is now, None if it is gone (which no late write of ours can undo: each needs it there).
        """
        while True:
            found = await self.read(ms_id, path)
            if found is None:
                return None
            document = msgspec.structs.replace(found.document, version=found.document.version + 1)
            try:
                return await self.replace(ms_id, path, found, document)
            except Conflict:
                await self.check_leadership(ms_id)

    async def check_leadership(self, ms_id: str) -> int:
        """Return the store's revision; raise ``NotExecuted`` (not ready) unless etcd confirms that we lead the slot."""
        result = await self._store.txn([self.guard(ms_id)], [Delete(self._keys.nothing)])
        if not result.succeeded:
            raise NotExecuted(
                f"slot {slot_of(ms_id)} has another leader by now; ask again", reason="not-ready", slot=slot_of(ms_id)
            )
        return result.revision

    async def purge(self, ms_id: str, found: Found, record: MicroserviceRecord | None) -> None:
        """Delete everything kept for a microservice, in one transaction.

        Raises:
            Conflict: the document changed meanwhile.
        """
        slot = slot_of(ms_id)
        compares: list[Compare] = [
            self.guard(ms_id),
            unchanged(self._keys.group(slot, ms_id, ROOT), found.revision),
        ]
        deletes: list[Operation] = [
            Delete(self._keys.microservice(slot, ms_id)),
            Delete(self._keys.groups_of(slot, ms_id), prefix=True),
            Delete(self._keys.manifests_of(ms_id), prefix=True),
        ]
        name = record.spec.name if record is not None else ""
        if name:
            holder = await self._store.get(self._keys.name(name))
            if holder is not None and holder.value == ms_id.encode():
                compares.append(Compare(self._keys.name(name), Field.VALUE, ms_id.encode()))
                deletes.append(Delete(self._keys.name(name)))
        result = await self._writer.write(compares, deletes)
        if not result.succeeded:
            raise Conflict(f"{ms_id} changed while it was being deleted; decide again")
        self._directory.learn(ms_id, ROOT, None, result.revision)

    async def who_holds(self, ms_id: str, name: str) -> tuple[Record | None, str | None]:
        """Return the record kept under ``ms_id`` and the id that has ``name``, None where there is none."""
        record = await self._store.get(self._keys.microservice(slot_of(ms_id), ms_id))
        holder = await self._store.get(self._keys.name(name)) if name else None
        return record, holder.value.decode() if holder is not None else None

    async def delete_if(self, compares: Sequence[Compare], keys: Sequence[str]) -> bool:
        """Delete ``keys`` if ``compares`` hold; returns whether it was done."""
        result = await self._writer.write(compares, [Delete(key) for key in keys])
        return result.succeeded
