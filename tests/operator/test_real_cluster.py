"""The operator between its small API server and a real cluster of Amino: from kubectl apply to a call, and back."""

import asyncio
import threading
from pathlib import Path

import kopf
import pytest

from amino.config import ClientConfig
from amino.errors import NotFound
from amino.operator.config import OperatorConfig
from amino.operator.microservices import ClusterMicroservices
from amino.operator.running import connect, operate, settings
from amino.testing import LocalCluster
from tests.node.conftest import etcd_endpoints, grpc_poller, node_etcd
from tests.operator.api_server import NAMESPACE, ApiServer

__all__ = ["etcd_endpoints", "grpc_poller", "node_etcd"]
pytestmark = pytest.mark.real

APP = Path(__file__).parents[1] / "cli" / "app"
PATIENCE_S = 60.0
MANIFEST = """
apiVersion: amino.run/v1
kind: Microservice
metadata: {name: hits, labels: {kind: test}}
spec:
  class: clishop.counter:Counter
  args: [100]
  kwargs: {step: 2}
  dms: [AtLeastOnceRPC, {PeriodicCheckpoint: {every: 1}}, SerializableRPC]
"""


def condition(found, kind):
    conditions = (found or {}).get("status", {}).get("conditions", [])
    return next((each for each in conditions if each["type"] == kind), {})


async def test_a_resource_becomes_a_microservice(node_etcd):
    """Applied, called, changed, moved, deleted: Amino does what the resource says, and status says what Amino did."""
    async with LocalCluster(
        2, etcd_endpoints=node_etcd.endpoints, app_dirs=[APP], cluster="operated", session_ttl_s=2
    ) as local:
        client = ClientConfig(address=local.addresses[0], cluster="operated")
        config = OperatorConfig(client=client, namespaces=(NAMESPACE,), poll_s=0.1)
        microservices = ClusterMicroservices(lambda: connect(config), fresh_s=0.05)
        stop = threading.Event()
        async with ApiServer() as kubernetes:

            async def login(**_):
                return kopf.ConnectionInfo(server=kubernetes.url)

            def run():
                asyncio.run(operate(config, microservices, chosen=settings(), login=login, retry_s=0.1, stop_flag=stop))

            thread = threading.Thread(target=run, name="operator")
            thread.start()
            try:
                await _live(kubernetes, local)
                demand = await asyncio.to_thread(microservices.demand)
                assert (demand.widest, demand.replicas) == (0, 0)
            finally:
                stop.set()
                await asyncio.to_thread(thread.join, PATIENCE_S)


async def _live(kubernetes, local):
    await kubernetes.apply(MANIFEST)
    found = await kubernetes.until("microservices", "hits", lambda it: condition(it, "Ready").get("status") == "True")
    async with local.connect() as cluster:
        hits = await asyncio.to_thread(cluster.get, "hits")
        assert await asyncio.to_thread(hits.add, 5) == 110
        described = await asyncio.to_thread(cluster.describe, "hits")
        servers = [replica.server for replica in described.groups["/"].replicas]
        assert (described.id, servers, described.record.spec.labels) == (
            found["status"]["id"], found["status"]["servers"], {"kind": "test"},
        )  # fmt: skip
        await kubernetes.apply(MANIFEST.replace(", SerializableRPC", ""))
        found = await kubernetes.until(
            "microservices", "hits", lambda it: condition(it, "Applied").get("reason") == "Changed"
        )
        assert "SerializableRPC" in condition(found, "Applied")["message"]
        assert await asyncio.to_thread(hits.add, 1) == 112
        there = await asyncio.to_thread(cluster.move, hits)
        await kubernetes.until("microservices", "hits", lambda it: it["status"]["servers"] == [there])
        await kubernetes.apply(MANIFEST.replace(":Counter", ":Other"))
        found = await kubernetes.until(
            "microservices", "hits", lambda it: condition(it, "Applied").get("status") == "False"
        )
        assert "class of a running microservice cannot change" in condition(found, "Applied")["message"]
        await kubernetes.delete("microservices", "hits")
        await kubernetes.until("microservices", "hits", lambda it: it is None)
        with pytest.raises(NotFound):
            await asyncio.to_thread(cluster.describe, "hits")
