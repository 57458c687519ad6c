"""Bundles in etcd and in the checkpoint store."""

from __future__ import annotations

import hashlib
import os
import time

import pytest

from amino.aio.clock import RealClock
from amino.checkpoint.access import StoreAccess
from amino.checkpoint.memory_store import MemoryCheckpointStore
from amino.code.storage import INLINE_BYTES_MAX, CodeStorage
from amino.contracts.documents import CodeRecord, decode
from amino.coordination.keys import Keys
from amino.coordination.memory import MemoryStore
from amino.coordination.memory_etcd import MemoryEtcd
from amino.errors import CodeUnavailable, Invalid, NotFound, StoreFailed

KEYS = Keys("test")


def _sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore(MemoryEtcd(RealClock()), clock=RealClock())


@pytest.fixture
def files() -> MemoryCheckpointStore:
    return MemoryCheckpointStore(time.time)


@pytest.mark.parametrize("size", [0, 100, INLINE_BYTES_MAX, INLINE_BYTES_MAX + 1, 1_000_000])
async def test_round_trip(store: MemoryStore, files: MemoryCheckpointStore, size: int) -> None:
    """Bundles of any size come back; only large ones go to the checkpoint store; pushing again changes nothing."""
    storage = CodeStorage(store, KEYS, StoreAccess(files), RealClock())
    content = os.urandom(size)
    await storage.push(_sha(content), "zip", content)
    before = await store.get(KEYS.code(_sha(content)))
    await storage.push(_sha(content), "zip", content)
    assert await store.get(KEYS.code(_sha(content))) == before
    fetched = await storage.fetch(_sha(content))
    assert (fetched.kind, fetched.content) == ("zip", content)
    assert before is not None
    record = decode(before.value, CodeRecord)
    assert record.size == size
    assert bool(record.url) == (size > INLINE_BYTES_MAX)
    assert len(before.value) < INLINE_BYTES_MAX + 1000


async def test_continues_after_half_a_push(store: MemoryStore, files: MemoryCheckpointStore) -> None:
    """A push that died after its file was written is completed by the next one."""
    storage = CodeStorage(store, KEYS, StoreAccess(files), RealClock())
    content = os.urandom(INLINE_BYTES_MAX + 1)
    files.write(f"code/{_sha(content)}", [content])
    await storage.push(_sha(content), "zip", content)
    assert (await storage.fetch(_sha(content))).content == content


async def test_refusals(store: MemoryStore, files: MemoryCheckpointStore) -> None:
    """Wrong name, wrong kind, too large without a store, unknown, lost: each error says what to do."""
    storage = CodeStorage(store, KEYS, None, RealClock())
    with pytest.raises(Invalid, match="own sha256"):
        await storage.push("0" * 64, "zip", b"x")
    with pytest.raises(Invalid, match="kind"):
        await storage.push(_sha(b"x"), "tar", b"x")
    with pytest.raises(Invalid, match="larger than"):
        await storage.push("0" * 64, "zip", bytes(33 * 1024 * 1024))
    large = os.urandom(INLINE_BYTES_MAX + 1)
    with pytest.raises(Invalid, match="needs a checkpoint store"):
        await storage.push(_sha(large), "zip", large)
    with pytest.raises(NotFound, match="push the code"):
        await storage.fetch("1" * 64)
    await CodeStorage(store, KEYS, StoreAccess(files), RealClock()).push(_sha(large), "zip", large)
    with pytest.raises(CodeUnavailable, match="not in this server's checkpoint store"):
        await storage.fetch(_sha(large))


async def test_blobs_of_the_oms() -> None:
    """Large arguments and bundles are stored once, read back, and go with their microservice."""
    from amino.checkpoint.blobs import StoredBlobs

    files = MemoryCheckpointStore(time.time)
    blobs = StoredBlobs(StoreAccess(files))
    url = await blobs.put("arguments", "5f" * 12, b"large")
    assert await blobs.put("arguments", "5f" * 12, b"large") == url
    assert await blobs.get(url) == b"large"
    code = await blobs.put("code", _sha(b"c"), b"c")
    assert code == f"code/{_sha(b'c')}"
    await blobs.delete_checkpoints("5f" * 12)
    await blobs.delete_checkpoints("5f" * 12)
    assert [file.key for file in files.list("")] == [code]
    with pytest.raises(StoreFailed, match="not in this server"):
        await blobs.get(url)
    with pytest.raises(StoreFailed, match="--store"):
        await StoredBlobs(None).put("arguments", "5f" * 12, b"large")
    with pytest.raises(Invalid, match="unknown"):
        await blobs.put("other", "5f" * 12, b"x")
