"""What tests ask of etcd's members themselves, each directly."""

from __future__ import annotations

import grpc.aio
from aetcd import rpc

from amino.node.embedded_etcd import EmbeddedEtcd


async def leader_index(etcd: EmbeddedEtcd) -> int:
    """Return the index of the member that leads."""
    for index, endpoint in enumerate(etcd.endpoints):
        async with grpc.aio.insecure_channel(endpoint) as channel:
            status = await rpc.MaintenanceStub(channel).Status(rpc.StatusRequest(), timeout=5, wait_for_ready=True)
        if status.leader == status.header.member_id:
            return index
    raise AssertionError("no member leads")
