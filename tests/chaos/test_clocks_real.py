"""Jumps of the wall clocks of real servers: what they store shows them, what they promise does not."""

from __future__ import annotations

import time

import pytest

import amino
from amino.aio.mode import offload
from amino.dm import AtLeastOnceRPC, PeriodicCheckpoint, SerializableRPC
from amino.testing.chaos.clusters import ClusterView, ProcessCluster
from amino.testing.chaos.faults import Nemesis, Scene, make
from amino.testing.chaos.workloads.services import Cells
from tests.etcd_fixtures import etcd_binaries

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(240)]
KEPT = (AtLeastOnceRPC(timeout_s=60.0), SerializableRPC(), PeriodicCheckpoint(every=1))
HALF_AN_HOUR_S = 1800.0


async def test_servers_whose_clocks_jump() -> None:
    """Checkpoints carry the time that their server was told; sessions live on, and no call fails or finds another state."""
    cluster = ProcessCluster(2, members=1, etcd_binary=etcd_binaries()[0], clocks=True)
    await cluster.start()
    try:
        async with ClusterView(cluster.etcd_endpoints) as view, await offload(cluster.connect) as client:
            with amino.deadline(60.0):
                cells = await amino.aio(client.new)(amino.spec(Cells, name="cells", dms=KEPT))
            before = {name: incarnation for name, (incarnation, _) in (await view.servers()).items()}
            scene = Scene(cluster, view)
            for number, (kind, ahead_s) in enumerate((("clock-forward", 3600.0), ("clock-back", -3600.0))):
                fault = make(scene, kind, "all")
                await fault.inject()
                try:
                    with amino.deadline(60.0):
                        await amino.aio(cells.write)("key", str(number))
                        assert await amino.aio(cells.read)("key") == str(number)
                    assert await fault.happened(), fault.text
                    (manifest,) = (await view.checkpoints()).values()
                    assert abs(manifest.entries[0].taken_at - time.time() - ahead_s) < HALF_AN_HOUR_S
                finally:
                    await fault.heal()
            began = time.monotonic()
            nemesis = Nemesis(scene, lambda: time.monotonic() - began)
            record = await nemesis.cause(make(scene, "clock-strobe", "all"), 1.0)
            assert record.verified, record.text
            assert [cluster.clocks.ahead(name) for name in cluster.servers if cluster.clocks is not None] == [0.0, 0.0]
            with amino.deadline(60.0):
                assert await amino.aio(cells.read)("key") == "1"
            after = {name: incarnation for name, (incarnation, _) in (await view.servers()).items()}
            assert after == before, "no session ended"
    finally:
        await cluster.aclose()
