"""What tests ask of etcd's members themselves, each directly."""

from __future__ import annotations

import asyncio

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


async def elected_besides(etcd: EmbeddedEtcd, victim: int) -> None:
    """Wait until every other member takes one of them for the leader; how long etcd needs for that is etcd's own affair."""
    others = [endpoint for index, endpoint in enumerate(etcd.endpoints) if index != victim]
    channels = [grpc.aio.insecure_channel(endpoint) for endpoint in others]
    try:
        async with asyncio.timeout(30):
            while True:  # a member tells nobody of an election: it has to be asked
                asked = [rpc.MaintenanceStub(one).Status(rpc.StatusRequest(), timeout=5) for one in channels]
                found = await asyncio.gather(*asked)
                if {status.leader for status in found} <= {status.header.member_id for status in found}:
                    return
                await asyncio.sleep(0.02)
    finally:
        for channel in channels:
            await channel.close()
