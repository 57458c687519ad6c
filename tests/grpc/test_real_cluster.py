"""Clients in other languages against a real cluster: they create on one server what runs on any, and call through all."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from amino.wire.codec import Reference
from amino.wire.gen.amino_v1.registry_pb2 import DeleteRequest
from amino.wire.gen.amino_v1.registry_pb2_grpc import RegistryStub
from tests.grpc.asking import call, make
from tests.grpc.clients import run_node, run_plain

ROOT = Path(__file__).resolve().parents[2]
CALLEE = "tests.grpc.callee:Callee"

pytestmark = pytest.mark.real
amino_cluster = {"servers": 2, "app_dirs": [ROOT]}


@pytest.fixture(params=["s1", "s2"])
def address(request, cluster) -> str:
    return cluster.server(request.param).grpc_address


async def test_a_plain_grpcio_client(address, generated):
    """Create, call, typed errors and delete through either server, from the .proto files alone."""
    assert "delete" in await run_plain(address, generated, CALLEE)


async def test_a_node_client(address, node_client):
    """As above, from Node.js."""
    assert "delete" in await run_node(address, node_client, CALLEE)


async def test_refs_sent_by_another_language_can_be_called_and_returned(address):
    """A method calls the microservice whose ref it was sent, keeps it, and gives it back as a ref."""
    async with grpc.aio.insecure_channel(address) as channel:
        asker = SimpleNamespace(channel=channel)
        await make(asker, "one")
        other = Reference((await make(asker, "two", 10)).microservice)
        assert await call(asker, "add_to", other, 5, name="one") == 15
        await call(asker, "keep", {"them": [other]}, name="one")
        (kept,) = (await call(asker, "kept_value", name="one"))["them"]
        assert kept.microservice == other.microservice
        registry = RegistryStub(channel)
        for name in ("one", "two"):
            await registry.Delete(DeleteRequest(name=name))


def test_a_server_with_a_session_is_serving(address):
    """Health checkers see a server that has its session as serving."""
    with grpc.insecure_channel(address) as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
