"""A gRPC port on fakes, for the tests of the adapter."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio

from amino.rpc.grpc.server import GrpcServer
from tests.grpc.clients import generate_plain, install_node
from tests.grpc.fake_cluster import FakeInvoker, FakeKernel, FakeRegistry, FakeStub

NODE_PACKAGES = Path(__file__).resolve().parents[2] / "build" / "node-client"


@dataclass
class Port:
    """A running port with what is behind it, and a channel to it."""

    server: GrpcServer
    registry: FakeRegistry
    kernel: FakeKernel
    invoker: FakeInvoker
    channel: Any = None

    @property
    def address(self) -> str:
        return self.server.address


@contextlib.asynccontextmanager
async def serve(**options: Any) -> AsyncIterator[Port]:
    """Run a port on fakes; afterwards it holds nothing of gRPC, whose poller thread ends with the last such object."""
    registry, kernel = FakeRegistry(), FakeKernel()
    invoker = FakeInvoker(registry)
    options = {"bind": FakeStub, "message_bytes_max": 1024 * 1024, **options}
    server = await GrpcServer.start("127.0.0.1:0", registry=registry, kernel=kernel, invoker=invoker, **options)
    await server.set_serving(serving=True)
    running = Port(server, registry, kernel, invoker)
    try:
        yield running
    finally:
        await server.aclose()
        del running.server, running.channel
        registry.fail_with = invoker.answer = None  # raised exceptions hold frames, and those the call


@pytest_asyncio.fixture
async def port() -> AsyncIterator[Port]:
    async with serve() as running, grpc.aio.insecure_channel(running.address) as running.channel:
        yield running


@pytest.fixture(scope="module")
def generated(tmp_path_factory) -> Path:
    return generate_plain(tmp_path_factory.mktemp("generated"))


@pytest.fixture(scope="module")
def node_client() -> Path:
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node and npm are not installed; Debian: apt-get install nodejs npm")
    return install_node(NODE_PACKAGES)
