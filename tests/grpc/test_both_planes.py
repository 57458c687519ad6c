"""The same operation over gRPC and over the peer link: the service sees the same request, the caller the same answer."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc
import msgspec
import pytest
import pytest_asyncio

from amino.aio.tasks import TaskOwner
from amino.contracts import services as c
from amino.contracts.documents import DmSpec, MicroserviceSpec, Placement, Requirement
from amino.errors import AminoError, by_code
from amino.rpc.handshake import NodeInfo
from amino.rpc.peer_link import PeerListener
from amino.rpc.peer_transport import PeerTransport
from amino.rpc.system import SystemDispatcher, proxy
from amino.wire import codec
from amino.wire.gen.amino_v1 import registry_pb2 as pb
from amino.wire.gen.amino_v1.registry_pb2_grpc import RegistryStub
from amino.wire.typed import to_value
from tests.grpc.asking import CALLEE, make, refused

SPEC = MicroserviceSpec(
    CALLEE,
    name="it2",
    dms=(DmSpec("PeriodicCheckpoint", {"every": 3}),),
    placement=Placement(((Requirement("region", "In", ("eu",)),),)),
    on_loss="recreate",
)
SPEC_MESSAGE = pb.MicroserviceSpec(
    class_path=CALLEE,
    name="it2",
    dms=[pb.DeploymentManager(name="PeriodicCheckpoint", options={"every": to_value(3)})],
    placement=pb.Placement(
        selector=[pb.SelectorTerm(requirements=[pb.Requirement(key="region", operator="In", values=["eu"])])]
    ),
    on_loss="recreate",
)
ARGUMENTS = codec.pack(((1,), {"label": "x"}))
VALUES = {"args": [to_value(1)], "kwargs": {"label": to_value("x")}}

# (operation, the request as the contract has it, the request as the .proto files have it)
OPERATIONS = [
    (
        "create",
        c.CreateRequest("ab" * 12, SPEC, ARGUMENTS),
        pb.CreateRequest(microservice="ab" * 12, spec=SPEC_MESSAGE, **VALUES),
    ),
    ("locate", c.LocateRequest(name="it", stale={"/": 2}), pb.LocateRequest(name="it", stale={"/": 2})),
    ("move", c.MoveRequest(name="it", server="s2", why="asked for"), pb.MoveRequest(name="it", server="s2")),
    ("scale", c.ScaleRequest(name="it", shards=3), pb.ScaleRequest(name="it", shards=3)),
    (
        "change",
        c.ChangeRequest(SPEC, microservice="ab" * 12, dry_run=True),
        pb.ChangeRequest(spec=SPEC_MESSAGE, microservice="ab" * 12, dry_run=True),
    ),
    (
        "find",
        c.FindRequest(cls=CALLEE, label=(Requirement("tier"),)),
        pb.FindRequest(class_path=CALLEE, label=[{"key": "tier"}]),
    ),
    ("describe", c.ByName(name="it"), pb.ByName(name="it")),
    ("members", c.Empty(), pb.Empty()),
    ("slots", c.Empty(), pb.Empty()),
    ("cordon", c.CordonRequest("s1", cordon=False), pb.CordonRequest(server="s1", cordon=False)),
    ("drain", c.DrainRequest("s1", 5.0, "disk"), pb.DrainRequest(server="s1", timeout_s=5, why="disk")),
    ("pause", c.PauseRequest(paused=False), pb.PauseRequest(paused=False)),
    ("release", c.ByName(name="it"), pb.ByName(name="it")),
    ("restore", c.ByName(name="it"), pb.ByName(name="it")),
    ("push_code", c.PushCodeRequest("00", "zip", b"PK"), pb.PushCodeRequest(sha256="00", kind="zip", content=b"PK")),
    (
        "define_application",
        c.ApplicationRequest("shop", SPEC, ARGUMENTS),
        pb.ApplicationRequest(name="shop", entry=SPEC_MESSAGE, **VALUES),
    ),
    ("application", c.ByName(name="it"), pb.ByName(name="it")),
    ("events", c.EventsRequest(), pb.EventsRequest()),
    ("acquire_lock", c.AcquireLockRequest("orders", "h1"), pb.AcquireLockRequest(lock="orders", holder="h1")),
    ("renew_lock", c.HeldLockRequest("orders", "h1", 7), pb.HeldLockRequest(lock="orders", holder="h1", token=7)),
    ("release_lock", c.HeldLockRequest("orders", "h1", 7), pb.HeldLockRequest(lock="orders", holder="h1", token=7)),
    (
        "begin_decision",
        c.BeginDecisionRequest("t1", ("m1/",), "bank"),
        pb.BeginDecisionRequest(transaction="t1", cohorts=["m1/"], resource="bank"),
    ),
    ("decide", c.DecideRequest("t1", 7, "abort"), pb.DecideRequest(transaction="t1", revision=7, wish="abort")),
    ("decisions", c.DecisionsRequest("bank"), pb.DecisionsRequest(resource="bank")),
    ("end_decision", c.DecideRequest("t1", 7), pb.DecideRequest(transaction="t1", revision=7)),
    ("delete", c.DeleteRequest(name="it"), pb.DeleteRequest(name="it")),
]


@pytest_asyncio.fixture
async def peer(port) -> AsyncIterator[c.Registry]:
    """The registry behind ``port``, over the peer link."""
    tasks = TaskOwner("test")
    dispatcher = SystemDispatcher(tasks)
    dispatcher.register("registry", port.registry, c.Registry, servers_only=False)
    node = NodeInfo("server", "server", "s1")
    listener = await PeerListener.start("127.0.0.1:0", dispatcher.handle, cluster="test", node_info=node)
    transport = PeerTransport("caller", "test")
    yield proxy(transport, listener.address, "registry", c.Registry, timeout_s=5)
    await transport.aclose()
    await listener.aclose()
    await tasks.aclose()


def over_grpc(port, operation, message):
    name = "".join(part.title() for part in operation.split("_"))
    return getattr(RegistryStub(port.channel), name)(message)


def told(answer):
    """Return what an answer tells, whatever its form: the plain values in it, in no particular order."""
    if isinstance(answer, msgspec.Struct):
        answer = msgspec.to_builtins(answer, builtin_types=(bytes,))  # encoded arguments stay inside
    found = set()
    todo = [answer]
    while todo:
        each = todo.pop()
        if isinstance(each, dict):
            todo.extend(each.values())
        elif isinstance(each, list | tuple):
            todo.extend(each)
        elif isinstance(each, str) and each:
            found.add(each)
    return found


def test_every_operation_is_compared():
    """An operation that is added to the contract is noticed here."""
    offered = {name for name in vars(c.Registry) if not name.startswith("_")} - {"clear_deaths", "report_absent"}
    assert {name for name, _, _ in OPERATIONS} == offered


@pytest.mark.parametrize(("operation", "request_", "message"), OPERATIONS, ids=[name for name, *_ in OPERATIONS])
async def test_both_planes_end_in_the_same_operation(port, peer, operation, request_, message):
    """The registry sees equal requests, and gRPC tells every name and address that the peer link tells."""
    await make(port)
    kept = dict(port.registry.made)
    answer = await getattr(peer, operation)(request_)
    port.registry.made = kept
    reply = await over_grpc(port, operation, message)
    (_, over_peer), (_, over_port) = port.registry.seen[-2:]
    assert over_port == over_peer == request_
    text = str(reply)
    assert [value for value in told(answer) if value not in text] == []


@pytest.mark.parametrize("code", sorted(by_code()))
async def test_both_planes_tell_the_same_error(port, peer, code):
    """Code, message and details of an error arrive alike."""
    details = {"reason": "moved", "count": 3, "flag": False, "nothing": None}
    port.registry.fail_with = by_code()[code]("something is wrong; mend it", **details)
    with pytest.raises(AminoError) as caught:
        await peer.members(c.Empty())
    _, told_code, message, told_details = await refused(over_grpc(port, "members", pb.Empty()))
    assert (told_code, message, told_details) == (caught.value.code, caught.value.message, caught.value.details)
    assert told_code == code


async def test_both_planes_survive_a_bug_alike(port, peer, caplog):
    """An operation that fails unexpectedly leaves the outcome unknown on either plane."""
    port.registry.fail_with = ZeroDivisionError("oops")
    caplog.set_level("CRITICAL")
    with pytest.raises(AminoError) as caught:
        await peer.members(c.Empty())
    status, code, message, _ = await refused(over_grpc(port, "members", pb.Empty()))
    assert (status, code) == (grpc.StatusCode.UNKNOWN, caught.value.code)
    assert "ZeroDivisionError: oops" in message
    assert "ZeroDivisionError: oops" in caught.value.message
