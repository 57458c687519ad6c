"""Cordons, drains and the pause: what operators ask of the cluster as a whole.

Owns edits of the cluster document, and moving everything off a server. Leaves moving one microservice to the registry.
Invariant: an operator's own reason for a cordon is not overwritten by a drain.
Failure behaviour: a drain tells what is left and why; everything may be asked again.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable

import msgspec

from amino.aio.clock import Clock
from amino.contracts.documents import ClusterDocument, decode, encode
from amino.contracts.services import (
    CordonRequest,
    DrainReply,
    DrainRequest,
    Empty,
    Location,
    MoveRequest,
    PauseRequest,
)
from amino.coordination.keys import Keys
from amino.coordination.store import Put, Store, unchanged
from amino.errors import (
    AminoError,
    Invalid,
    NotFound,
)
from amino.ids import ROOT, valid_name
from amino.oms.directory import Directory
from amino.oms.events import EventLog

DRAIN_AT_ONCE = 8
LOOK_AGAIN_S = 0.1


class Maintenance(ABC):
    """Maintenance of servers."""

    _store: Store
    _keys: Keys
    _clock: Clock
    _directory: Directory
    _events: EventLog

    @abstractmethod
    async def move(self, request: MoveRequest) -> Location:
        """See ``contracts.services.Registry.move``."""

    async def cordon(self, request: CordonRequest) -> Empty:
        """See ``contracts.services.Registry.cordon``."""
        return await self._cordon(request)

    async def _cordon(self, request: CordonRequest, *, keep_reason: bool = False) -> Empty:
        if not valid_name(request.server):
            raise Invalid(f"{request.server!r} is not a server's name")
        why = request.why or "by an operator"

        def change(cluster: ClusterDocument) -> ClusterDocument:
            if keep_reason and request.server in cluster.cordoned:
                return cluster
            cordoned = {name: text for name, text in cluster.cordoned.items() if name != request.server}
            if request.cordon:
                cordoned[request.server] = why
            return msgspec.structs.replace(cluster, cordoned=cordoned)

        if request.cordon and await self._directory.find_server(request.server) is None:
            raise NotFound(f"there is no live server {request.server!r}; list them with `amino get servers`")
        if await self._change_cluster(change):
            self._events.add("cordoned" if request.cordon else "uncordoned", server=request.server, text=why)
        return Empty()

    async def pause(self, request: PauseRequest) -> Empty:
        """See ``contracts.services.Registry.pause``."""
        if await self._change_cluster(lambda cluster: msgspec.structs.replace(cluster, paused=request.paused)):
            self._events.add("paused" if request.paused else "resumed")
        return Empty()

    async def _change_cluster(self, change: Callable[[ClusterDocument], ClusterDocument]) -> bool:
        """Edit the cluster document by compare and swap; returns whether that made a difference."""
        while True:
            record = await self._store.get(self._keys.cluster)
            before = decode(record.value, ClusterDocument, record.key) if record is not None else ClusterDocument()
            after = change(before)
            if after == before:
                return False
            revision = record.mod_revision if record is not None else 0
            put = Put(self._keys.cluster, encode(after))
            if (await self._store.txn([unchanged(self._keys.cluster, revision)], [put])).succeeded:
                return True

    async def drain(self, request: DrainRequest) -> DrainReply:
        """See ``contracts.services.Registry.drain``."""
        until = self._clock.monotonic() + request.timeout_s
        await self._cordon(CordonRequest(request.server, why=request.why or "being drained"), keep_reason=True)
        moved = 0
        left: dict[str, str] = {}
        waiting: set[str] = set()
        gate = asyncio.Semaphore(DRAIN_AT_ONCE)

        async def move(ms_id: str, path: str) -> bool:
            what = ms_id if path == ROOT else ms_id + path
            async with gate:
                timeout_s = until - self._clock.monotonic()
                if timeout_s <= 0:
                    left[what] = "no time left"
                    return False
                found = self._directory.group(ms_id, path)
                there = [one.id for one in (found.document.replicas if found else ()) if one.server == request.server]
                try:
                    await self.move(
                        MoveRequest(
                            microservice=ms_id,
                            path=path,
                            replica=there[0] if there else "",
                            why="drain",
                            timeout_s=timeout_s,
                            leave=request.leave,
                        )
                    )
                except NotFound:
                    return False
                except AminoError as error:
                    left[what] = str(error)
                    if error.details.get("joining"):
                        waiting.add(what)
                    return False
                left.pop(what, None)
                return True

        while True:
            server = self._directory.server(request.server)
            if server is None:
                break
            waiting.clear()
            here = self._here(request.server, server.incarnation)
            done = sum(await asyncio.gather(*(move(ms_id, path) for ms_id, path in here)))
            moved += done
            if self._clock.monotonic() >= until or not (done or (request.leave and waiting)):
                break
            if not done:
                await asyncio.sleep(LOOK_AGAIN_S)  # a replica that joins elsewhere lets one here leave
        return DrainReply(moved, tuple(f"{ms_id}: {why}" for ms_id, why in sorted(left.items())))

    def _here(self, server: str, incarnation: int) -> list[tuple[str, str]]:
        """Return the groups (id, path) that have a replica at that incarnation (leftovers go by themselves)."""
        return [
            (ms_id, path)
            for ms_id, path in self._directory.hosted_groups(server, incarnation)
            if (found := self._directory.group(ms_id, path)) is not None
            and any(replica.server == server for replica in found.document.replicas)
        ]
