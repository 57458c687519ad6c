"""Clients made from the .proto files alone create, call, read typed values and errors, and delete."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.grpc.clients import generate_plain, install_node, run_node, run_plain

CALLEE = "tests.grpc.callee:Callee"
NODE_PACKAGES = Path(__file__).resolve().parents[2] / "build" / "node-client"

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def generated(tmp_path_factory) -> Path:
    return generate_plain(tmp_path_factory.mktemp("generated"))


@pytest.fixture(scope="module")
def node_client() -> Path:
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node and npm are not installed; Debian: apt-get install nodejs npm")
    return install_node(NODE_PACKAGES)


async def test_a_plain_grpcio_client(port, generated):
    """A grpcio client that imports nothing of Amino does everything a client can."""
    assert "delete" in await run_plain(port.address, generated, CALLEE)
    assert port.server.statistics()["amino.v1.Invoke"]["failed"] == 0


async def test_a_node_client(port, node_client):
    """A Node.js client with the two usual packages and the .proto files does everything a client can."""
    assert "delete" in await run_node(port.address, node_client, CALLEE)
    assert port.server.statistics()["amino.v1.Invoke"]["failed"] == 0
