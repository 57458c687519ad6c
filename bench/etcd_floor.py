"""The raw rate of transactions of an etcd, one operation each, 64 in flight: what creation is compared with.

Owns the keys it writes, below a prefix of its own, and removes them. Leaves everything else in that etcd alone.
Invariant: plain unbatched transactions (one compare, one put) on one channel, nothing of Amino in between.
Failure behaviour: etcd's errors pass through.
"""

from __future__ import annotations

import asyncio

from bench.stats import rate_async

IN_FLIGHT = 64
PREFIX = "/amino-bench-floor/"


def transactions_per_s(endpoint: str, seconds: float = 2.0) -> float:
    """Return transactions per second at ``endpoint`` (``host:port``)."""
    return asyncio.run(_measure(endpoint, seconds))


async def _measure(endpoint: str, seconds: float) -> float:
    import grpc
    from aetcd import rpc

    channel = grpc.aio.insecure_channel(endpoint)
    try:
        store = rpc.KVStub(channel)
        number = 0

        async def transaction() -> None:
            nonlocal number
            number += 1
            key = f"{PREFIX}{number}".encode()
            absent = rpc.Compare(result=rpc.Compare.EQUAL, target=rpc.Compare.CREATE, key=key, create_revision=0)
            put = rpc.RequestOp(request_put=rpc.PutRequest(key=key, value=b"x" * 200))
            await store.Txn(rpc.TxnRequest(compare=[absent], success=[put]))

        rate = await rate_async(transaction, IN_FLIGHT, seconds)
        end = PREFIX[:-1] + chr(ord(PREFIX[-1]) + 1)
        await store.DeleteRange(rpc.DeleteRangeRequest(key=PREFIX.encode(), range_end=end.encode()))
        return rate
    finally:
        await channel.close()


async def leases(endpoint: str) -> int:
    """Return how many leases that etcd has."""
    import grpc
    from aetcd import rpc

    channel = grpc.aio.insecure_channel(endpoint)
    try:
        answer = await rpc.LeaseStub(channel).LeaseLeases(rpc.LeaseLeasesRequest())
        return len(answer.leases)
    finally:
        await channel.close()
