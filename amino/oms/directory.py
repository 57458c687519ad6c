"""What this server knows of the cluster, in memory: live servers, slot leaders, groups, and where replicas are.

Owns the watched caches and the index from an incarnation to the groups it holds. Leaves records of microservices to
``records`` and acting on changes to its listeners.
Invariants: a group is never shown older than this server's own last write to it; the index agrees with the documents
shown.
Failure behaviour: while etcd is away the caches stand still; a document that cannot be read is logged and left out.
"""

from __future__ import annotations

import asyncio
import logging
import random as random_module
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

from amino.aio.clock import Clock
from amino.contracts.documents import ClusterDocument, GroupDocument, ServerRecord, decode
from amino.coordination.election import SlotRecord, decode_slot
from amino.coordination.keys import Keys
from amino.coordination.store import Record, Store
from amino.coordination.watch import WatchedCache
from amino.errors import Invalid
from amino.ids import ROOT, SLOT_COUNT, slot_of
from amino.oms.group_machine import everywhere
from amino.oms.placement import Candidate

_log = logging.getLogger("amino.oms")
DEPARTED_MAX = 256
OWN_MAX = 1024
SAME_HOSTS_MAX = 4096

Host = tuple[str, int]
"""A server and its incarnation."""


class Found(NamedTuple):
    """A group document and the revision it was written at."""

    document: GroupDocument
    revision: int


@dataclass(frozen=True, slots=True)
class LiveServer:
    """A live server with its incarnation."""

    record: ServerRecord
    incarnation: int


class Directory:
    """The caches of one server. All methods run on the loop that called ``start``.

    Args:
        store: the coordination store.
        keys: names of its keys.
        clock: for the caches.
        random: for their jitter.
    """

    def __init__(self, store: Store, keys: Keys, clock: Clock, random: random_module.Random | None = None) -> None:
        self._store = store
        self._keys = keys
        self.servers_cache: WatchedCache[ServerRecord] = WatchedCache(
            store, keys.servers_prefix, self._server_changed, clock=clock, random=random
        )
        self.slots_cache: WatchedCache[SlotRecord] = WatchedCache(
            store, keys.slots_prefix, self._slot_changed, clock=clock, decode=decode_slot, random=random
        )
        self._groups: WatchedCache[GroupDocument] = WatchedCache(
            store, keys.groups_prefix, self._group_changed, clock=clock, random=random
        )
        self._cluster: WatchedCache[ClusterDocument] = WatchedCache(
            store, keys.cluster, self._cluster_changed, clock=clock, random=random
        )
        self._servers: dict[str, LiveServer] = {}
        self.live: dict[str, int] = {}
        self.departed: OrderedDict[Host, ServerRecord] = OrderedDict()
        self.led_before: dict[int, Host] = {}
        self.cluster = ClusterDocument()
        self._hosts: dict[str, tuple[Host, ...]] = {}
        self._paths: dict[str, set[str]] = {}
        self._choosy: dict[str, None] = {}
        self._same_hosts: dict[tuple[Host, ...], tuple[Host, ...]] = {}
        self._newest: tuple[Record | None, Found | None] = (None, None)
        self._by_host: dict[Host, set[str]] = {}
        self._own: dict[str, tuple[GroupDocument | None, int]] = {}
        self._pending: Counter[str] = Counter()
        self._pulses: dict[str, dict[asyncio.Event, None]] = {}
        self._on_group: list[Callable[[str, str], None]] = []
        self._on_loss: list[Callable[[str, int], None]] = []
        self._on_members: list[Callable[[], None]] = []

    def __repr__(self) -> str:
        return f"Directory({len(self._servers)} servers, {len(self._groups)} groups)"

    async def start(self) -> None:
        """List and watch everything.

        Raises:
            CoordinationUnavailable: etcd did not answer; close it and try again with a new one.
        """
        await asyncio.gather(*(cache.start() for cache in self._caches()))

    async def aclose(self) -> None:
        """Stop watching. Idempotent."""
        await asyncio.gather(*(cache.aclose() for cache in self._caches()))

    def _caches(self) -> tuple[WatchedCache[Any], ...]:
        return (self.servers_cache, self.slots_cache, self._groups, self._cluster)

    # --- listeners --------------------------------------------------------------------------------------------------

    def on_group(self, callback: Callable[[str, str], None]) -> None:
        """Call ``callback(ms_id, path)`` whenever a group document changed."""
        self._on_group.append(callback)

    def on_loss(self, callback: Callable[[str, int], None]) -> None:
        """Call ``callback(server, incarnation)`` whenever an incarnation is gone."""
        self._on_loss.append(callback)

    def on_members(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call ``callback()`` whenever servers, cordons or the pause changed; returns what ends that."""
        self._on_members.append(callback)
        return lambda: self._on_members.remove(callback) if callback in self._on_members else None

    @contextmanager
    def pulse(self, *topics: str) -> Iterator[asyncio.Event]:
        """Yield an event, set on the next change of a topic: an id, ``server:NAME``, ``slot:N`` or ``members``."""
        event = asyncio.Event()
        for topic in topics:
            self._pulses.setdefault(topic, {})[event] = None
        try:
            yield event
        finally:
            for topic in topics:
                waiting = self._pulses[topic]
                waiting.pop(event, None)
                if not waiting:
                    del self._pulses[topic]

    def _beat(self, topic: str) -> None:
        for event in self._pulses.get(topic, ()):
            event.set()

    # --- servers and slots ------------------------------------------------------------------------------------------

    def server(self, name: str) -> LiveServer | None:
        """Return the live server of that name."""
        return self._servers.get(name)

    async def find_server(self, name: str, timeout_s: float = 1.0) -> LiveServer | None:
        """Return the live server of that name, also if it came so lately that the watch has not told of it yet.

        Raises:
            CoordinationUnavailable: this server does not know it, and etcd does not answer.
        """
        if name not in self._servers and (record := await self._store.get(self._keys.server(name))) is not None:
            with suppress(TimeoutError):
                await self.servers_cache.wait_revision(record.mod_revision, timeout_s)
        return self._servers.get(name)

    async def hear_of_servers(self, timeout_s: float = 1.0) -> bool:
        """Learn of servers that came so lately that the watch has not told of them yet; returns whether there were any.

        Raises:
            CoordinationUnavailable: etcd does not answer.
        """
        records, _ = await self._store.list(self._keys.servers_prefix)
        new = [each.mod_revision for each in records if each.mod_revision > self.servers_cache.revision]
        if not new:
            return False
        with suppress(TimeoutError):
            await self.servers_cache.wait_revision(max(new), timeout_s)
        return True

    def servers(self) -> list[LiveServer]:
        """Return all live servers, by name."""
        return [self._servers[name] for name in sorted(self._servers)]

    def lives(self, name: str, incarnation: int) -> bool:
        """Return whether that incarnation is the server's present one, as far as this server has heard."""
        return self.live.get(name) == incarnation

    def leader(self, slot: int) -> str | None:
        """Return the name of the server that leads a slot, None while nobody does."""
        try:
            record = self.slots_cache.decoded(self._keys.slot(slot))
        except Invalid as error:
            _log.error("%s", error)
            return None
        return record.server if record is not None else None

    def slots_led(self) -> Counter[str]:
        """Return how many slots each server leads."""
        leaders = (self.leader(slot) for slot in range(SLOT_COUNT))
        return Counter(leader for leader in leaders if leader is not None)

    def candidates(self) -> list[Candidate]:
        """Return the live servers as placement sees them, with choices under way counted."""
        return [
            Candidate(
                name=name,
                incarnation=server.incarnation,
                labels=server.record.labels,
                replicas=len(self._by_host.get((name, server.incarnation), ())) + self._pending[name],
                capacity=server.record.capacity,
                device=server.record.device,
                store_id=server.record.store_id,
                cordoned=self.cluster.cordoned.get(name, ""),
                format_read=server.record.format_read,
            )
            for name, server in self._servers.items()
        ]

    def regions(self) -> dict[str, str]:
        """Return the regions of the servers that have one and may take replicas."""
        return {
            name: server.record.labels["region"]
            for name, server in self._servers.items()
            if "region" in server.record.labels and not server.record.device and name not in self.cluster.cordoned
        }

    def devices(self) -> dict[str, bool]:
        """Return the live devices, and of each whether it may take replicas."""
        return {
            name: name not in self.cluster.cordoned for name, server in self._servers.items() if server.record.device
        }

    def cluster_revision(self) -> int:
        """Return at which revision the cluster document was written that placement goes by, 0 if there is none."""
        record = self._cluster.get(self._keys.cluster)
        return record.mod_revision if record is not None else 0

    async def hear_of_cluster(self, revision: int, timeout_s: float = 1.0) -> None:
        """Wait until the cluster document of ``revision`` is known here, for ``timeout_s`` seconds at most."""
        with suppress(TimeoutError):
            await self._cluster.wait_revision(revision, timeout_s)

    @contextmanager
    def reserve(self, name: str) -> Iterator[None]:
        """Count one more replica for a server while its placement is being written."""
        self._pending[name] += 1
        try:
            yield
        finally:
            self._pending[name] -= 1
            if not self._pending[name]:
                del self._pending[name]

    # --- groups -----------------------------------------------------------------------------------------------------

    def group(self, ms_id: str, path: str = ROOT) -> Found | None:
        """Return a group's document, None if there is none as far as this server has heard."""
        key = self._keys.group(slot_of(ms_id), ms_id, path)
        record = self._groups.get(key)
        own = self._own.get(key)
        if own is not None and (record is None or own[1] > record.mod_revision):
            document, revision = own
            return Found(document, revision) if document is not None else None
        if record is None:
            return None
        if record is not self._newest[0]:
            if key not in self._hosts:  # it could not be read
                return None
            self._newest = (record, Found(decode(record.value, GroupDocument, key), record.mod_revision))
        return self._newest[1]

    def revision(self, ms_id: str, path: str = ROOT) -> int:
        """Return the revision of what ``group`` returns, 0 if that is nothing. From any thread; never waits."""
        key = self._keys.group(slot_of(ms_id), ms_id, path)
        record, own = self._groups.get(key), self._own.get(key)
        return max(record.mod_revision if record is not None else 0, own[1] if own is not None else 0)

    async def compare(self, ms_id: str, path: str = ROOT) -> None:
        """Compare what is known of a group with etcd; if the watch has lost an event, all groups are listed anew soon.

        Raises:
            CoordinationUnavailable: etcd does not answer.
        """
        key = self._keys.group(slot_of(ms_id), ms_id, path)
        record = await self._store.get(key)
        known = self._groups.get(key)
        revision = record.mod_revision if record is not None else 0
        if revision != (known.mod_revision if known is not None else 0) and revision <= self._groups.revision:
            self._groups.relist_soon()

    def ids(self, slot: int | None = None) -> list[str]:
        """Return the ids of all microservices (of one slot), in order."""
        prefix = self._keys.groups_prefix if slot is None else self._keys.groups_of_slot(slot)
        return sorted({self._keys.parse_group(key).id for key in self._hosts if key.startswith(prefix)})

    def paths(self, ms_id: str) -> list[str]:
        """Return the paths of the groups below a microservice's root, in order."""
        return sorted(self._paths.get(ms_id, ()))

    def groups(self, ms_id: str) -> dict[str, Found]:
        """Return all groups of a microservice, by path."""
        found = ((path, self.group(ms_id, path)) for path in (ROOT, *self.paths(ms_id)))
        return {path: one for path, one in found if one is not None}

    def hosted_groups(self, name: str, incarnation: int) -> list[tuple[str, str]]:
        """Return id and path of the groups of which that incarnation may hold a replica."""
        owned = (self._keys.parse_group(key) for key in self._by_host.get((name, incarnation), ()))
        return sorted((one.id, one.path) for one in owned)

    def hosted(self, name: str, incarnation: int) -> list[str]:
        """Return the ids of microservices of which that incarnation may hold a replica."""
        return sorted({self._keys.parse_group(key).id for key in self._by_host.get((name, incarnation), ())})

    def hosts(self) -> set[Host]:
        """Return every incarnation that some document refers to."""
        return set(self._by_host)

    def learn(self, ms_id: str, path: str, document: GroupDocument | None, revision: int) -> None:
        """Take over this server's own successful write, before the watch reports it."""
        key = self._keys.group(slot_of(ms_id), ms_id, path)
        if self._groups.revision >= revision:  # this also tells what was deleted since; a missing record could not
            return
        own = self._own.get(key)
        if own is not None and own[1] >= revision:
            return
        self._own[key] = (document, revision)
        if len(self._own) > OWN_MAX:
            seen = self._groups.revision
            self._own = {key: own for key, own in self._own.items() if own[1] > seen}
        self._index(key, document)
        self._tell(ms_id, path)

    def choosy(self) -> list[str]:
        """Return the ids of microservices whose replicas belong on certain servers: devices, regions."""
        return list({self._keys.parse_group(key).id: None for key in self._choosy})

    def _index(self, key: str, document: GroupDocument | None) -> None:
        if document is not None and (document.devices or document.regions or document.preferred_region):
            self._choosy[key] = None
        else:
            self._choosy.pop(key, None)
        hosts: tuple[Host, ...] | None = None
        if document is not None:
            hosts = tuple(dict.fromkeys((replica.server, replica.incarnation) for replica in everywhere(document)))
        before = self._hosts.get(key)
        if before == hosts:
            return
        self._note_path(key, there=hosts is not None)
        if hosts is None:
            self._hosts.pop(key, None)
        else:  # equal ones are kept once: groups are many, servers few
            if len(self._same_hosts) > SAME_HOSTS_MAX:
                self._same_hosts.clear()
            self._hosts[key] = self._same_hosts.setdefault(hosts, hosts)
        for host in before or ():
            groups = self._by_host[host]
            groups.discard(key)
            if not groups:
                del self._by_host[host]
        for host in hosts or ():
            self._by_host.setdefault(host, set()).add(key)

    def _note_path(self, key: str, *, there: bool) -> None:
        """Remember the groups below a root; most microservices have none."""
        if key.endswith("/"):
            return
        owned = self._keys.parse_group(key)
        if there:
            self._paths.setdefault(owned.id, set()).add(owned.path)
        elif owned.id in self._paths:
            self._paths[owned.id].discard(owned.path)
            if not self._paths[owned.id]:
                del self._paths[owned.id]

    def _tell(self, ms_id: str, path: str) -> None:
        self._beat(ms_id)
        for callback in self._on_group:
            callback(ms_id, path)

    # --- what the caches report -------------------------------------------------------------------------------------

    def _group_changed(self, key: str, new: Record | None, old: Record | None) -> None:  # noqa: ARG002 - a listener's form
        owned = self._keys.parse_group(key)
        own = self._own.get(key)
        if own is not None:
            # a deletion is older than our write, unless we deleted it ourselves or a later listing says so
            deleted = own[0] is None or self._groups.revision >= own[1]
            if not (deleted if new is None else new.mod_revision >= own[1]):
                return
            del self._own[key]
        try:
            document = decode(new.value, GroupDocument, key) if new is not None else None
            if new is not None and document is not None:
                self._newest = (new, Found(document, new.mod_revision))  # the listeners are about to ask for it
        except Invalid as error:
            _log.error("%s", error)
            document = None
        self._index(key, document)
        self._tell(owned.id, owned.path)

    def _server_changed(self, key: str, new: Record | None, old: Record | None) -> None:
        name = self._keys.parse_server(key)
        before = self._servers.pop(name, None)
        self.live.pop(name, None)
        if new is not None:
            try:
                record = decode(new.value, ServerRecord, key)
            except Invalid as error:
                _log.error("%s", error)
            else:
                self._servers[name] = LiveServer(record, new.create_revision)
            self.live[name] = new.create_revision  # unreadable or not, it lives: nothing of it is lost
        if old is not None and (new is None or new.create_revision != old.create_revision):
            if before is not None:
                self.departed[(name, old.create_revision)] = before.record
                if len(self.departed) > DEPARTED_MAX:
                    self.departed.popitem(last=False)
            for lost in self._on_loss:
                lost(name, old.create_revision)
        self._beat(f"server:{name}")
        self._members_changed()

    def _slot_changed(self, key: str, new: Record | None, old: Record | None) -> None:
        slot = self._keys.parse_slot(key)
        if new is None and old is not None:
            try:
                before = decode_slot(old)
            except Invalid as error:
                _log.error("%s", error)
            else:
                self.led_before[slot] = (before.server, before.incarnation)
        self._beat(f"slot:{slot}")

    def _cluster_changed(self, key: str, new: Record | None, old: Record | None) -> None:  # noqa: ARG002 - as above
        if key != self._keys.cluster:
            return
        try:
            self.cluster = decode(new.value, ClusterDocument, key) if new is not None else ClusterDocument()
        except Invalid as error:
            _log.error("%s; going on with what was known", error)
        self._members_changed()

    def _members_changed(self) -> None:
        self._beat("members")
        for callback in list(self._on_members):
            callback()
