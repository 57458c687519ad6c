"""A server in a container whose supervisor is killed: its kernel process outlives that long enough to say so."""

from __future__ import annotations

import os
import signal

import pytest

import amino
from amino.dm import AtLeastOnceRPC, PeriodicCheckpoint
from amino.testing.chaos.clusters.containers import ContainerCluster
from amino.testing.chaos.clusters.port import Part, is_gone
from amino.testing.chaos.clusters.view import ClusterView
from amino.testing.chaos.faults.fault import comes_true
from amino.testing.chaos.workloads.stores import Lists
from tests.deploy.composed import IMAGE_USED, need_containers

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(300)]
TTL_S = 30


async def test_a_supervisor_killed_in_its_container_costs_no_session():
    """The session would run out after 30 s; what it hosted answers from elsewhere long before. The container ends, and comes back."""
    need_containers()
    cluster = ContainerCluster(2, members=1, ttl_s=TTL_S, image=IMAGE_USED)
    await cluster.start()
    try:
        with cluster.connect() as client:
            spec = amino.spec(Lists, name="kept", dms=[AtLeastOnceRPC(), PeriodicCheckpoint(every=1)])
            stub = await amino.aio(client.new)(spec)
            assert await amino.aio(stub.append)("k", "a") == 1
            async with ClusterView(cluster.etcd_endpoints) as view:
                home = await view.primary(cluster.servers)
            supervisor = cluster.pid(home, Part.SUPERVISOR)
            kernel = cluster.pid(home, Part.KERNEL)
            assert supervisor
            assert kernel
            os.kill(supervisor, signal.SIGKILL)
            with amino.deadline(TTL_S / 2):
                assert await amino.aio(stub.append)("k", "b") == 2
            assert await comes_true(lambda: is_gone(kernel))
            await cluster.revive(home)
            assert cluster.pid(home, Part.SUPERVISOR) not in {0, supervisor}
            assert await amino.aio(stub.read)("k") == ["a", "b"]
    finally:
        await cluster.aclose()
