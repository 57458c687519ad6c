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
from contextlib import contextmanager
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
            )
            for name, server in self._servers.items()
        ]

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
        return Found(decode(record.value, GroupDocument, key), record.mod_revision)

    def ids(self, slot: int | None = None) -> list[str]:
        """Return the ids of all microservices (of one slot), in order."""
        prefix = self._keys.groups_prefix if slot is None else self._keys.groups_of_slot(slot)
        return sorted({self._keys.parse_group(key).id for key in self._hosts if key.startswith(prefix)})

    def hosted(self, name: str, incarnation: int) -> list[str]:
        """Return the ids of microservices of which that incarnation may hold a replica."""
        return sorted({self._keys.parse_group(key).id for key in self._by_host.get((name, incarnation), ())})

    def hosts(self) -> set[Host]:
        """Return every incarnation that some document refers to."""
        return set(self._by_host)

    def learn(self, ms_id: str, path: str, document: GroupDocument | None, revision: int) -> None:
        """Take over this server's own successful write, before the watch reports it."""
        key = self._keys.group(slot_of(ms_id), ms_id, path)
        record = self._groups.get(key)
        if record is not None and record.mod_revision >= revision:
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

    def _index(self, key: str, document: GroupDocument | None) -> None:
        hosts: tuple[Host, ...] | None = None
        if document is not None:
            hosts = tuple(dict.fromkeys((replica.server, replica.incarnation) for replica in everywhere(document)))
        before = self._hosts.get(key, ())
        if hosts is None:
            self._hosts.pop(key, None)
        else:
            self._hosts[key] = hosts
        if before == hosts:
            return
        for host in before:
            groups = self._by_host[host]
            groups.discard(key)
            if not groups:
                del self._by_host[host]
        for host in hosts or ():
            self._by_host.setdefault(host, set()).add(key)

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
