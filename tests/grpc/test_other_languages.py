"""Clients made from the .proto files alone create, call, read typed values and errors, and delete."""

from __future__ import annotations

import pytest

from tests.grpc.clients import run_node, run_plain

CALLEE = "tests.grpc.callee:Callee"

pytestmark = pytest.mark.real


async def test_a_plain_grpcio_client(port, generated):
    """A grpcio client that imports nothing of Amino does everything a client can."""
    assert "delete" in await run_plain(port.address, generated, CALLEE)
    assert port.server.statistics()["amino.v1.Invoke"]["failed"] == 0


async def test_a_node_client(port, node_client):
    """A Node.js client with the two usual packages and the .proto files does everything a client can."""
    assert "delete" in await run_node(port.address, node_client, CALLEE)
    assert port.server.statistics()["amino.v1.Invoke"]["failed"] == 0
