"""Rolling through a cluster of real processes: each server ends and starts again, as another release too, and no call fails."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

import amino
from amino.aio.mode import offload
from amino.dm import AtLeastOnceRPC, PeriodicCheckpoint, SerializableRPC
from amino.testing.chaos.clusters import ClusterView, ProcessCluster
from amino.testing.chaos.faults import Nemesis, Scene, make
from amino.testing.chaos.workloads.services import Cells
from chaos import releases
from tests.etcd_fixtures import etcd_binaries

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(300)]
KEPT = (AtLeastOnceRPC(timeout_s=60.0), SerializableRPC(), PeriodicCheckpoint(every=1))


@pytest.mark.parametrize("kind", ["rolling-restart", "rolling-upgrade"])
async def test_rolling(kind: str, tmp_path: Path) -> None:
    """All servers are others afterwards, or run the other release and go back; every call between is answered."""
    release = releases.make(releases.NEXT, tmp_path).folder
    cluster = ProcessCluster(2, members=1, etcd_binary=etcd_binaries()[0], release=release)
    await cluster.start()
    try:
        async with ClusterView(cluster.etcd_endpoints) as view, await offload(cluster.connect) as client:
            with amino.deadline(60.0):
                cells = await amino.aio(client.new)(amino.spec(Cells, name="cells", dms=KEPT))
            before = await view.servers()
            began = time.monotonic()
            nemesis = Nemesis(Scene(cluster, view), lambda: time.monotonic() - began)
            rolling = asyncio.create_task(nemesis.cause(make(nemesis.scene, kind, "all"), 0.0))
            number = 0
            while not rolling.done():
                number += 1
                with amino.deadline(60.0):
                    await amino.aio(cells.write)("key", str(number))
                    assert await amino.aio(cells.read)("key") == str(number)
            record = await rolling
            assert record.verified, record.text
            after = await view.servers()
            assert all(after[name][0] != before[name][0] for name in cluster.servers)
            assert not any(map(cluster.runs_release, cluster.servers)), "all run the present release again"
    finally:
        await cluster.aclose()
