"""Listing and describing microservices, servers and slots.

Owns the rows and texts that people see. Leaves locations to ``locating``.
Invariants: answers are bounded (``FIND_MAX`` rows); rows come in order of id.
Failure behaviour: what vanishes while it is being listed is left out.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from amino.contracts.documents import GroupDocument, Manifest, MicroserviceRecord, decode
from amino.contracts.services import (
    Description,
    FindReply,
    FindRequest,
    Membership,
    MicroserviceInfo,
    ServerInfo,
    SlotInfo,
    SlotList,
)
from amino.coordination.keys import Keys
from amino.coordination.store import OPERATIONS_MAX, Get, Record, Store
from amino.errors import Invalid, NotFound
from amino.ids import ROOT, SLOT_COUNT, slot_of
from amino.oms.directory import Directory
from amino.oms.group_machine import state_of
from amino.oms.placement import requirement_holds
from amino.oms.records import Records

FIND_MAX = 1000
DESCRIBE_MAX = 200
CHUNK = 200


class Finder:
    """Answers questions about the cluster from the caches, with records read where needed."""

    def __init__(self, store: Store, keys: Keys, directory: Directory, records: Records) -> None:
        self._store = store
        self._keys = keys
        self._directory = directory
        self._records = records

    async def find(self, request: FindRequest) -> FindReply:
        """See ``Registry.find``."""
        if request.limit < 1:
            raise Invalid(f"limit={request.limit}; ask for 1 to {FIND_MAX} rows")
        limit = min(request.limit, DESCRIBE_MAX if request.describe else FIND_MAX)
        ids = [ms_id for ms_id in self._directory.ids() if ms_id > request.after]
        rows: list[MicroserviceInfo] = []
        fitting: dict[str, tuple[MicroserviceRecord, GroupDocument]] = {}
        for start in range(0, len(ids), CHUNK):
            chunk = {
                ms_id: found.document for ms_id in ids[start : start + CHUNK] if (found := self._directory.group(ms_id))
            }
            chunk = {
                ms_id: document for ms_id, document in chunk.items() if self._document_fits(request, ms_id, document)
            }
            records = await self._records.get_many({ms_id: document.generation for ms_id, document in chunk.items()})
            for ms_id, document in chunk.items():
                record = records.get(ms_id)
                if record is None or not _record_fits(request, record):
                    continue
                if len(rows) == limit:
                    return FindReply(tuple(rows), more=True, described=await self._described(request, fitting))
                rows.append(_row(ms_id, record, document))
                fitting[ms_id] = record, document
        return FindReply(tuple(rows), described=await self._described(request, fitting))

    async def _described(
        self, request: FindRequest, fitting: dict[str, tuple[MicroserviceRecord, GroupDocument]]
    ) -> tuple[Description, ...]:
        """Return what ``describe`` says of each, with few reads for all together."""
        if not request.describe:
            return ()
        checkpoints = await self._checkpoints_of(fitting)
        return tuple(
            self._description(
                ms_id,
                msgspec.structs.replace(record, arguments=b""),
                {path: found.document for path, found in self._directory.groups(ms_id).items()} | {ROOT: document},
                checkpoints[ms_id],
            )
            for ms_id, (record, document) in fitting.items()
        )

    async def describe(self, ms_id: str) -> Description:
        """See ``Registry.describe``; read from etcd, so that what was just changed shows."""
        written, _ = await self._store.list(self._keys.groups_of(slot_of(ms_id), ms_id))
        groups = {self._keys.parse_group(one.key).path: decode(one.value, GroupDocument, one.key) for one in written}
        document = groups.get(ROOT)
        record = await self._records.get(ms_id, document.generation) if document is not None else None
        if document is None or record is None:
            raise NotFound(f"there is no microservice {ms_id}", microservice=ms_id)
        manifests, _ = await self._store.list(self._keys.manifests_of(ms_id))
        checkpoints = tuple(row for manifest in manifests for row in self._entries(manifest))
        return self._description(ms_id, record, groups, checkpoints)

    def _description(
        self,
        ms_id: str,
        record: MicroserviceRecord,
        groups: dict[str, GroupDocument],
        checkpoints: tuple[dict[str, str | int | float], ...],
    ) -> Description:
        slot, document = slot_of(ms_id), groups[ROOT]
        lines = [f"replica {replica}: {why}" for replica, why in document.explanation.items()]
        lines += [f"{server} is not eligible: {reason}" for server, reason in sorted(document.ineligible.items())]
        lines += [f"{count} processes in a row died in {method}" for method, count in sorted(document.deaths.items())]
        if document.reason:
            lines.append(document.reason)
        return Description(
            id=ms_id,
            record=record,
            groups=groups,
            slot=slot,
            slot_leader=self._directory.leader(slot) or "",
            state=state_of(document),
            explanation=tuple(lines),
            checkpoints=checkpoints,
        )

    def members(self) -> Membership:
        """See ``Registry.members``."""
        directory = self._directory
        led = directory.slots_led()
        places = {server.record.name: place for place, server in enumerate(directory.servers())}
        return Membership(
            leaders=tuple(places.get(directory.leader(slot) or "", -1) for slot in range(SLOT_COUNT)),
            revision=directory.cluster.counts_from
            + max(directory.servers_cache.revision, directory.slots_cache.revision),
            servers=tuple(
                ServerInfo(
                    record=server.record,
                    incarnation=server.incarnation,
                    cordoned=directory.cluster.cordoned.get(server.record.name, ""),
                    replicas=len(directory.hosted(server.record.name, server.incarnation)),
                    slots=led[server.record.name],
                )
                for server in directory.servers()
            ),
            cluster=self._keys.cluster_name,
            paused=directory.cluster.paused,
        )

    def slots(self) -> SlotList:
        """See ``Registry.slots``."""
        counts = [0] * SLOT_COUNT
        for ms_id in self._directory.ids():
            counts[slot_of(ms_id)] += 1
        return SlotList(
            tuple(SlotInfo(slot, self._directory.leader(slot) or "", counts[slot]) for slot in range(SLOT_COUNT))
        )

    def _document_fits(self, request: FindRequest, ms_id: str, document: GroupDocument) -> bool:
        below = [
            found.document for path in self._directory.paths(ms_id) if (found := self._directory.group(ms_id, path))
        ]
        servers = {replica.server for each in (document, *below) for replica in each.replicas}
        if request.server and request.server not in servers:
            return False
        if request.state and request.state != state_of(document):
            return False
        if not request.region:
            return True
        regions = {server.record.labels.get("region") for name in servers if (server := self._directory.server(name))}
        return request.region in regions

    async def _checkpoints_of(self, ids: Iterable[str]) -> dict[str, tuple[dict[str, str | int | float], ...]]:
        """Return what each has of checkpoints: the manifests of their groups, some hundred with each read."""
        found: dict[str, tuple[dict[str, str | int | float], ...]] = dict.fromkeys(ids, ())
        keys = [self._keys.manifest(ms_id, path) for ms_id in found for path in (ROOT, *self._directory.paths(ms_id))]
        for start in range(0, len(keys), OPERATIONS_MAX):
            result = await self._store.txn([], [Get(key) for key in keys[start : start + OPERATIONS_MAX]])
            for record in (one for read in result.reads for one in read):
                ms_id, _ = self._keys.parse_manifest(record.key)
                found[ms_id] += tuple(self._entries(record))
        return found

    def _entries(self, record: Record) -> list[dict[str, str | int | float]]:
        _, path = self._keys.parse_manifest(record.key)
        return [
            {
                "path": path,
                "epoch": entry.epoch,
                "sequence": entry.sequence,
                "url": entry.url,
                "size": entry.size,
                "taken_at": entry.taken_at,
            }
            for entry in decode(record.value, Manifest, record.key).entries
        ]


def _record_fits(request: FindRequest, record: MicroserviceRecord) -> bool:
    spec = record.spec
    return (
        (not request.cls or request.cls in (spec.cls, spec.cls.rpartition(":")[2]))
        and spec.name.startswith(request.name_prefix)
        and (not request.application or spec.application == request.application)
        and all(requirement_holds(requirement, spec.labels) for requirement in request.label)
    )


def _row(ms_id: str, record: MicroserviceRecord, document: GroupDocument) -> MicroserviceInfo:
    spec = record.spec
    return MicroserviceInfo(
        id=ms_id,
        name=spec.name,
        cls=spec.cls,
        state=state_of(document),
        epoch=document.epoch,
        servers=tuple(replica.server for replica in document.replicas),
        dms=tuple(dm.name for dm in spec.dms),
        labels=spec.labels,
        application=spec.application,
        created_at=record.created_at,
        slot=slot_of(ms_id),
    )
