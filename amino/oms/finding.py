"""Listing and describing microservices, servers and slots.

Owns the rows and texts that people see. Leaves locations to ``locating``.
Invariants: answers are bounded (``FIND_MAX`` rows); rows come in order of id.
Failure behaviour: what vanishes while it is being listed is left out.
"""

from __future__ import annotations

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
from amino.coordination.store import Store
from amino.errors import Invalid, NotFound
from amino.ids import ROOT, SLOT_COUNT, slot_of
from amino.oms.directory import Directory, Found
from amino.oms.group_machine import state_of
from amino.oms.placement import requirement_holds
from amino.oms.records import Records

FIND_MAX = 1000
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
        limit = min(request.limit, FIND_MAX)
        ids = [ms_id for ms_id in self._directory.ids() if ms_id > request.after]
        rows: list[MicroserviceInfo] = []
        for start in range(0, len(ids), CHUNK):
            chunk = {
                ms_id: found.document for ms_id in ids[start : start + CHUNK] if (found := self._directory.group(ms_id))
            }
            chunk = {ms_id: document for ms_id, document in chunk.items() if self._document_fits(request, document)}
            records = await self._records.get_many(list(chunk))
            for ms_id, document in chunk.items():
                record = records.get(ms_id)
                if record is None or not _record_fits(request, record):
                    continue
                if len(rows) == limit:
                    return FindReply(tuple(rows), more=True)
                rows.append(_row(ms_id, record, document))
        return FindReply(tuple(rows))

    async def describe(self, ms_id: str, found: Found | None) -> Description:
        """See ``Registry.describe``; ``found`` is its group, None if there is none."""
        record = await self._records.get(ms_id)
        if record is None or found is None:
            raise NotFound(f"there is no microservice {ms_id}", microservice=ms_id)
        document = found.document
        slot = slot_of(ms_id)
        lines = [f"replica {replica}: {why}" for replica, why in document.explanation.items()]
        lines += [f"{server} is not eligible: {reason}" for server, reason in sorted(document.ineligible.items())]
        lines += [f"{count} processes in a row died in {method}" for method, count in sorted(document.deaths.items())]
        if document.reason:
            lines.append(document.reason)
        return Description(
            id=ms_id,
            record=record,
            groups={ROOT: document},
            slot=slot,
            slot_leader=self._directory.leader(slot) or "",
            state=state_of(document),
            explanation=tuple(lines),
            checkpoints=await self._checkpoints(ms_id),
        )

    def members(self) -> Membership:
        """See ``Registry.members``."""
        directory = self._directory
        led = directory.slots_led()
        places = {server.record.name: place for place, server in enumerate(directory.servers())}
        return Membership(
            leaders=tuple(places.get(directory.leader(slot) or "", -1) for slot in range(SLOT_COUNT)),
            revision=max(directory.servers_cache.revision, directory.slots_cache.revision),
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

    def _document_fits(self, request: FindRequest, document: GroupDocument) -> bool:
        servers = {replica.server for replica in document.replicas}
        if request.server and request.server not in servers:
            return False
        if request.state and request.state != state_of(document):
            return False
        if not request.region:
            return True
        regions = {server.record.labels.get("region") for name in servers if (server := self._directory.server(name))}
        return request.region in regions

    async def _checkpoints(self, ms_id: str) -> tuple[dict[str, str | int | float], ...]:
        records, _ = await self._store.list(self._keys.manifests_of(ms_id))
        rows: list[dict[str, str | int | float]] = []
        for record in records:
            _, path = self._keys.parse_manifest(record.key)
            rows += [
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
        return tuple(rows)


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
