"""Fixtures for checkpoints: stores, and a group placed on a server in a coordination store."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio

from amino.aio.clock import RealClock
from amino.checkpoint.access import StoreAccess
from amino.checkpoint.file_store import FileStore
from amino.checkpoint.replica_checkpoints import Domain, ReplicaCheckpoints
from amino.contracts.documents import GroupDocument, Manifest, Phase, ReplicaDocument, decode, encode
from amino.coordination.keys import Keys
from amino.coordination.memory import MemoryStore
from amino.coordination.memory_etcd import MemoryEtcd
from amino.coordination.store import Delete, Put, Store
from amino.ids import slot_of
from tests.checkpoint.faulty_store import FaultyStore

MS = "5f" * 12


class FakeSession:
    """A session whose validity the test decides."""

    def __init__(self, incarnation: int) -> None:
        self.incarnation = incarnation
        self.is_valid = True

    def valid(self) -> bool:
        return self.is_valid

    async def wait_valid(self, hold_s: float) -> bool:
        return self.is_valid


class Scene:
    """One group placed on server ``s1``, and everything its checkpoints need."""

    def __init__(self, store: Store, access: StoreAccess, files: FaultyStore) -> None:
        self.store = store
        self.keys = Keys("test")
        self.access = access
        self.files = files
        self.events: list[tuple[str, dict[str, object]]] = []
        self.sessions: dict[str, FakeSession] = {}

    @property
    def group_key(self) -> str:
        return self.keys.group(slot_of(MS), MS, "/")

    async def put(self, key: str, value: bytes) -> int:
        return (await self.store.txn([], [Put(key, value)])).revision

    async def join(self, server: str) -> int:
        """Give ``server`` a fresh incarnation and return it."""
        key = self.keys.server(server)
        await self.store.txn([], [Delete(key)])
        incarnation = await self.put(key, b"record")
        self.sessions[server] = FakeSession(incarnation)
        return incarnation

    async def place(self, server: str, epoch: int, replica: str = "r1", phase: str = Phase.ACTIVE) -> int:
        placed = ReplicaDocument(replica, server, self.sessions[server].incarnation, confirmed=True)
        return await self.put(self.group_key, encode(GroupDocument(phase=phase, epoch=epoch, replicas=(placed,))))

    async def touch_document(self) -> None:
        """Edit the document without changing the placement."""
        record = await self.store.get(self.group_key)
        assert record is not None
        document = decode(record.value, GroupDocument)
        await self.put(self.group_key, encode(msgspec.structs.replace(document, version=document.version + 1)))

    def checkpoints(
        self, server: str = "s1", epoch: int = 1, replica: str = "r1", publish_timeout_s: float = 5.0
    ) -> ReplicaCheckpoints:
        domain = Domain(
            access=self.access,
            store=self.store,
            keys=self.keys,
            loop=asyncio.get_running_loop(),
            session=self.sessions[server],
            server=server,
            clock=RealClock(),
            random=random.Random(7),
            event=lambda kind, **fields: self.events.append((kind, fields)),
            publish_timeout_s=publish_timeout_s,
        )
        return domain.of(MS, "/", replica, epoch)

    async def manifest(self) -> Manifest:
        record = await self.store.get(self.keys.manifest(MS, "/"))
        return Manifest() if record is None else decode(record.value, Manifest)

    async def settle_deletions(self) -> None:
        """Wait until all deletions asked for so far have been done."""
        await self.access._idle.wait(10)

    def stored(self) -> set[str]:
        return {file.key for file in self.files.inner.list("")}


@pytest.fixture
def files(tmp_path: Path) -> FaultyStore:
    return FaultyStore(FileStore(tmp_path / "store"))


@pytest_asyncio.fixture
async def access(files: FaultyStore) -> AsyncIterator[StoreAccess]:
    opened = StoreAccess(files, threads_max=4, timeout_s=10.0)
    yield opened
    files.gate.set()
    await opened.aclose()


@pytest_asyncio.fixture
async def scene(access: StoreAccess, files: FaultyStore) -> AsyncIterator[Scene]:
    clock = RealClock()
    store = MemoryStore(MemoryEtcd(clock), clock=clock, request_timeout_s=0.05)
    made = Scene(store, access, files)
    await made.join("s1")
    await made.place("s1", 1)
    yield made
    await store.aclose()


@pytest.fixture
def in_thread() -> Iterator[object]:
    """Run a coroutine by ``aio.mode.drive`` in a plain thread while the test's loop runs; await the result."""
    from amino.aio.mode import drive

    threads: list[threading.Thread] = []

    def start(make: object) -> asyncio.Future[object]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[object] = loop.create_future()

        def finish(result: object, error: BaseException | None) -> None:
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)

        def run() -> None:
            try:
                result, error = drive(make()), None  # type: ignore[operator]
            except BaseException as problem:  # noqa: BLE001 - handed to the test
                result, error = None, problem
            loop.call_soon_threadsafe(finish, result, error)

        thread = threading.Thread(target=run)
        threads.append(thread)
        thread.start()
        return future

    yield start
    for thread in threads:
        thread.join(10)
