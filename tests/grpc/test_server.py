"""The port itself: start and end, health, reflection, strangers."""

from __future__ import annotations

import asyncio
import socket
import sys

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from amino.errors import Invalid
from amino.rpc.grpc.server import GrpcServer
from amino.rpc.tls import TlsConfig
from amino.wire.gen.amino_v1.invoke_pb2_grpc import InvokeStub
from tests.grpc.asking import call, call_request, make
from tests.grpc.certificates import Authority
from tests.grpc.conftest import serve
from tests.grpc.fake_cluster import FakeInvoker, FakeKernel, FakeRegistry

SERVICES = ("amino.v1.Invoke", "amino.v1.Kernel", "amino.v1.Registry")
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def start(address, **options):
    registry = FakeRegistry()
    parts = {"registry": registry, "kernel": FakeKernel(), "invoker": FakeInvoker(registry)}
    return await GrpcServer.start(address, **parts, **options)


async def test_health_is_told_of_the_server_and_each_service(port):
    """Health checkers learn whether requests are taken, and of changes while they watch."""
    stub = health_pb2_grpc.HealthStub(port.channel)

    async def states():
        return {(await stub.Check(health_pb2.HealthCheckRequest(service=name))).status for name in ("", *SERVICES)}

    assert await states() == {SERVING}
    watch = stub.Watch(health_pb2.HealthCheckRequest(service="amino.v1.Invoke"))
    assert (await watch.read()).status == SERVING
    await port.server.set_serving(serving=False)
    assert (await watch.read()).status == NOT_SERVING
    assert await states() == {NOT_SERVING}
    await port.server.set_serving(serving=True)
    assert await states() == {SERVING}
    watch.cancel()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Check(health_pb2.HealthCheckRequest(service="amino.v1.Nothing"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def reflected(address):
    """Return, from reflection alone, the services listed and the fields of a call."""
    with grpc.insecure_channel(address) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        call_method = DescriptorPool(database).FindServiceByName("amino.v1.Invoke").FindMethodByName("Call")
        return set(database.get_services()), {field.name: field.type for field in call_method.input_type.fields}


async def test_reflection_tells_all_a_client_needs(port):
    """From reflection alone a client gets the services and every message they use."""
    services, fields = await asyncio.to_thread(reflected, port.address)
    assert services == {*SERVICES, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}
    assert {"name", "method", "args", "kwargs", "request_id"} <= fields.keys()


async def exchange(address, data):
    host, _, number = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(number))
    writer.write(data)
    try:
        await writer.drain()
        await asyncio.wait_for(reader.read(), 10)
    except ConnectionError:
        pass
    finally:
        writer.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)


@pytest.mark.parametrize(
    "data",
    [
        b"\x00" * 4096,
        bytes(range(256)) * 64,
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 4096,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff\xff\xff\x00\x00\x00\x00\x00\x01" + b"x" * 4096,
    ],
    ids=["zeros", "every byte", "HTTP/1", "broken HTTP/2", "huge HTTP/2 frame"],
)
async def test_garbage_ends_its_own_connection_only(port, data):
    """Whatever arrives on the port, the connection is closed and others go on."""
    await make(port)
    await exchange(port.address, data)
    assert await call(port, "add", 1) == 1


async def test_an_unknown_method_is_unimplemented(port):
    """A client of a later release learns that this server does not have the method."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await port.channel.unary_unary("/amino.v1.Invoke/CallLater")(b"")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_more_requests_at_a_time_than_allowed_are_refused_at_once():
    """Beyond the bound a request ends with RESOURCE_EXHAUSTED instead of waiting."""
    async with serve(requests_max=1) as port, grpc.aio.insecure_channel(port.address) as port.channel:
        started, go_on = asyncio.Event(), asyncio.Event()

        async def invoker(*_):
            started.set()
            await go_on.wait()

        port.invoker.answer = invoker
        stub = InvokeStub(port.channel)
        first = stub.Call(call_request("slow"))
        waiting = asyncio.ensure_future(first)
        await asyncio.wait_for(started.wait(), 5)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Call(call_request("quick"))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        go_on.set()
        assert (await waiting).value.WhichOneof("kind") == "null_value"
        del stub, first, waiting


async def test_closing_lets_running_requests_end():
    """``aclose`` refuses what is new, waits for what runs, tells health checkers, and may be called twice."""
    async with serve() as port, grpc.aio.insecure_channel(port.address) as port.channel:
        started, go_on = asyncio.Event(), asyncio.Event()

        async def invoker(*_):
            started.set()
            await go_on.wait()
            return "done"

        port.invoker.answer = invoker
        running = InvokeStub(port.channel).Call(call_request("slow"))
        waiting = asyncio.ensure_future(running)
        await asyncio.wait_for(started.wait(), 5)
        closing = asyncio.ensure_future(port.server.aclose(grace_s=10))
        again = asyncio.ensure_future(port.server.aclose())
        go_on.set()
        assert (await waiting).value.string_value == "done"
        await asyncio.gather(closing, again)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await InvokeStub(port.channel).Call(call_request("late"), timeout=5)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        del running, waiting


async def test_closing_without_grace_cancels_what_runs():
    """A request that runs when the port closes is cancelled at once."""
    async with serve() as port, grpc.aio.insecure_channel(port.address) as port.channel:
        started, cancelled = asyncio.Event(), asyncio.Event()

        async def invoker(*_):
            started.set()
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()

        port.invoker.answer = invoker
        running = InvokeStub(port.channel).Call(call_request("slow"))
        waiting = asyncio.ensure_future(running)
        await asyncio.wait_for(started.wait(), 5)
        await port.server.aclose()
        await asyncio.wait_for(cancelled.wait(), 5)
        with pytest.raises(grpc.aio.AioRpcError):
            await waiting
        del running, waiting


async def test_a_taken_port_is_told():
    """Two servers never share a port: the second is told which address is taken."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        address = f"127.0.0.1:{holder.getsockname()[1]}"
        with pytest.raises(Invalid, match=f"cannot listen on '{address}'"):
            await start(address)
    async with serve() as port:
        with pytest.raises(Invalid, match="another process may have the port"):
            await start(port.address)


@pytest.mark.parametrize("address", ["nonsense", "127.0.0.1:99999", ":"])
async def test_a_malformed_address_is_told(address):
    """The address and the form it should have are named."""
    with pytest.raises(Invalid, match="host:port"):
        await start(address)


async def test_plain_text_beyond_loopback_needs_insecure():
    """Listening on all interfaces without TLS is refused with the remedy, unless asked for."""
    with pytest.raises(Invalid, match="--insecure"):
        await start("0.0.0.0:0")
    server = await start("0.0.0.0:0", insecure=True)
    assert server.address.startswith("0.0.0.0:")
    await server.aclose()


async def test_unusable_tls_material_is_told_at_start(tmp_path):
    """A missing file and an expired certificate are named with the remedy before the port opens."""
    authority = Authority(tmp_path)
    good = authority.issue("s1", "amino://role/server")
    with pytest.raises(Invalid, match=r"nowhere\.pem"):
        await start("127.0.0.1:0", tls=TlsConfig(good.ca, tmp_path / "nowhere.pem", good.key))
    with pytest.raises(Invalid, match="expired"):
        await start("127.0.0.1:0", tls=authority.issue("old", "amino://role/server", days=(-9, -1)))


async def test_ipv6_addresses_are_told_in_brackets():
    """A server on IPv6 loopback tells an address that clients can use as it is."""
    if not socket.has_ipv6:
        pytest.skip("this machine has no IPv6")
    try:
        server = await start("[::1]:0")
    except Invalid:
        pytest.skip("this machine has no IPv6 loopback")
    assert server.address.startswith("[::1]:")
    assert not server.address.endswith(":0")
    assert repr(server) == f"GrpcServer({server.address})"
    await server.aclose()


UNDER_UVLOOP = """
import asyncio, sys
import grpc, uvloop
from amino.wire.gen.amino_v1.invoke_pb2_grpc import InvokeStub
from tests.grpc.asking import call, make
from tests.grpc.conftest import serve

async def main():
    async with serve() as port, grpc.aio.insecure_channel(port.address) as port.channel:
        await make(port)
        await asyncio.gather(*(call(port, "add", 1) for _ in range(500)))
        sys.stdout.write(str(await call(port, "get")))

uvloop.run(main())
"""


async def test_a_new_port_is_not_serving_until_told():
    """Between binding and having a session, health checkers keep traffic away."""
    server = await start("127.0.0.1:0")
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        assert (await stub.Check(health_pb2.HealthCheckRequest())).status == NOT_SERVING
        await server.set_serving(serving=True)
        assert (await stub.Check(health_pb2.HealthCheckRequest())).status == SERVING
    await server.aclose()
    del server, stub


@pytest.mark.real
async def test_under_uvloop_it_serves_without_noise():
    """On uvloop in a main thread 500 calls at a time are answered, and nothing is printed or warned of."""
    pytest.importorskip("uvloop", reason="uvloop is not installed here")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "error", "-c", UNDER_UVLOOP, stdout=-1, stderr=-1
    )
    out, noise = await asyncio.wait_for(process.communicate(), 60)
    assert (out.decode(), noise.decode(), process.returncode) == ("500", "", 0)
