"""Kernel on a running port: who may command, and that a command's parts agree."""

from __future__ import annotations

import grpc
import msgspec
import pytest

from amino.contracts import services as c
from amino.contracts.documents import GroupDocument, MicroserviceRecord, MicroserviceSpec
from amino.errors import PermissionDenied
from amino.rpc.grpc.callers import require_server, require_trusted
from amino.wire.gen.amino_v1 import kernel_pb2 as pb
from amino.wire.gen.amino_v1.invoke_pb2_grpc import InvokeStub
from amino.wire.gen.amino_v1.kernel_pb2_grpc import KernelStub
from amino.wire.gen.amino_v1.registry_pb2 import Empty
from amino.wire.gen.amino_v1.registry_pb2_grpc import RegistryStub
from tests.grpc.asking import call, call_request, make, refused
from tests.grpc.certificates import Authority
from tests.grpc.conftest import Port, serve

Code = grpc.StatusCode
AS_SERVER = (("amino-role", "server"),)
FENCE = c.Fence(5, 100, 200)
RECORD = MicroserviceRecord(MicroserviceSpec("a:B"))
DOCUMENT = GroupDocument(epoch=3)
INSTANTIATE = c.InstantiateRequest("m", "/", "r1", RECORD, DOCUMENT, FENCE, source="checkpoint")


def command(request, snapshot=b"", **different):
    fields = {"microservice": request.microservice, "path": request.path, "replica": getattr(request, "replica", "")}
    fence = pb.Fencing(slot=5, leader_revision=100, document_revision=200)
    body = msgspec.msgpack.encode(request)
    return pb.KernelCommand(**{**fields, "fence": fence, "body": body, "snapshot": snapshot, **different})


async def test_commands_reach_the_kernel_whole(port):
    """Each command arrives as the contract's message, a snapshot beside it, and the answer comes back."""
    kernel = KernelStub(port.channel)
    transfer = c.TransferRequest("m", "/", RECORD, DOCUMENT, FENCE, "127.0.0.1:1")
    adopt = c.AdoptRequest("m", "/", RECORD, DOCUMENT, FENCE)
    retire = c.RetireRequest("m", "/", "r1", FENCE, destroy=True)
    answer = await kernel.Instantiate(command(INSTANTIATE), metadata=AS_SERVER)
    assert (answer.document_revision, msgspec.msgpack.decode(answer.body, type=c.InstantiateReply)) == (
        41,
        c.InstantiateReply(41, {"add": 0}),
    )
    answer = await kernel.Transfer(command(transfer), metadata=AS_SERVER)
    assert msgspec.msgpack.decode(answer.body, type=c.TransferReply) == c.TransferReply(42, 0.25)
    assert (await kernel.Adopt(command(adopt, b"\x00snapshot"), metadata=AS_SERVER)).document_revision == 43
    assert (await kernel.Retire(command(retire), metadata=AS_SERVER)).document_revision == 0
    await kernel.Fence(pb.FenceRequest(incarnation=7), metadata=AS_SERVER)
    assert (await kernel.Statistics(Empty(), metadata=AS_SERVER)).valid_for_s == 2.5
    assert (await kernel.Replicas(Empty(), metadata=AS_SERVER)).replicas[0].state == "serving"
    assert port.kernel.seen == [
        ("instantiate", INSTANTIATE),
        ("transfer", transfer),
        ("adopt", (adopt, b"\x00snapshot")),
        ("retire", retire),
        ("fence", c.FenceRequest(7)),
        ("statistics", c.Empty()),
        ("replicas", c.Empty()),
    ]


@pytest.mark.parametrize("metadata", [None, (("amino-role", "client"),)])
async def test_without_tls_only_callers_that_say_they_are_servers_are_heard(port, metadata):
    """A client that strays here is told where to go, whatever the method."""
    kernel = KernelStub(port.channel)
    for pending in (
        kernel.Fence(pb.FenceRequest(incarnation=7), metadata=metadata),
        kernel.Retire(pb.KernelCommand(), metadata=metadata),
        kernel.Statistics(Empty(), metadata=metadata),
    ):
        status, code, message, _ = await refused(pending)
        assert (status, code) == (Code.PERMISSION_DENIED, "permission-denied")
        assert "Registry and Invoke" in message
    assert port.kernel.seen == []


class Caller:
    """A gRPC context of a caller that states the role."""

    def __init__(self, peer):
        self._peer = peer

    def peer(self):
        return self._peer

    def invocation_metadata(self):
        return AS_SERVER


@pytest.mark.parametrize("peer", ["ipv4:127.0.0.1:50", "ipv6:%5B::1%5D:50", "unix:/run/amino.sock", "unix:"])
def test_without_tls_this_machine_is_heard(peer):
    """Loopback in all its forms, and Unix sockets."""
    require_server(Caller(peer), secure=False)
    require_trusted(Caller(peer), "PushCode", secure=False)


@pytest.mark.parametrize("peer", ["ipv4:198.18.0.7:50", "ipv6:%5B2001:db8::1%5D:50", "vsock:3:4"])
def test_without_tls_other_machines_are_not_heard(peer):
    """Even on a port opened with --insecure, commands and code come from this machine only; with TLS, code from anyone."""
    with pytest.raises(PermissionDenied, match=r"Kernel .* this machine only"):
        require_server(Caller(peer), secure=False)
    with pytest.raises(PermissionDenied, match=r"PushCode .* this machine only"):
        require_trusted(Caller(peer), "PushCode", secure=False)
    require_trusted(Caller(peer), "PushCode", secure=True)


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (command(INSTANTIATE, microservice="other"), "microservice is 'other'"),
        (command(INSTANTIATE, replica="r2"), "replica is 'r2'"),
        (command(INSTANTIATE, fence={"slot": 6}), "fence.slot is 6"),
        (command(INSTANTIATE, body=b""), "body is no InstantiateRequest"),
        (command(INSTANTIATE, body=b"\xc1\xff"), "body is no InstantiateRequest"),
        (command(INSTANTIATE, body=msgspec.msgpack.encode({"microservice": 3})), "body is no InstantiateRequest"),
    ],
)
async def test_commands_whose_parts_disagree_are_refused(port, request_, words):
    """What proxies and logs see is what is carried out, or nothing is."""
    status, code, message, _ = await refused(KernelStub(port.channel).Instantiate(request_, metadata=AS_SERVER))
    assert (status, code) == (Code.INVALID_ARGUMENT, "invalid")
    assert words in message
    assert port.kernel.seen == []


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("certificates"))


def credentials(files):
    return grpc.ssl_channel_credentials(
        *(path.read_bytes() for path in (files.ca, files.key, files.cert)),
    )


@pytest.fixture
async def secure(authority):
    """A port with TLS, and a way to open channels to it."""
    async with serve(tls=authority.issue("s1", "amino://role/server", "amino://server/s1")) as running:
        yield running


async def secure_calls(secure: Port, files):
    """Return how a caller with ``files`` fares: the outcome of a call, a registry request and a command."""
    async with grpc.aio.secure_channel(secure.address, credentials(files)) as channel:
        secure.channel = channel
        await make(secure, "it")
        called = await call(secure, "add", 1)
        members = await RegistryStub(channel).Members(Empty())
        fencing = KernelStub(channel).Fence(pb.FenceRequest(incarnation=7), metadata=AS_SERVER)
        try:
            await fencing
        except grpc.aio.AioRpcError as error:
            return called, members.revision, (error.code(), error.details())
        return called, members.revision, None


@pytest.mark.parametrize("uri", ["amino://role/server", "amino://server/s2"])
async def test_a_certificate_of_a_server_may_command(secure, authority, uri):
    """A server's certificate opens all three services."""
    assert await secure_calls(secure, authority.issue("s2", uri)) == (1, 11, None)
    assert secure.kernel.seen == [("fence", c.FenceRequest(7))]


@pytest.mark.parametrize(
    ("uris", "words"), [(["amino://role/client"], "certificate is for a client"), ([], "names no role")]
)
async def test_other_certificates_may_create_and_call_but_not_command(secure, authority, uris, words):
    """What a client says of its role in metadata counts for nothing when there are certificates."""
    called, members, refusal = await secure_calls(secure, authority.issue("c1", *uris))
    assert (called, members) == (1, 11)
    assert refusal[0] is Code.PERMISSION_DENIED
    assert words in refusal[1]
    assert secure.kernel.seen == []


async def test_callers_without_a_certificate_of_our_authority_are_not_let_in(secure, authority, tmp_path):
    """No certificate, a foreign one, an expired one, plain text: none of them gets a request through."""
    expired = authority.issue("late", "amino://role/server", days=(-10, -1))
    foreign = Authority(tmp_path, "foreign").issue("f1", "amino://role/server")
    ca = expired.ca.read_bytes()
    channels = [
        grpc.aio.secure_channel(secure.address, grpc.ssl_channel_credentials(ca)),
        grpc.aio.secure_channel(
            secure.address, grpc.ssl_channel_credentials(ca, foreign.key.read_bytes(), foreign.cert.read_bytes())
        ),
        grpc.aio.secure_channel(secure.address, credentials(expired)),
        grpc.aio.insecure_channel(secure.address),
    ]
    for channel in channels:
        async with channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await InvokeStub(channel).Call(call_request("get"), timeout=5)
            assert caught.value.code() is Code.UNAVAILABLE
    assert secure.invoker.calls == []
    del channels, channel
