"""Removing what nobody needs: tombstones, orphan names, records, manifests, files, bundles, events and kernel objects.

Owns the slow rounds over the slots led here. Leaves repairing microservices to ``reconciler``.
Invariants: a thing is removed only by a write that compares what makes it rubbish, or by a command that carries a fence
newer than anything that could still want it.
Failure behaviour: a round that fails is logged and done again next time.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from collections.abc import Set as AbstractSet

from amino.aio.tasks import TaskOwner
from amino.checkpoint.collector import UNKNOWN_HORIZON_S
from amino.contracts.decisions import COMMITTED, PENDING, DecisionDocument
from amino.contracts.documents import Manifest, ReplicaDocument, decode
from amino.contracts.services import Empty, Fence, KernelCaller, ReplicaInfo, RetireRequest
from amino.coordination.keys import Keys
from amino.coordination.store import Compare, Field, Store, absent, unchanged
from amino.errors import AminoError, Conflict
from amino.ids import ROOT, slot_of
from amino.oms import group_machine as machine
from amino.oms.bundles import Bundles
from amino.oms.directory import Host
from amino.oms.leader import Leader

_log = logging.getLogger("amino.oms")
TOMBSTONES_EVERY_S = 5.0
AUDIT_EVERY_S = 20.0
SWEEP_EVERY_S = 60.0
COLLECT_EVERY_S = 900.0
UNDECIDED_ROUNDS = 60
COMMAND_TIMEOUT_S = 5.0


class Housekeeping:
    """The rounds.

    Args:
        led: the slots led here, as they are at any time.
        wall: seconds since 1970.
    """

    def __init__(
        self,
        *,
        store: Store,
        keys: Keys,
        leader: Leader,
        kernels: KernelCaller,
        led: AbstractSet[int],
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._wall = wall
        self._store = store
        self._keys = keys
        self._leader = leader
        self._directory = leader.directory
        self._kernels = kernels
        self._led = led
        self._unneeded: set[Host] = set()
        self._missing: set[tuple[str, str]] = set()
        self._undecided: dict[str, int] = {}
        self._bundles = Bundles(store, keys, leader.writes, leader.blobs)
        self._tasks = TaskOwner("housekeeping")

    def __repr__(self) -> str:
        return f"Housekeeping({len(self._led)} slots)"

    def start(self) -> None:
        """Begin the rounds."""
        self._tasks.spawn(self._every(TOMBSTONES_EVERY_S, self.bury_tombstones), "tombstones")
        self._tasks.spawn(self._every(AUDIT_EVERY_S, self.audit_servers), "audit")
        self._tasks.spawn(self._every(SWEEP_EVERY_S, self.sweep), "sweep")
        self._tasks.spawn(self._every(COLLECT_EVERY_S, self.collect_checkpoints), "checkpoints")
        self._tasks.spawn(self._every(COLLECT_EVERY_S, self.collect_bundles), "bundles")

    def slot_gained(self, slot: int) -> None:
        """Look for what a dead leader of ``slot`` left. Never waits."""
        self._tasks.spawn(self._guarded(lambda: self.sweep_records(slot)), f"records {slot}")

    async def aclose(self) -> None:
        """End the rounds. Idempotent."""
        await self._tasks.aclose()

    async def _every(self, period_s: float, round_: Callable[[], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(period_s)
            await self._guarded(round_)

    async def _guarded(self, round_: Callable[[], Awaitable[None]]) -> None:
        try:
            await round_()
        except (AminoError, TimeoutError) as error:
            _log.info("a round of housekeeping was cut short: %s", error)

    async def bury_tombstones(self) -> None:
        """Delete tombstones of incarnations that no document has referred to for two rounds."""
        records, _ = await self._store.list(self._keys.tombstones_prefix)
        referred = self._directory.hosts()
        unneeded: set[Host] = set()
        for record in records:
            parsed = self._keys.parse_tombstone(record.key)
            host = (parsed.name, parsed.incarnation)
            if slot_of(parsed.name) not in self._led or host in referred:
                continue
            if host in self._unneeded:
                await self._leader.writes.delete_if([unchanged(record.key, record.mod_revision)], [record.key])
            else:
                unneeded.add(host)
        self._unneeded = unneeded

    async def sweep_records(self, slot: int) -> None:
        """Delete records of ``slot`` without a group: no creation leaves one, so nothing is lost with it."""
        records, _ = await self._store.list(self._keys.microservices_of(slot))
        for record in records:
            ms_id = self._keys.parse_microservice(record.key).id
            if self._directory.group(ms_id) is None:
                compares = [
                    self._leader.writes.guard(ms_id),
                    unchanged(record.key, record.mod_revision),
                    absent(self._keys.group(slot, ms_id, ROOT)),
                ]
                await self._leader.writes.delete_if(compares, [record.key])

    async def sweep(self) -> None:
        """Delete names and manifests of microservices that do not exist, and surplus events."""
        if 0 in self._led:
            await self._leader.events.trim()
            await self._sweep_decisions()
        names, _ = await self._store.list(self._keys.names_prefix)
        for record in names:
            ms_id = record.value.decode()
            if self._is_gone(ms_id):
                compares = [
                    Compare(record.key, Field.VALUE, record.value),
                    absent(self._keys.microservice(slot_of(ms_id), ms_id)),
                ]
                await self._leader.writes.delete_if(compares, [record.key])
        manifests, _ = await self._store.list(self._keys.checkpoints_prefix)
        for record in manifests:
            ms_id, _ = self._keys.parse_manifest(record.key)
            if self._is_gone(ms_id):
                compares = [
                    unchanged(record.key, record.mod_revision),
                    absent(self._keys.microservice(slot_of(ms_id), ms_id)),
                ]
                if await self._leader.writes.delete_if(compares, [record.key]):
                    await self._leader.blobs.delete_checkpoints(ms_id)

    async def _sweep_decisions(self) -> None:
        """Remove decisions that nobody ends.

        Pending ones whose initiators are long gone (which aborts: always safe), and commits whose cohorts have all been deleted,
        so that none is left to be told, or could be restored.
        """
        records, _ = await self._store.list(self._keys.decisions_prefix)
        seen, self._undecided = self._undecided, {}
        for record in records:
            document = decode(record.value, DecisionDocument, record.key)
            if document.outcome == COMMITTED:
                cohorts = {cohort.partition("/")[0] for cohort in document.cohorts}
                if not any(self._directory.group(ms_id) for ms_id in cohorts):
                    gone = [absent(self._keys.microservice(slot_of(ms_id), ms_id)) for ms_id in sorted(cohorts)]
                    await self._leader.writes.delete_if(
                        [unchanged(record.key, record.mod_revision), *gone], [record.key]
                    )
            if document.outcome != PENDING or document.resource:
                continue
            rounds = self._undecided[record.key] = seen.get(record.key, 0) + 1
            if rounds > UNDECIDED_ROUNDS:
                await self._leader.writes.delete_if([unchanged(record.key, record.mod_revision)], [record.key])

    async def collect_checkpoints(self) -> None:
        """Remove files of checkpoints that were written and never published, or dropped and not removed."""
        found: dict[str, list[Manifest]] = {ms_id: [] for ms_id in self._directory.ids()}
        records, _ = await self._store.list(self._keys.checkpoints_prefix)
        for record in records:
            ms_id, _ = self._keys.parse_manifest(record.key)
            found.setdefault(ms_id, []).append(decode(record.value, Manifest, record.key))
        manifests = {ms_id: tuple(group) for ms_id, group in found.items()}
        young = self._is_young()  # perhaps it replaces one that was lost, and what it does not know is to be rebuilt

        def mine(ms_id: str) -> bool:
            return slot_of(ms_id) in self._led and (ms_id in manifests or not young)

        removed = await self._leader.blobs.collect(manifests, mine)
        if removed:
            _log.info("%d files of checkpoints that nothing names were removed", removed)

    def _is_young(self) -> bool:
        since = self._directory.cluster.counts_from
        return bool(since) and self._wall() - since / 1e6 < UNKNOWN_HORIZON_S

    async def collect_bundles(self) -> None:
        """Remove code that nothing uses."""
        if 0 in self._led:
            await self._bundles.collect()
        else:
            self._bundles.forget()

    def _is_gone(self, ms_id: str) -> bool:
        return slot_of(ms_id) in self._led and self._directory.group(ms_id) is None

    async def audit_servers(self) -> None:
        """Compare every server's kernel objects with the documents."""
        missing: set[tuple[str, str]] = set()
        for server in self._directory.servers():
            host = (server.record.name, server.incarnation)
            try:
                async with asyncio.timeout(COMMAND_TIMEOUT_S):
                    listed = (await self._kernels.at(server.record.address).replicas(Empty())).replicas
            except (AminoError, TimeoutError) as error:
                _log.info("server %s does not list its replicas: %s", server.record.name, error)
                continue
            for info in listed:
                if slot_of(info.microservice) in self._led and not self._is_listed(info):
                    await self._retire_orphan(host, info)
            there = {(info.microservice, info.replica) for info in listed}
            missing |= await self._look_for_missing(host, there)
        self._missing = missing

    def _is_listed(self, info: ReplicaInfo) -> bool:
        found = self._directory.group(info.microservice, info.path)
        return found is not None and any(replica.id == info.replica for replica in machine.everywhere(found.document))

    async def _retire_orphan(self, host: Host, info: ReplicaInfo) -> None:
        """Drop a kernel object that no document lists.

        Under the microservice's lock and with a fresh document nothing of ours can be on its way to that server; what a
        newer leader sent carries a newer fence than our command, which is then refused.
        """
        writes = self._leader.writes
        async with self._leader.locks.hold(info.microservice):
            revision = await writes.check_leadership(info.microservice)
            found = await writes.read(info.microservice, info.path)
            if found is not None and self._is_listed(info):
                return
            fence = Fence(
                slot_of(info.microservice),
                writes.leader_revision(info.microservice),
                found.revision if found is not None else revision,
            )
            request = RetireRequest(info.microservice, info.path, info.replica, fence, destroy=found is None)
            replica = ReplicaDocument(info.replica, *host)
            async with self._leader.commands.to(info.microservice, replica, COMMAND_TIMEOUT_S) as kernel:
                await kernel.retire(request)
        self._leader.events.add("orphan-dropped", info.microservice, host[0], f"replica {info.replica}")

    async def _look_for_missing(self, host: Host, there: set[tuple[str, str]]) -> set[tuple[str, str]]:
        """Give up replicas that their own live server has not listed twice in a row."""
        missing: set[tuple[str, str]] = set()
        for ms_id, path in self._directory.hosted_groups(*host):
            if slot_of(ms_id) not in self._led:
                continue
            found = self._directory.group(ms_id, path)
            if found is None or machine.state_of(found.document) not in machine.AT_REST:
                continue
            replica = next((one for one in found.document.replicas if (one.server, one.incarnation) == host), None)
            if replica is None or not replica.confirmed or (ms_id, replica.id) in there:
                continue
            if (ms_id, replica.id) not in self._missing:
                missing.add((ms_id, replica.id))
                continue
            async with self._leader.locks.hold(ms_id):
                now = self._directory.group(ms_id, path)
                if now is not None and now.revision == found.revision:
                    try:
                        await self._leader.writes.replace(ms_id, path, now, machine.forsaken(now.document, replica))
                    except Conflict:
                        continue
        return missing
