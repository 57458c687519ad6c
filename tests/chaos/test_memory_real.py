"""Pressure on the memory of a real server: its kernel process says that memory is short, goes on, and is let go."""

from __future__ import annotations

import time

import pytest

import amino
from amino.aio.mode import offload
from amino.dm import AtLeastOnceRPC, LockingTransactions, PeriodicCheckpoint
from amino.errors import NotFound
from amino.testing.chaos.clusters import Ability, ClusterView, ProcessCluster
from amino.testing.chaos.clusters.memory import unusable
from amino.testing.chaos.faults import Nemesis, Scene, make
from amino.testing.chaos.workloads.services import Cells
from tests.etcd_fixtures import etcd_binaries

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(240)]
KEPT = (AtLeastOnceRPC(timeout_s=60.0), LockingTransactions(), PeriodicCheckpoint(every=1))


async def test_memory_is_short() -> None:
    """The server tells the history, calls are answered meanwhile, and afterwards it may be pressed again."""
    cluster = ProcessCluster(2, members=1, etcd_binary=etcd_binaries()[0])
    if Ability.MEMORY not in cluster.abilities:
        assert unusable(), "where there can be none, it says why"
        return
    await cluster.start()
    try:
        async with ClusterView(cluster.etcd_endpoints) as view, await offload(cluster.connect) as client:
            with amino.deadline(60.0):
                cells = await amino.aio(client.new)(amino.spec(Cells, name="cells", dms=KEPT))
            began = time.monotonic()
            nemesis = Nemesis(Scene(cluster, view), lambda: time.monotonic() - began)
            fault = make(nemesis.scene, "memory-pressure", "primary")
            await fault.inject()
            try:
                assert await fault.happened(), fault.text
                with amino.deadline(60.0):
                    await amino.aio(cells.write)("key", "1")
            finally:
                await fault.heal()
            with amino.deadline(60.0):
                assert await amino.aio(cells.read)("key") == "1"
            with pytest.raises(NotFound):
                await make(nemesis.scene, "memory-pressure", "s9").inject()
    finally:
        await cluster.aclose()
