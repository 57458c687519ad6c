"""Deletion and the collection of orphans."""

from __future__ import annotations

import pytest

from amino.checkpoint.access import StoreAccess
from amino.checkpoint.collector import UNKNOWN_HORIZON_S, collect, delete_all
from amino.checkpoint.memory_store import MemoryCheckpointStore
from amino.contracts.documents import CheckpointEntry, Manifest
from tests.checkpoint.conftest import MS, Scene

OTHER = "0a" * 12


class Clock:
    """The store's clock, moved by hand."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(clock: Clock) -> MemoryCheckpointStore:
    return MemoryCheckpointStore(clock)


def _manifest(*urls: str) -> Manifest:
    return Manifest(entries=tuple(CheckpointEntry(1, n, url, "0" * 64, 1) for n, url in enumerate(urls, 1)))


async def test_delete_all_leaves_nothing(scene: Scene) -> None:
    """Checkpoints of every group, large arguments and folders go; other microservices keep theirs. It can be repeated."""
    await scene.checkpoints().write(b"x", keep=1)
    for key in (f"checkpoints/{MS}/0/1-1-a", f"arguments/{MS}", f"checkpoints/{OTHER}/1-1-a"):
        scene.files.write(key, [b"x"])
    assert await delete_all(scene.access, MS) == 3
    assert await delete_all(scene.access, MS) == 0
    assert scene.stored() == {f"checkpoints/{OTHER}/1-1-a"}


async def test_collects_old_orphans_only(store: MemoryCheckpointStore, clock: Clock) -> None:
    """Files that no manifest names go once they are old; named ones and young ones stay."""
    access = StoreAccess(store)
    for name in ("named", "orphan"):
        store.write(f"checkpoints/{MS}/{name}", [b"x"])
    store.write("code/abc", [b"x"])
    clock.now += 3000
    store.write(f"checkpoints/{MS}/young", [b"x"])
    clock.now += 1000
    manifests = {MS: (_manifest(f"checkpoints/{MS}/named"),)}
    assert await collect(access, manifests) == 1
    assert [file.key for file in store.list("")] == [
        f"checkpoints/{MS}/named",
        f"checkpoints/{MS}/young",
        "code/abc",
    ]


async def test_an_etcd_that_forgot_everything_costs_no_checkpoints(store: MemoryCheckpointStore, clock: Clock) -> None:
    """Files of microservices that are unknown are kept for days, and collected in the end."""
    access = StoreAccess(store)
    store.write(f"checkpoints/{MS}/1-1-a", [b"x"])
    clock.now += UNKNOWN_HORIZON_S - 1
    assert await collect(access, {}) == 0
    clock.now += 2
    assert await collect(access, {}, mine=lambda ms_id: ms_id == OTHER) == 0
    assert await collect(access, {}) == 1


async def test_collecting_while_writing(scene: Scene) -> None:
    """A collection between writing a file and publishing it leaves the file alone."""
    checkpoints = scene.checkpoints()
    await checkpoints.write(b"one", keep=1)
    manifests = {MS: (await scene.manifest(),)}
    assert await checkpoints.write(b"two", keep=2) == 2
    assert await collect(scene.access, manifests) == 0
    assert await checkpoints.newest() == (b"two", 2)
