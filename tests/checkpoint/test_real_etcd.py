"""Checkpoints on real etcd: the same promises, through frozen members and killed writers."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import sys
import tempfile
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from amino.checkpoint.access import StoreAccess
from amino.checkpoint.file_store import FileStore
from amino.coordination.etcd import EtcdStore
from amino.coordination.keys import Keys
from amino.errors import NotExecuted
from amino.node.embedded_etcd import EmbeddedEtcd
from tests.checkpoint.conftest import Scene
from tests.checkpoint.faulty_store import FaultyStore
from tests.etcd_fixtures import memory_folder

pytestmark = pytest.mark.real

Threaded = Callable[[Callable[[], Any]], asyncio.Future[Any]]


async def _scene(etcd: EmbeddedEtcd, access: StoreAccess, files: FaultyStore) -> Scene:
    store = await EtcdStore.open(etcd.endpoints, request_timeout_s=1.0)
    scene = Scene(store, access, files)
    scene.keys = Keys(f"t{uuid.uuid4().hex[:8]}")
    await scene.join("s1")
    await scene.place("s1", 1)
    return scene


@pytest_asyncio.fixture
async def real(shared_etcd: EmbeddedEtcd, access: StoreAccess, files: FaultyStore) -> AsyncIterator[Scene]:
    scene = await _scene(shared_etcd, access, files)
    yield scene
    await scene.store.aclose()


async def test_write_and_restore(real: Scene, in_thread: Threaded) -> None:
    """Written from the loop and from a thread, found again in order, older ones removed."""
    checkpoints = real.checkpoints()
    assert await checkpoints.newest() is None
    assert await checkpoints.write(b"one", keep=2) == 1
    assert await in_thread(lambda: checkpoints.write(b"two", keep=2)) == 2
    assert await checkpoints.write(b"three", keep=2) == 3
    await real.settle_deletions()
    assert len(real.stored()) == 2
    assert await in_thread(real.checkpoints().newest) == (b"three", 3)


async def test_fenced(real: Scene) -> None:
    """A replica that was placed elsewhere publishes nothing, and leaves nothing."""
    checkpoints = real.checkpoints()
    await checkpoints.write(b"one", keep=2)
    await real.join("s2")
    await real.place("s2", 2, "r2")
    with pytest.raises(NotExecuted):
        await checkpoints.write(b"late", keep=2)
    await real.settle_deletions()
    assert len(real.stored()) == 1
    assert await real.checkpoints("s2", 2, "r2").newest() == (b"one", 1)


async def test_a_frozen_etcd_delays_but_does_not_confuse(
    etcd_one: EmbeddedEtcd, access: StoreAccess, files: FaultyStore
) -> None:
    """A write begun while etcd is frozen ends once it is back, published exactly once."""
    scene = await _scene(etcd_one, access, files)
    checkpoints = scene.checkpoints(publish_timeout_s=30.0)
    await checkpoints.write(b"one", keep=5)
    etcd_one.freeze(0)
    files.entered.clear()
    writing = asyncio.ensure_future(checkpoints.write(b"two", keep=5))
    await asyncio.to_thread(files.entered.wait, 10)
    done, _ = await asyncio.wait([writing], timeout=2.5)
    assert not done
    etcd_one.thaw(0)
    assert await writing == 2
    assert await checkpoints.write(b"three", keep=5) == 3
    assert [entry.sequence for entry in (await scene.manifest()).entries] == [3, 2, 1]
    await scene.store.aclose()


WRITER = """
import asyncio, os, sys
from pathlib import Path
from amino.checkpoint.access import StoreAccess
from amino.checkpoint.file_store import FileStore
from amino.coordination.etcd import EtcdStore
from amino.coordination.keys import Keys
from tests.checkpoint.conftest import FakeSession, Scene
from tests.checkpoint.faulty_store import FaultyStore

async def main(endpoint, cluster, root, incarnation, first):
    files = FaultyStore(FileStore(Path(root)))
    scene = Scene(await EtcdStore.open([endpoint]), StoreAccess(files), files)
    scene.keys = Keys(cluster)
    scene.sessions["s1"] = FakeSession(int(incarnation))
    checkpoints = scene.checkpoints()
    n = int(first)
    while True:
        n += 1
        await checkpoints.write(b"%d" % n, 2)
        os.write(1, b"%d\\n" % n)

asyncio.run(main(*sys.argv[1:]))
"""


async def test_killed_writers_lose_nothing_acknowledged(real: Scene, shared_etcd: EmbeddedEtcd, tmp_path: Path) -> None:
    """Killed at random moments, in the store, in etcd or between: what is restored is never older than acknowledged."""
    chosen = random.Random(3)
    endpoint = shared_etcd.endpoints[0]
    newest = 0
    for _ in range(12):
        writer = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", WRITER, endpoint, real.keys.cluster_name, str(tmp_path / "store")),
            *(str(real.sessions["s1"].incarnation), str(newest)),
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )
        assert writer.stdout is not None
        lines_left = chosen.randrange(1, 30)
        acknowledged = newest
        while line := await asyncio.wait_for(writer.stdout.readline(), 30):
            acknowledged = int(line)
            lines_left -= 1
            if lines_left == 0:
                await asyncio.sleep(chosen.uniform(0, 0.005))  # a random moment is what this is about
                writer.send_signal(signal.SIGKILL)
        await writer.wait()
        found = await real.checkpoints().newest()
        assert found is not None
        assert acknowledged <= int(found[0]) <= acknowledged + 1
        newest = int(found[0])
    assert real.events == []


async def test_one_kibibyte_is_quick(shared_etcd: EmbeddedEtcd, capsys: pytest.CaptureFixture[str]) -> None:
    """A checkpoint of 1 KiB on a file system in memory costs one etcd transaction and little else; the figures print."""
    folder = Path(tempfile.mkdtemp(prefix="amino-test-store-", dir=memory_folder()))
    files = FaultyStore(FileStore(folder))
    access = StoreAccess(files)
    scene = await _scene(shared_etcd, access, files)
    checkpoints = scene.checkpoints()
    snapshot = os.urandom(1024)
    loop = asyncio.get_running_loop()

    async def median(operation: Callable[[], Any]) -> float:
        took = []
        for _ in range(200):
            start = loop.time()
            await operation()
            took.append(loop.time() - start)
        return sorted(took)[100]

    await checkpoints.write(snapshot, 2)
    whole = await median(lambda: checkpoints.write(snapshot, 2))
    txn = await median(lambda: scene.put(scene.keys.code("x"), snapshot))
    file = await median(lambda: access.run(checkpoints._store_file, f"probe/{uuid.uuid4().hex}", snapshot))
    with capsys.disabled():
        sys.stdout.write(
            f" [1 KiB: write {whole * 1e3:.2f} ms; file {file * 1e3:.2f} ms; etcd transaction {txn * 1e3:.2f} ms] "
        )
    await access.aclose()
    await scene.store.aclose()
    shutil.rmtree(folder)
    assert whole < 3 * (txn + file) + 0.01
