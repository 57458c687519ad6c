"""Guarded writes of a slot leader: each is one transaction that proves what it was decided on.

Owns the compares of every write to records, names and groups. Leaves deciding to ``group_machine`` and ``leader``.
Invariants: every write compares the slot key (create revision) and the document's revision; placing compares the
target's ``servers/`` key, and that no cordon is new to us; what is done because a server is lost also compares that its
incarnation is gone.
Failure behaviour: ``Conflict`` when a compare failed (nothing was written), ``CoordinationUnavailable`` when the
outcome is unknown: then only ``settle``, a later successful write to the same document, tells.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from amino.contracts.documents import GroupDocument, MicroserviceRecord, ReplicaDocument, decode, encode
from amino.contracts.formats import is_later
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
from amino.errors import AminoError, Conflict, Invalid, NotExecuted
from amino.ids import ROOT, slot_of
from amino.oms.directory import Directory, Found
from amino.oms.ports import SlotGuards, Writer


def of_later_release(error: Invalid) -> AminoError:
    """Return what a caller is told of a document that cannot be read here: another server is asked if that may help."""
    return NotExecuted(str(error), reason="older-release") if is_later(error) else error


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

    def _placing(self, replica: ReplicaDocument) -> list[Compare]:
        """Return the proof that a replica may go to its server: it lives, and no cordon was set that we do not know."""
        return [
            created_at(self._keys.server(replica.server), replica.incarnation),
            unchanged(self._keys.cluster, self._directory.cluster_revision()),
        ]

    async def hear_of_cordons(self) -> bool:
        """After a placement was refused: learn of cordons that we had not heard of; returns whether there were any."""
        record = await self._store.get(self._keys.cluster)
        if record is None or record.mod_revision <= self._directory.cluster_revision():
            return False
        await self._directory.hear_of_cluster(record.mod_revision)
        return True

    def leader_revision(self, ms_id: str) -> int:
        """Return the create revision of our slot key, for fences."""
        return int(self.guard(ms_id).expected)

    async def begin(self, ms_id: str, record: MicroserviceRecord, document: GroupDocument) -> int | None:
        """Write record, name and first document, if id and name are free; returns the revision, None if they are not."""
        result = await self._writer.write(*self.beginning(ms_id, record, document))
        if not result.succeeded:
            return None
        self._directory.learn(ms_id, ROOT, document, result.revision)
        return result.revision

    def beginning(
        self, ms_id: str, record: MicroserviceRecord, document: GroupDocument
    ) -> tuple[list[Compare], list[Put]]:
        """Return the compares and the writes that begin a microservice."""
        slot = slot_of(ms_id)
        group_key = self._keys.group(slot, ms_id, ROOT)
        compares = [
            self.guard(ms_id),
            *(compare for one in document.replicas for compare in self._placing(one)),
            absent(self._keys.microservice(slot, ms_id)),
            absent(group_key),
        ]
        puts = [Put(self._keys.microservice(slot, ms_id), encode(record)), Put(group_key, encode(document))]
        if record.spec.name:
            compares.append(absent(self._keys.name(record.spec.name)))
            puts.append(Put(self._keys.name(record.spec.name), ms_id.encode()))
        return compares, puts

    async def begin_child(self, ms_id: str, root: Found, path: str, document: GroupDocument) -> Found:
        """Write the first document of a group below the root, while the root is ``root``.

        Raises:
            Conflict: the root changed, the group exists, or the server is gone.
        """
        slot = slot_of(ms_id)
        replica = document.replicas[0]
        key = self._keys.group(slot, ms_id, path)
        compares = [
            self.guard(ms_id),
            unchanged(self._keys.group(slot, ms_id, ROOT), root.revision),
            *self._placing(replica),
            absent(key),
        ]
        result = await self._writer.write(compares, [Put(key, encode(document))])
        if not result.succeeded:
            await self.read(ms_id, path)
            raise Conflict(f"group {path} of {ms_id} cannot be made on what was decided on any more; decide again")
        self._directory.learn(ms_id, path, document, result.revision)
        return Found(document, result.revision)

    async def remove_child(self, ms_id: str, root: Found, path: str, found: Found) -> None:
        """Delete a group below the root, with its manifest. Raises ``Conflict`` if either changed."""
        slot = slot_of(ms_id)
        key = self._keys.group(slot, ms_id, path)
        compares = [
            self.guard(ms_id),
            unchanged(self._keys.group(slot, ms_id, ROOT), root.revision),
            unchanged(key, found.revision),
        ]
        result = await self._writer.write(compares, [Delete(key), Delete(self._keys.manifest(ms_id, path))])
        if not result.succeeded:
            raise Conflict(f"group {path} of {ms_id} changed while it was being removed; decide again")
        self._directory.learn(ms_id, path, None, result.revision)

    async def replace(
        self,
        ms_id: str,
        path: str,
        found: Found,
        document: GroupDocument,
        *,
        placing: ReplicaDocument | None = None,
        lost: ReplicaDocument | None = None,
        gone: Sequence[ReplicaDocument] = (),
        orphan: bool = False,
        record: MicroserviceRecord | None = None,
    ) -> Found:
        """Write ``document`` over ``found``.

        Args:
            placing: the replica that is being given to a server.
            lost: the replica whose server's incarnation must be gone. gone: others of which the same must hold.
            orphan: whether the microservice's record must not exist. record: to be written with it.

        Raises:
            Conflict: the document changed, the target is gone, the lost server is not lost after all, or the slot is no
                longer ours.
        """
        key = self._keys.group(slot_of(ms_id), ms_id, path)
        compares = [self.guard(ms_id), unchanged(key, found.revision)]
        if placing is not None:
            compares += self._placing(placing)
        compares += [
            not_created_at(self._keys.server(one.server), one.incarnation)
            for one in (*((lost,) if lost is not None else ()), *gone)
            if placing is None or placing.server != one.server
        ]
        if orphan:
            compares.append(absent(self._keys.microservice(slot_of(ms_id), ms_id)))
        puts = [Put(key, encode(document))]
        if record is not None:
            puts.append(Put(self._keys.microservice(slot_of(ms_id), ms_id), encode(record)))
        result = await self._writer.write(compares, puts)
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
        try:
            found = Found(decode(record.value, GroupDocument, key), record.mod_revision)
        except Invalid as error:
            raise of_later_release(error) from error
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
        for path in (*self._directory.paths(ms_id), ROOT):
            self._directory.learn(ms_id, path, None, result.revision)

    async def who_holds(self, ms_id: str, name: str) -> tuple[Record | None, str | None]:
        """Return the record kept under ``ms_id`` and the id that has ``name``, None where there is none."""
        record = await self._store.get(self._keys.microservice(slot_of(ms_id), ms_id))
        holder = await self._store.get(self._keys.name(name)) if name else None
        return record, holder.value.decode() if holder is not None else None

    async def delete_if(self, compares: Sequence[Compare], keys: Sequence[str]) -> bool:
        """Delete ``keys`` if ``compares`` hold; returns whether it was done."""
        result = await self._writer.write(compares, [Delete(key) for key in keys])
        return result.succeeded
