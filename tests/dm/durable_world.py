"""Objects on real checkpoints: files in a folder, manifests in etcd as it is in memory, losses on request."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any, Self

from amino.aio.clock import RealClock
from amino.checkpoint.access import StoreAccess
from amino.checkpoint.file_store import FileStore
from amino.checkpoint.replica_checkpoints import Domain, ReplicaCheckpoints
from amino.contracts.documents import GroupDocument, Manifest, Phase, ReplicaDocument, decode, encode
from amino.coordination.keys import Keys
from amino.coordination.memory import MemoryStore
from amino.coordination.memory_etcd import MemoryEtcd
from amino.coordination.store import Delete, Put
from amino.ids import slot_of
from amino.kernel.object import KernelObject
from tests.checkpoint.faulty_store import FaultyStore
from tests.kernel.world import call_of, serving, value_of

MS = "7a" * 12


class _Session:
    def __init__(self, incarnation: int) -> None:
        self.incarnation = incarnation

    def valid(self) -> bool:
        return True

    async def wait_valid(self, hold_s: float) -> bool:
        return True


class World:
    """One object of ``kind`` under ``managers``; use with ``async with``.

    Attributes:
        target: the present replica.
    """

    def __init__(self, folder: Path, kind: type, *managers: Any, store: Any = None) -> None:
        self._kind = kind
        self._managers = managers
        self.files = FaultyStore(store or FileStore(folder))
        self.keys = Keys("test")
        self.epoch = 0
        self._made: list[KernelObject] = []
        self.target: KernelObject

    async def __aenter__(self) -> Self:
        clock = RealClock()
        self.etcd = MemoryStore(MemoryEtcd(clock), clock=clock, request_timeout_s=1.5)
        self.access = StoreAccess(self.files, threads_max=4)
        await self.place()
        self.target = self.shell()
        await self.target.chain.on_create()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()
        self.files.gate.set()
        await self.access.aclose()
        await self.etcd.aclose()

    async def stop(self) -> None:
        """End all replicas so far, as the end of their process would."""
        while self._made:
            await self._made.pop().chain.on_stop()
        await self.access._idle.wait(5.0)

    async def place(self) -> None:
        """Place the group on a fresh incarnation, at the next epoch."""
        server, group = self.keys.server("s1"), self.keys.group(slot_of(MS), MS, "/")
        await self.etcd.txn([], [Delete(server)])
        self.session = _Session((await self.etcd.txn([], [Put(server, b"record")])).revision)
        self.epoch += 1
        replica = ReplicaDocument("r1", "s1", self.session.incarnation, confirmed=True)
        document = GroupDocument(phase=Phase.ACTIVE, epoch=self.epoch, replicas=(replica,))
        await self.etcd.txn([], [Put(group, encode(document))])

    def shell(self) -> KernelObject:
        """Return a fresh replica with the checkpoints of the present placement."""
        target = serving(self._kind(), *self._managers, microservice=MS)
        target.context.checkpoints = self.checkpoints()
        self._made.append(target)
        return target

    def checkpoints(self) -> ReplicaCheckpoints:
        """Return the group's checkpoints, for the present placement."""
        domain = Domain(
            access=self.access,
            store=self.etcd,
            keys=self.keys,
            loop=asyncio.get_running_loop(),
            session=self.session,
            server="s1",
            clock=RealClock(),
            random=random.Random(self.epoch),
        )
        return domain.of(MS, "/", "r1", self.epoch)

    async def manifest(self) -> Manifest:
        """Return the group's manifest."""
        record = await self.etcd.get(self.keys.manifest(MS, "/"))
        assert record is not None
        return decode(record.value, Manifest)

    async def lose(self) -> KernelObject:
        """Lose the replica and recover it elsewhere; returns the lost one, which knows nothing of that."""
        lost = self.target
        await self.place()
        self.target = await self.recover()
        return lost

    async def recover(self) -> KernelObject:
        """Return a replica as it comes back from the store."""
        target = self.shell()
        newest = await target.context.checkpoints.newest()
        assert newest is not None
        target.restore_sealed(newest[0])
        await target.chain.on_recover()
        return target

    async def call(self, method: str, *args: Any, sequence: int, target: Any = None, **fields: Any) -> Any:
        """Call a method of ``target``, by default the present replica."""
        callee = target or self.target
        return value_of(await callee.serve(call_of(callee, method, *args, sequence=sequence, **fields)))
