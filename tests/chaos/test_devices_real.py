"""Devices of a real cluster that are killed, frozen and cut off: what is on them goes on, and they come back."""

from __future__ import annotations

import time

import pytest

import amino
from amino.aio.mode import offload
from amino.dm import AtLeastOnceRPC, ConsensusRSMP2P
from amino.errors import NotFound
from amino.testing.chaos.clusters import ClusterView, Part, ProcessCluster
from amino.testing.chaos.faults import Nemesis, Scene, make
from amino.testing.chaos.workloads.services import Cells
from tests.etcd_fixtures import etcd_binaries

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(240)]
ON_DEVICES = (AtLeastOnceRPC(timeout_s=60.0), ConsensusRSMP2P(replicas=2))


async def test_devices_are_lost() -> None:
    """Whichever way the primary's device is lost, what was written is read, and its process is a device again afterwards."""
    cluster = ProcessCluster(2, devices=2, members=1, etcd_binary=etcd_binaries()[0])
    await cluster.start()
    try:
        async with ClusterView(cluster.etcd_endpoints) as view, await offload(cluster.connect) as client:
            with amino.deadline(60.0):
                cells = await amino.aio(client.new)(amino.spec(Cells, name="cells", dms=ON_DEVICES))
            assert not await view.await_rest(2, 60.0, devices=2)
            began = time.monotonic()
            nemesis = Nemesis(Scene(cluster, view), lambda: time.monotonic() - began, rest_s=60.0)
            for kind in ("kill-device", "freeze-device-long", "isolate-device", "leave-device"):
                before = await view.servers()
                with amino.deadline(60.0):
                    await amino.aio(cells.write)("key", kind)
                record = await nemesis.cause(make(nemesis.scene, kind, "primary"), 3.0)
                assert record.verified, record.text
                assert record.target in cluster.devices
                assert not await view.await_rest(
                    2, 30.0, devices=2
                )  # the place of what came back may be changed once more
                with amino.deadline(60.0):
                    assert await amino.aio(cells.read)("key") == kind
                if kind == "kill-device":
                    assert (await view.servers())[record.target][0] > before[record.target][0]
            assert all(cluster.pid(name, Part.KERNEL) for name in cluster.devices)
            with pytest.raises(NotFound, match="no device is 's1'"):
                await make(nemesis.scene, "kill-device", "s1").inject()
    finally:
        await cluster.aclose()
    assert not any(cluster.pid(name, Part.KERNEL) for name in cluster.devices)
