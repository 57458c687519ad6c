"""Where a microservice is: answers from what this server has in memory, waiting for news when asked to.

Owns turning documents into locations, names into ids, and the wait for something newer. Leaves changing anything to slot
leaders.
Invariants: only confirmed replicas on live incarnations are named; a state that cannot be called raises why.
Failure behaviour: ``NotFound``, ``StateLost``, ``Quarantined`` with the remedy; ``NotExecuted`` (not ready) while nothing
serves. An event that etcd's watch has lost is noticed when a caller waits in vain.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict

from amino.aio.clock import Clock
from amino.contracts.documents import GroupDocument, MicroserviceRecord, Phase
from amino.contracts.services import GroupLocation, LocateRequest, Location, ReplicaLocation
from amino.errors import CoordinationUnavailable, Invalid, NotExecuted, NotFound, Quarantined, StateLost
from amino.ids import ROOT
from amino.oms.directory import Directory, Found
from amino.oms.group_machine import REPLICATED, SHARDS
from amino.oms.records import Records
from amino.oms.writes import Writes

NAMES_MAX = 4096
DOUBT_EVERY_S = 0.1
"""Pause between two looks at etcd for callers who wait in vain, of a server, whatever they wait for."""
DOUBT_S = 0.5


class Locator:
    """Finds microservices.

    Args:
        writes: for reading what the watch has not reported yet.
    """

    def __init__(self, directory: Directory, records: Records, writes: Writes, clock: Clock) -> None:
        self._directory = directory
        self._records = records
        self._writes = writes
        self._clock = clock
        self._names: OrderedDict[str, str] = OrderedDict()
        self._doubted_at = -DOUBT_EVERY_S

    async def locate(self, request: LocateRequest) -> Location:
        """See ``Registry.locate``."""
        ms_id = request.microservice or await self.id_of(request.name)
        until = self._clock.monotonic() + request.wait_s
        topics = [ms_id, "members"]
        while True:
            with self._directory.pulse(*topics) as changed:
                found, record = await self._described(ms_id)
                if found is None or record is None or found.document.phase == Phase.DELETING:
                    self._names.pop(request.name, None)
                    raise NotFound(f"there is no microservice {request.name or ms_id}", microservice=ms_id)
                raise_for(ms_id, found.document)
                remaining_s = until - self._clock.monotonic()
                groups = self._directory.groups(ms_id) if found.document.kind == SHARDS else {ROOT: found}
                _raise_if_all_are_lost(ms_id, {path: one for path, one in groups.items() if path != ROOT})
                serves = any(self.serves(one.document) for one in groups.values())
                stale = self._is_stale(request, groups)  # raises if a group that is asked for cannot be called
                if remaining_s <= 0 and (stale or not serves):
                    await self._doubt(ms_id, request.stale)
                if serves and (remaining_s <= 0 or not stale):
                    return self.location(ms_id, record, found)
                if remaining_s <= 0:
                    raise NotExecuted(
                        f"microservice {request.name or ms_id} is being placed; ask again in a moment",
                        reason="not-ready",
                        microservice=ms_id,
                    )
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(remaining_s):
                        await changed.wait()

    async def _described(self, ms_id: str) -> tuple[Found | None, MicroserviceRecord | None]:
        """Return group document and record of the same generation: a chain without its groups would lead nowhere."""
        found = await self.group(ms_id)
        while found is not None:
            record = await self._records.get(ms_id, found.document.generation)
            if record is None or record.generation <= found.document.generation:
                return found, record
            found = await self._writes.read(ms_id)  # managers were changed, and the watch has not reported it yet
        return None, None

    async def _doubt(self, ms_id: str, stale: dict[str, int]) -> None:
        """A caller has no use for what is known here: now and then look whether an event was lost, for its next attempt."""
        now = self._clock.monotonic()
        if now - self._doubted_at < DOUBT_EVERY_S:
            return
        self._doubted_at = now
        with contextlib.suppress(CoordinationUnavailable, TimeoutError):
            async with asyncio.timeout(DOUBT_S):
                for path in sorted({ROOT, *stale} & {ROOT, *self._directory.paths(ms_id)}):
                    await self._directory.compare(ms_id, path)

    async def group(self, ms_id: str) -> Found | None:
        """Return a microservice's group document, also if the watch has not reported it yet.

        What would end a caller's attempts for good is read from etcd: somebody may have restored or released it a moment ago.
        """
        found = self._directory.group(ms_id)
        if found is None or found.document.phase in (Phase.LOST, Phase.QUARANTINED):
            return await self._writes.read(ms_id)
        return found

    async def id_of(self, name: str, *, fresh: bool = False) -> str:
        """Return the id that has ``name``.

        Args:
            fresh: ask etcd: what was known may have been deleted a moment ago, and the name be free.

        Raises:
            NotFound: nobody has it. Invalid: it is empty.
        """
        if not name:
            raise Invalid("neither a microservice id nor a name was given; give one of them")
        known = None if fresh else self._names.get(name)
        if known is not None and self._directory.group(known) is not None:  # else another may have the name by now
            self._names.move_to_end(name)
            return known
        ms_id = await self._records.id_of(name)
        if ms_id is None:
            raise NotFound(f"no microservice is named {name!r}; list them with `amino get microservices`", name=name)
        self._names[name] = ms_id
        while len(self._names) > NAMES_MAX:
            self._names.popitem(last=False)
        return ms_id

    def serves(self, document: GroupDocument) -> bool:
        """Return whether some replica is confirmed on a live incarnation."""
        return any(
            replica.confirmed and self._directory.lives(replica.server, replica.incarnation)
            for replica in document.replicas
            if document.kind != REPLICATED or replica.id == document.primary
        )

    def location(self, ms_id: str, record: MicroserviceRecord, found: Found, *, created: bool = False) -> Location:
        """Return the location that ``found`` describes; raises if it cannot be called."""
        document = found.document
        raise_for(ms_id, document)
        groups = {ROOT: found}
        if document.kind == SHARDS:
            groups |= {path: one for path, one in self._directory.groups(ms_id).items() if path != ROOT}
        return Location(
            microservice=ms_id,
            spec=record.spec,
            groups={path: self._group_location(one.document) for path, one in groups.items()},
            methods=document.methods,
            created=created,
        )

    def _group_location(self, document: GroupDocument) -> GroupLocation:
        replicas = []
        for replica in document.replicas:
            server = self._directory.server(replica.server)
            if replica.confirmed and server is not None and server.incarnation == replica.incarnation:
                address = server.record.address
                replicas.append(ReplicaLocation(replica.id, replica.server, replica.incarnation, address))
        return GroupLocation(document.epoch, tuple(replicas), document.primary, document.children)

    def _is_stale(self, request: LocateRequest, groups: dict[str, Found]) -> bool:
        """Return whether the caller knows already that some group's document is of no use."""
        return any(
            self._is_stale_at(request, path, one.document) for path, one in groups.items() if path in request.stale
        )

    def _is_stale_at(self, request: LocateRequest, path: str, document: GroupDocument) -> bool:
        if document.phase in (Phase.LOST, Phase.QUARANTINED):
            raise_for(f"{request.microservice}{path}", document)
        if request.stale.get(path, 0) >= document.epoch:
            if request.stale_incarnation is None:
                return True
            return any(
                (replica.server, replica.incarnation) == request.stale_incarnation
                for replica in document.replicas
                if document.kind != REPLICATED or replica.id == document.primary
            )
        return False


def _raise_if_all_are_lost(ms_id: str, shards: dict[str, Found]) -> None:
    if all(one.document.phase in (Phase.LOST, Phase.QUARANTINED) for one in shards.values()):
        for path, one in shards.items():
            raise_for(f"{ms_id}{path}", one.document)


def raise_for(ms_id: str, document: GroupDocument) -> None:
    """Raise what a caller is told of a microservice that does not run and will not by itself."""
    if document.phase == Phase.LOST:
        raise StateLost(
            f"microservice {ms_id} has lost its state: {document.reason}; bring it back with `amino restore {ms_id}`, or "
            f"delete it with `amino delete {ms_id}`",
            microservice=ms_id,
        )
    if document.phase == Phase.QUARANTINED:
        raise Quarantined(
            f"microservice {ms_id} is quarantined: {document.reason}; mend it, then `amino release {ms_id}`",
            microservice=ms_id,
        )
