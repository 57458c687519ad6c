"""Faults of the checkpoint store on real processes: each happens, is seen by the cluster, and is undone."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

import amino
from amino.aio.mode import offload
from amino.dm import AtLeastOnceRPC, DurableSerializableRPC, PeriodicCheckpoint, SerializableRPC
from amino.errors import StoreFailed
from amino.testing.chaos.clusters import Ability, ClusterView, ProcessCluster
from amino.testing.chaos.clusters.disk import Disk, unusable
from amino.testing.chaos.faults import Nemesis, Scene, make
from amino.testing.chaos.workloads.services import Cells
from tests.etcd_fixtures import etcd_binaries

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(240)]
AGAIN = AtLeastOnceRPC(timeout_s=60.0)


def disk_of(size_mib: int) -> Disk | None:
    """Return a disk, None where the system lets nobody make one."""
    try:
        return Disk(size_mib)
    except OSError:
        return None


def test_a_disk_is_filled_and_emptied() -> None:
    """A disk takes nothing more once it is full, and does again when it was emptied; closed, nothing is left of it."""
    disk = disk_of(16)
    if disk is None:
        assert unusable() or os.geteuid() == 0, "who is not root is told why not"
        return
    try:
        assert not disk.is_full()
        assert disk.fill() > 8 << 20
        assert disk.is_full()
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
            (disk.folder / "one").write_bytes(bytes(1 << 16))
        disk.empty()
        assert not disk.is_full()
    finally:
        disk.close()
    assert not disk.folder.exists()


def test_a_frozen_disk_lets_writers_wait() -> None:
    """While a disk stands still no write ends; thawed, all do."""
    disk = disk_of(16)
    if disk is None:
        return
    try:
        disk.freeze()
        assert disk.is_frozen
        writer = threading.Thread(target=(disk.folder / "one").write_bytes, args=(b"1",))
        writer.start()
        writer.join(0.3)
        assert writer.is_alive()
        disk.thaw()
        writer.join()
        assert not disk.is_frozen
        assert (disk.folder / "one").read_bytes() == b"1"
        disk.freeze(frozen_s=0.1, thawed_s=0.02)
        assert disk.freezes(60.0)
        assert disk.freezes(60.0)
    finally:
        disk.close()


@pytest_asyncio.fixture
async def nemesis() -> AsyncIterator[Nemesis]:
    """Who breaks a cluster of two servers whose store has a disk of its own, where there can be one."""
    cluster = ProcessCluster(2, members=1, disk_mib=32, etcd_binary=etcd_binaries()[0])
    await cluster.start()
    try:
        async with ClusterView(cluster.etcd_endpoints) as view:
            began = time.monotonic()
            yield Nemesis(Scene(cluster, view), lambda: time.monotonic() - began)
    finally:
        await cluster.aclose()


async def test_damage_is_passed_over(nemesis: Nemesis) -> None:
    """The newest checkpoints are damaged and their server lost: what keeps a log loses nothing, what keeps none, one change."""
    scene = nemesis.scene
    async with await offload(scene.cluster.connect) as client:
        with amino.deadline(60.0):
            logged = await amino.aio(client.new)(
                amino.spec(Cells, name="logged", dms=[AGAIN, DurableSerializableRPC(snapshot_every=3)])
            )
            kept = await amino.aio(client.new)(
                amino.spec(Cells, name="kept", dms=[AGAIN, SerializableRPC(), PeriodicCheckpoint(every=1)])
            )
            for number in range(8):
                for one in (logged, kept):
                    await amino.aio(one.write)("key", str(number))
        record = await nemesis.cause(make(scene, "corrupt-checkpoint", "holder"), 0.0)
        assert record.verified, record.text
        assert record.target in scene.cluster.servers
        with amino.deadline(60.0):
            assert await amino.aio(logged.read)("key") == "7"
            assert await amino.aio(kept.read)("key") == "7", "it was not damaged"
        record = await nemesis.cause(make(scene, "corrupt-snapshot", "holder"), 0.0)
        assert record.verified, record.text
        with amino.deadline(60.0):
            assert await amino.aio(logged.read)("key") == "7"
            assert await amino.aio(kept.read)("key") == "6"
    assert not await scene.view.await_rest(2, 60.0)


async def test_a_disk_that_is_full_slow_or_stuck(nemesis: Nemesis) -> None:
    """A full disk fails calls with the reason, a slow one delays them, one that stands still holds them until it goes on."""
    scene = nemesis.scene
    if Ability.DISK not in scene.cluster.abilities:
        assert scene.cluster.disk is None
        return
    assert scene.cluster.store_folder is not None
    assert await offload(os.listdir, scene.cluster.store_folder), "the servers keep their files on it"
    async with await offload(scene.cluster.connect) as client:
        with amino.deadline(60.0):
            cells = await amino.aio(client.new)(
                amino.spec(Cells, name="cells", dms=[SerializableRPC(), PeriodicCheckpoint(every=1)])
            )
            await amino.aio(cells.write)("key", "before")
        full = make(scene, "full-disk", "store")
        await full.inject()
        try:
            assert await full.happened()
            with amino.deadline(30.0), pytest.raises(StoreFailed, match="space"):
                await amino.aio(cells.write)("key", "x" * 100_000)
        finally:
            await full.heal()
        with amino.deadline(60.0):
            await amino.aio(cells.write)("key", "full")
        for kind in ("slow-disk", "stuck-disk"):
            fault = make(scene, kind, "store")
            await fault.inject()
            try:
                assert await fault.happened()
                with amino.deadline(60.0):
                    writing = asyncio.create_task(amino.aio(cells.write)("key", kind))
                    done, _ = await asyncio.wait([writing], timeout=60.0 if kind == "slow-disk" else 0.5)
                assert bool(done) == (kind == "slow-disk")
            finally:
                await fault.heal()
            await writing
            with amino.deadline(60.0):
                assert await amino.aio(cells.read)("key") == kind
