"""What the page shows of one microservice, of the servers and of what happened: pure, from documents.

Owns the shape of the page's data. Leaves when it is sent to ``board`` and drawing it to the page.
Invariants: a row is made of the root's record and all group documents; the same documents give the same bytes.
Failure behaviour: none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from amino.contracts.documents import GroupDocument, MicroserviceRecord, Phase
from amino.contracts.services import EventInfo, KernelStatistics, Membership
from amino.ids import slot_of
from amino.oms.group_machine import state_of

_encode = msgspec.json.Encoder(enc_hook=repr).encode
_SHARDS = "shards"
_REPLICATED = "replicated"


class ReplicaRow(msgspec.Struct, frozen=True, omit_defaults=True):
    """One replica. ``role``: ``only``, ``primary``, ``in-sync``, ``joining``, ``starting`` or ``arriving``."""

    id: str
    server: str
    role: str


class GroupRow(msgspec.Struct, frozen=True, omit_defaults=True):
    """One group. ``leaving``: the replica that a move under way takes from its server."""

    path: str
    state: str
    epoch: int
    replicas: tuple[ReplicaRow, ...] = ()
    kind: str = ""
    leaving: str = ""
    wanted: int = 1


class Row(msgspec.Struct, frozen=True, omit_defaults=True):
    """One microservice. ``state``: of its root, or of the shard that is worst off."""

    id: str
    name: str
    cls: str
    state: str
    groups: tuple[GroupRow, ...]
    dms: tuple[str, ...] = ()
    application: str = ""
    created: float = 0.0
    slot: int = 0
    labels: dict[str, str] = {}


_WORST_FIRST = (
    Phase.LOST,
    Phase.QUARANTINED,
    "recovering",
    Phase.CREATING,
    Phase.DELETING,
    "changing",
    "moving",
    Phase.ACTIVE,
)


def row_of(ms_id: str, record: MicroserviceRecord, groups: Mapping[str, GroupDocument]) -> bytes:
    """Return a microservice's row as JSON."""
    rows = tuple(_group(path, document) for path, document in sorted(groups.items()))
    states = {group.state for group in rows}
    spec = record.spec
    return _encode(
        Row(
            id=ms_id,
            name=spec.name,
            cls=spec.cls,
            state=next((state for state in _WORST_FIRST if state in states), rows[0].state if rows else ""),
            groups=rows,
            dms=tuple(dm.name for dm in spec.dms),
            application=spec.application,
            created=record.created_at,
            slot=slot_of(ms_id),
            labels=spec.labels,
        )
    )


def _group(path: str, document: GroupDocument) -> GroupRow:
    replicas = [ReplicaRow(one.id, one.server, role_of(document, one.id)) for one in document.replicas]
    leaving = ""
    if document.move is not None:
        leaving = document.move.source
        if all(one.id != document.move.target.id for one in document.replicas):
            replicas.append(ReplicaRow(document.move.target.id, document.move.target.server, "arriving"))
    return GroupRow(
        path=path,
        state=state_of(document),
        epoch=document.epoch,
        replicas=tuple(replicas),
        kind=document.kind,
        leaving=leaving,
        wanted=document.wanted,
    )


def role_of(document: GroupDocument, replica: str) -> str:
    """Return what a replica is in its group."""
    found = next((one for one in document.replicas if one.id == replica), None)
    if document.kind == _REPLICATED:
        if replica == document.primary:
            return "primary"
        return "in-sync" if replica in document.in_sync else "joining"
    return "only" if found is not None and found.confirmed else "starting"


def servers_of(membership: Membership) -> bytes:
    """Return the servers as JSON."""
    servers = [
        {
            "name": one.record.name,
            "incarnation": one.incarnation,
            "address": one.record.address,
            "labels": one.record.labels,
            "cordoned": one.cordoned,
            "replicas": one.replicas,
            "slots": one.slots,
            "capacity": one.record.capacity,
            "device": one.record.device,
            "version": one.record.version,
            "started": one.record.started_at,
            "pid": one.record.pid,
        }
        for one in membership.servers
    ]
    return _encode({"servers": servers, "paused": membership.paused, "cluster": membership.cluster})


def events_of(events: tuple[EventInfo, ...]) -> bytes:
    """Return what happened as JSON, oldest first."""
    return _encode([msgspec.structs.asdict(event) for event in events])


def figures_of(statistics: tuple[KernelStatistics, ...], at: float) -> bytes:
    """Return servers' figures as JSON. ``at``: monotonic seconds, to make rates of counters."""
    return _encode({"at": at, "servers": {one.server: msgspec.structs.asdict(one) for one in statistics}})


def plain(data: Any) -> bytes:
    """Return any answer as JSON."""
    return _encode(data)


def joined(rows: list[bytes]) -> bytes:
    """Return rows that are JSON already as a JSON list."""
    return b"[" + b",".join(rows) + b"]"
