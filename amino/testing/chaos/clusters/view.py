"""A cluster as etcd and its servers show it, looked at from outside.

Owns reading: who lives and leads, where replicas are, what is not whole yet, how large everything is. Leaves judging to ``judges``
and waiting for what to the runner.
Invariants: reads only, except the maintenance that is asked for by name; ways that faults cut are not used.
Failure behaviour: what does not answer is said in words (``unrest``) or as figures that are missing; maintenance raises ``OSError``.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import psutil

from amino.aio.mode import offload
from amino.contracts.documents import EventRecord, GroupDocument, Manifest, Phase, ServerRecord, decode
from amino.coordination.election import decode_slot
from amino.coordination.etcd import EtcdStore
from amino.coordination.keys import Keys
from amino.errors import AminoError, CoordinationUnavailable
from amino.ids import slot_of
from amino.testing.chaos.clusters.port import Part

if TYPE_CHECKING:
    from amino.testing.chaos.clusters.port import Cluster

_HTTP_S = 3.0
_LOOK_EVERY_S = 0.05
_BLOCK_BYTES = 1 << 20
FILLING = "/chaos-filling/"


@dataclass(frozen=True, slots=True)
class MemberStatus:
    """What one member of etcd says of itself; ``size_bytes`` are those in use, not those of its file."""

    index: int
    leads: bool
    size_bytes: int
    revision: int
    errors: tuple[str, ...] = ()


class ClusterView:
    """Looks at a cluster; made on a running loop, an async context manager.

    Args:
        endpoints: ``host:port`` of etcd's members. name: of the cluster.
    """

    def __init__(self, endpoints: list[str], name: str = "amino") -> None:
        self.endpoints = list(endpoints)
        self.name = name
        self.keys = Keys(name)
        self._store: EtcdStore | None = None

    async def __aenter__(self) -> Self:
        self._store = await EtcdStore.open(self.endpoints)
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._store is not None:
            await self._store.aclose()
            self._store = None

    @property
    def store(self) -> EtcdStore:
        """The coordination store, for watching."""
        assert self._store is not None, "use it as a context manager"
        return self._store

    # --- documents ---

    async def groups(self) -> dict[tuple[str, str], GroupDocument]:
        """Return all group documents by microservice and path."""
        records, _ = await self.store.list(self.keys.groups_prefix)
        found = {}
        for record in records:
            owned = self.keys.parse_group(record.key)
            found[owned.id, owned.path] = decode(record.value, GroupDocument, record.key)
        return found

    async def servers(self) -> dict[str, tuple[int, ServerRecord]]:
        """Return incarnation and record of every server that lives."""
        records, _ = await self.store.list(self.keys.servers_prefix)
        return {
            self.keys.parse_server(record.key): (record.create_revision, decode(record.value, ServerRecord, record.key))
            for record in records
        }

    async def leaders(self) -> dict[int, str]:
        """Return the leader of each slot."""
        records, _ = await self.store.list(self.keys.slots_prefix)
        return {self.keys.parse_slot(record.key): decode_slot(record).server for record in records}

    async def checkpoints(self) -> dict[tuple[str, str], Manifest]:
        """Return what every group has in the checkpoint store, by microservice and path."""
        found = {}
        for ms_id, path in await self.groups():
            record = await self.store.get(self.keys.manifest(ms_id, path))
            if record is not None:
                found[ms_id, path] = decode(record.value, Manifest, record.key)
        return found

    async def history(self) -> list[EventRecord]:
        """Return the cluster's bounded history, oldest first."""
        records, _ = await self.store.list(self.keys.events_prefix)
        return [decode(record.value, EventRecord, record.key) for record in records]

    async def names(self) -> dict[str, str]:
        """Return the ids of microservices by name."""
        records, _ = await self.store.list(self.keys.names_prefix)
        return {self.keys.parse_name(record.key): record.value.decode() for record in records}

    async def primary(self, among: Collection[str]) -> str:
        """Return who of ``among`` has most primaries (of groups with one replica: that replica); empty if nobody has any."""
        count: Counter[str] = Counter()
        for document in (await self.groups()).values():
            for replica in document.replicas:
                leads = replica.id == document.primary or len(document.replicas) == 1
                if leads and replica.server in among:
                    count[replica.server] += 1
        return max(sorted(count), key=lambda name: count[name], default="")

    async def coordinator(self) -> str:
        """Return the server that leads most slots that have a microservice, or most of all while there is none; or empty."""
        leaders = await self.leaders()
        used = [slot_of(ms_id) for ms_id, _ in await self.groups()]
        count = Counter(leaders[slot] for slot in used or leaders if slot in leaders)
        return max(sorted(count), key=lambda name: count[name], default="")

    async def unrest(self, servers: int, devices: int = 0) -> list[str]:
        """Return what is not at rest yet: servers, devices and leaders that are missing, groups that are not whole."""
        try:
            records = await self.servers()
            groups, leaders = await self.groups(), await self.leaders()
        except AminoError as error:
            return [f"etcd does not answer: {error}"]
        wrong = []
        live = {name: incarnation for name, (incarnation, _) in records.items()}
        carried = {name for name, (_, record) in records.items() if record.device}
        for there, wanted, what in ((live.keys() - carried, servers, "servers"), (carried, devices, "devices")):
            if len(there) < wanted:
                wrong.append(f"{len(there)} of {wanted} {what} live: {', '.join(sorted(there))}")
        wrong += [f"slot {slot} has no leader" for slot in {slot_of(one) for one, _ in groups} - set(leaders)]
        for (ms_id, path), document in groups.items():
            broken = _not_whole(document, live, len(carried))
            if broken:
                wrong.append(f"{ms_id}{path}: {broken}")
        return wrong

    async def await_rest(self, servers: int, timeout_s: float, devices: int = 0) -> list[str]:
        """Wait until nothing is wrong (see ``unrest``) or the time is up; returns what still is."""
        end = time.monotonic() + timeout_s
        while (wrong := await self.unrest(servers, devices)) and time.monotonic() < end:  # noqa: ASYNC110 - nobody announces it
            await asyncio.sleep(_LOOK_EVERY_S)
        return wrong

    # --- etcd's own ---

    async def _ask(self, endpoint: str, path: str, body: dict[str, Any], timeout_s: float = _HTTP_S) -> dict[str, Any]:
        def ask() -> dict[str, Any]:
            request = urllib.request.Request(f"http://{endpoint}/v3/{path}", json.dumps(body).encode())
            with urllib.request.urlopen(request, timeout=timeout_s) as answer:  # noqa: S310 - as above
                found: dict[str, Any] = json.load(answer)
                return found

        return await asyncio.to_thread(ask)

    async def _any(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        problem: OSError | None = None
        for endpoint in self.endpoints:
            try:
                return await self._ask(endpoint, path, body)
            except OSError as error:
                problem = error
        raise CoordinationUnavailable(f"no member of etcd answers {path}: {problem}") from problem

    async def member(self, index: int, timeout_s: float = 1.0) -> MemberStatus | None:
        """Return what a member says of itself, None if it does not answer in time."""
        try:
            status = await self._ask(self.endpoints[index], "maintenance/status", {}, timeout_s)
        except OSError:
            return None
        header = status["header"]
        leads = status.get("leader") == header["member_id"]
        return MemberStatus(
            index,
            leads,
            int(status.get("dbSizeInUse", 0)),
            int(header.get("revision", 0)),
            tuple(status.get("errors", ())),
        )

    async def leader(self) -> int:
        """Return the index of the member of etcd that leads.

        Raises:
            CoordinationUnavailable: nobody says so.
        """
        for index in range(len(self.endpoints)):
            status = await self.member(index)
            if status is not None and status.leads:
                return index
        raise CoordinationUnavailable("no member of etcd leads")

    async def compact(self) -> int:
        """Compact etcd's history up to now; returns the revision."""
        status = [await self.member(index) for index in range(len(self.endpoints))]
        revision = max(one.revision for one in status if one is not None)
        await self._any("kv/compaction", {"revision": revision, "physical": True})
        return revision

    async def is_compacted(self, revision: int) -> bool:
        """Whether etcd refuses to show what it held at ``revision``."""
        try:
            await self._any("kv/range", {"key": _encoded(self.keys.root), "revision": revision})
        except CoordinationUnavailable as error:
            return isinstance(error.__cause__, urllib.error.HTTPError)
        return False

    async def fill(self, most_bytes: int = 1 << 30) -> int:
        """Fill etcd, beside the cluster's keys, until it refuses to take more; returns how many bytes were written."""
        written = 0
        block = _encoded("x" * _BLOCK_BYTES)
        while written < most_bytes:
            try:
                await self._any("kv/put", {"key": _encoded(f"{FILLING}{written}"), "value": block})
            except CoordinationUnavailable as error:
                if isinstance(error.__cause__, urllib.error.HTTPError):
                    return written
                raise
            written += _BLOCK_BYTES
        return written

    async def empty(self) -> None:
        """Remove what ``fill`` wrote, give back its room, and take back the alarm."""
        end = FILLING[:-1] + chr(ord(FILLING[-1]) + 1)
        await self._any("kv/deleterange", {"key": _encoded(FILLING), "range_end": _encoded(end)})
        await self.compact()
        for index in range(len(self.endpoints)):
            await self.defragment(index)
        for one in (await self._any("maintenance/alarm", {"action": "GET"})).get("alarms", ()):
            await self._any("maintenance/alarm", {"action": "DEACTIVATE", **one})

    async def defragment(self, index: int) -> None:
        """Defragment one member, which answers nobody meanwhile."""
        await self._ask(self.endpoints[index], "maintenance/defragment", {}, 30.0)

    async def alarms(self) -> list[str]:
        """Return the alarms that are raised."""
        found = await self._any("maintenance/alarm", {"action": "GET"})
        return [str(one.get("alarm", "")) for one in found.get("alarms", ())]

    async def count_keys(self, prefix: str = "") -> int:
        """Return how many keys there are below ``prefix``, by default the cluster's."""
        root = prefix or self.keys.root
        end = root[:-1] + chr(ord(root[-1]) + 1)
        body = {"key": _encoded(root), "range_end": _encoded(end), "count_only": True}
        return int((await self._any("kv/range", body)).get("count", 0))

    # --- how large everything is ---

    async def figures(self, cluster: Cluster) -> dict[str, float]:
        """Return sizes now: of etcd, and of each server that has a kernel process; what does not answer is left out."""
        found: dict[str, float] = {}
        with contextlib.suppress(AminoError, OSError):
            found["etcd events"] = events = await self.count_keys(self.keys.events_prefix)
            found["etcd keys"] = await self.count_keys() - events
        sizes = [await self.member(index) for index in range(len(self.endpoints))]
        known = [one.size_bytes for one in sizes if one is not None]
        if known:
            found["etcd bytes"] = max(known)
        with contextlib.suppress(AminoError):
            hosted = dict.fromkeys(cluster.servers, 0)
            for document in (await self.groups()).values():
                for replica in document.replicas:
                    hosted[replica.server] = hosted.get(replica.server, 0) + 1
            found.update({f"{name} objects": count for name, count in hosted.items()})
        return found | await offload(_of_processes, cluster)


def _of_processes(cluster: Cluster) -> dict[str, float]:
    """Return sizes of kernel processes; may wait: Docker answers nobody while it starts a container."""
    found: dict[str, float] = {}
    for name in cluster.servers:
        with contextlib.suppress(psutil.Error, OSError):
            pid = cluster.pid(name, Part.KERNEL)
            process = psutil.Process(pid) if pid else None
            if process is not None and process.status() != psutil.STATUS_ZOMBIE:
                found[f"{name} memory bytes"] = process.memory_info().rss
                found[f"{name} descriptors"] = process.num_fds()
                found[f"{name} threads"] = process.num_threads()
    return found


def _encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _not_whole(document: GroupDocument, live: dict[str, int], devices: int) -> str:
    """Return why a group is not at rest, empty if it is. Pure.

    Args:
        live: incarnation of each server and device. devices: how many of these are devices.
    """
    if document.phase != Phase.ACTIVE:
        return f"{document.phase} {document.reason}".rstrip()
    if document.move is not None or document.leftovers or document.changing:
        return "it is being moved or changed"
    if document.kind == "shards":
        return ""
    there = [one for one in document.replicas if one.confirmed and live.get(one.server) == one.incarnation]
    places = max(devices, document.min_in_sync) if document.devices else len(live) - devices
    if len(there) < len(document.replicas) or len(there) < min(document.wanted, places, len(live)):
        absent = ", ".join(
            f"{one.id} on {one.server}@{one.incarnation}{'' if one.confirmed else ' not confirmed'}"
            f"{'' if live.get(one.server) == one.incarnation else ', which is gone'}"
            for one in document.replicas
            if one not in there
        )
        count = f"{len(there)} of {max(document.wanted, len(document.replicas))} replicas are there"
        return f"{count}; {absent}" if absent else count
    if document.kind == "replicated" and len(document.in_sync) < len(there):
        return f"{len(document.in_sync)} of {len(there)} replicas are in sync"
    return ""
