"""A gRPC port on fakes, for the tests of the adapter."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

import grpc
import pytest_asyncio

from amino.rpc.grpc.server import GrpcServer
from tests.grpc.fake_cluster import FakeInvoker, FakeKernel, FakeRegistry, FakeStub


@dataclass
class Port:
    """A running port with what is behind it, and a channel to it."""

    server: GrpcServer
    registry: FakeRegistry
    kernel: FakeKernel
    invoker: FakeInvoker
    channel: grpc.aio.Channel

    @property
    def address(self) -> str:
        return self.server.address


@pytest_asyncio.fixture
async def port() -> AsyncIterator[Port]:
    registry, kernel = FakeRegistry(), FakeKernel()
    invoker = FakeInvoker(registry)
    server = await GrpcServer.start(
        "127.0.0.1:0",
        registry=registry,
        kernel=kernel,
        invoker=invoker,
        bind=FakeStub,
        message_bytes_max=1024 * 1024,
    )
    async with grpc.aio.insecure_channel(server.address) as channel:
        running = Port(server, registry, kernel, invoker, channel)
        yield running
    await server.aclose()
    del running.server, running.channel  # gRPC's poller thread ends with the last of them
