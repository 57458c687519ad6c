"""Registry on a running port: every operation, defaults, bad requests."""

from __future__ import annotations

import logging

import grpc
import pytest

from amino.contracts import services as c
from amino.contracts.documents import DmSpec, MicroserviceSpec, Placement, Requirement
from amino.errors import NoEligibleServer
from amino.wire import codec
from amino.wire.codec import Reference
from amino.wire.gen.amino_v1 import registry_pb2 as pb
from amino.wire.gen.amino_v1.registry_pb2_grpc import RegistryStub
from amino.wire.typed import to_value
from tests.grpc.asking import CALLEE, make, refused
from tests.grpc.fake_cluster import FakeStub

Code = grpc.StatusCode


def stub(port):
    return RegistryStub(port.channel)


async def test_create_carries_the_whole_spec(port):
    """Class, managers with typed options, placement, labels and arguments arrive as the contract has them."""
    request = pb.CreateRequest(
        microservice="ab" * 12,
        args=[to_value(5)],
        kwargs={"label": to_value("x")},
        if_exists="get",
        timeout_s=12,
        spec=pb.MicroserviceSpec(
            class_path=CALLEE,
            name="hits",
            dms=[pb.DeploymentManager(name="PeriodicCheckpoint", options={"every": to_value(10)})],
            placement=pb.Placement(
                selector=[
                    pb.SelectorTerm(
                        requirements=[
                            pb.Requirement(key="region", operator="In", values=["eu", "us"]),
                            pb.Requirement(key="ssd"),
                        ]
                    )
                ],
                spread=["rack"],
            ),
            on_loss="recreate",
            labels={"tier": "a"},
            application="shop",
        ),
    )
    location = await stub(port).Create(request)
    (_, seen) = port.registry.seen[0]
    assert seen.spec == MicroserviceSpec(
        CALLEE,
        "",
        "hits",
        (DmSpec("PeriodicCheckpoint", {"every": 10}),),
        Placement(((Requirement("region", "In", ("eu", "us")), Requirement("ssd")),), ("rack",)),
        "recreate",
        {"tier": "a"},
        "shop",
    )
    assert (seen.microservice, seen.if_exists, seen.timeout_s) == ("ab" * 12, "get", 12)
    assert codec.unpack(seen.arguments) == ((5,), {"label": "x"})
    request.spec.placement.selector[0].requirements[1].operator = "Exists"  # the default, now stated
    assert location.spec == request.spec
    assert location.created
    assert location.groups["/"].replicas[0].address == "127.0.0.1:7400"
    marks = {method.name: (method.readonly, method.idempotent) for method in location.methods}
    assert (marks["get"], marks["add"]) == ((True, True), (False, False))


async def test_what_is_left_out_has_the_contracts_default(port):
    """A request with nothing but a class gets an id and all defaults."""
    made = await make(port, "")
    (_, seen) = port.registry.seen[0]
    assert seen.spec == MicroserviceSpec(CALLEE)
    assert (seen.if_exists, seen.timeout_s, len(made.microservice)) == ("fail", 30.0, 24)


async def test_refs_among_constructor_arguments_are_bound(port):
    """What a constructor gets can be called."""
    bound = []

    class Registry(type(port.registry)):
        pass

    request = pb.CreateRequest(spec=pb.MicroserviceSpec(class_path=CALLEE), args=[to_value(Reference("a" * 24))])
    await stub(port).Create(request)
    ((_, instance, _),) = port.registry.made.values()
    bound.append(instance.value)
    assert isinstance(bound[0], FakeStub)


async def test_every_operation_reaches_the_registry(port):
    """Each operation ends in the method of the same name with its request, and its answer comes back."""
    registry = stub(port)
    made = (await make(port)).microservice
    assert (await registry.Locate(pb.LocateRequest(name="it", stale={"/": 3}, wait_s=0.5))).microservice == made
    assert (await registry.Move(pb.MoveRequest(name="it", server="s2", timeout_s=4))).microservice == made
    assert [row.class_path for row in (await registry.Find(pb.FindRequest(class_path=CALLEE))).rows] == [CALLEE]
    described = await registry.Describe(pb.ByName(name="it"))
    assert described.groups["/"].replicas[0].confirmed
    assert described.groups["/"].ineligible["s2@9"] == "no module shop"
    assert {entry.key.string_value for entry in described.checkpoints[0].entries} == {
        "epoch",
        "sequence",
        "url",
        "intact",
    }
    members = await registry.Members(pb.Empty())
    assert (members.revision, members.servers[0].record.labels["host"]) == (11, "h")
    assert len((await registry.Slots(pb.Empty())).slots) == 64
    await registry.Cordon(pb.CordonRequest(server="s1", why="disk"))
    await registry.Cordon(pb.CordonRequest(server="s1", cordon=False))
    assert list((await registry.Drain(pb.DrainRequest(server="s1", timeout_s=9))).left) == ["a"]
    await registry.Pause(pb.PauseRequest(paused=True))
    await registry.Pause(pb.PauseRequest(paused=False))
    await registry.Release(pb.ByName(microservice=made))
    assert (await registry.Restore(pb.ByName(name="it"))).microservice == made
    await registry.PushCode(pb.PushCodeRequest(sha256="00", kind="zip", content=b"PK"))
    entry = pb.MicroserviceSpec(class_path=CALLEE)
    await registry.DefineApplication(pb.ApplicationRequest(name="shop", entry=entry, args=[to_value(1)]))
    assert (await registry.Application(pb.ByName(name="it"))).microservice == made
    assert (await registry.Events(pb.EventsRequest())).events[0].text == "made"
    await registry.Delete(pb.DeleteRequest(name="it"))
    assert port.registry.seen[1:] == [
        ("locate", c.LocateRequest(name="it", stale={"/": 3}, wait_s=0.5)),
        ("move", c.MoveRequest(name="it", server="s2", timeout_s=4)),
        ("find", c.FindRequest(cls=CALLEE)),
        ("describe", c.ByName(name="it")),
        ("members", c.Empty()),
        ("slots", c.Empty()),
        ("cordon", c.CordonRequest("s1", why="disk")),
        ("cordon", c.CordonRequest("s1", cordon=False)),
        ("drain", c.DrainRequest("s1", 9)),
        ("pause", c.PauseRequest(paused=True)),
        ("pause", c.PauseRequest(paused=False)),
        ("release", c.ByName(microservice=made)),
        ("restore", c.ByName(name="it")),
        ("push_code", c.PushCodeRequest("00", "zip", b"PK")),
        ("define_application", c.ApplicationRequest("shop", MicroserviceSpec(CALLEE), codec.pack(((1,), {})))),
        ("application", c.ByName(name="it")),
        ("events", c.EventsRequest()),
        ("delete", c.DeleteRequest(name="it")),
    ]
    assert port.registry.made == {}


async def test_a_request_takes_no_longer_than_its_grpc_deadline(port):
    """The registry learns the earlier of both deadlines."""
    await make(port)
    await stub(port).Move(pb.MoveRequest(name="it"), timeout=5)
    assert 4 < port.registry.seen[-1][1].timeout_s < 5.2  # gRPC counts on a clock of its own


@pytest.mark.parametrize(
    ("method", "request_", "words"),
    [
        ("Create", pb.CreateRequest(), "spec"),
        ("Create", pb.CreateRequest(spec={}), "`class_path`"),
        ("Create", pb.CreateRequest(spec={"class_path": "a:B", "on_loss": "shrug"}), "shrug"),
        ("Create", pb.CreateRequest(spec={"class_path": "a:B"}, if_exists="maybe"), "fail or get"),
        ("Create", pb.CreateRequest(spec={"class_path": "a:B"}, args=[{}]), "args[0]"),
        ("Create", pb.CreateRequest(spec={"class_path": "a:B"}, timeout_s=-1), "timeout_s is -1"),
        ("Create", pb.CreateRequest(spec={"class_path": "a:B", "dms": [{"options": {}}]}), "`name`"),
        (
            "Create",
            pb.CreateRequest(spec={"class_path": "a:B", "dms": [{"name": "X", "options": {"o": {}}}]}),
            "options['o']",
        ),
        ("Find", pb.FindRequest(label=[{"key": "k", "operator": "Like"}]), "label[0].operator"),
        ("Cordon", pb.CordonRequest(), "`server`"),
        ("Pause", pb.PauseRequest(), "`paused`"),
    ],
)
async def test_bad_requests_are_told_what_is_wrong(port, method, request_, words):
    """Each is INVALID_ARGUMENT, names the field, and never reaches the registry."""
    status, code, message, _ = await refused(getattr(stub(port), method)(request_))
    assert (status, code) == (Code.INVALID_ARGUMENT, "invalid")
    assert words in message
    assert port.registry.seen == []


async def test_errors_of_the_registry_arrive_as_themselves(port):
    """A refusal keeps its code, message and details."""
    port.registry.fail_with = NoEligibleServer("no server matches; s1: region is us", servers=3)
    status, code, message, details = await refused(stub(port).Members(pb.Empty()))
    assert (status, code, details) == (Code.FAILED_PRECONDITION, "no-eligible-server", {"servers": 3})
    assert message == "no server matches; s1: region is us"


async def test_a_bug_ends_its_own_request_only(port, caplog):
    """An unexpected exception leaves the outcome unknown, as on the peer link, and a traceback in the log, and nothing else."""
    port.registry.fail_with = ZeroDivisionError("oops")
    with caplog.at_level(logging.CRITICAL, logger="amino.grpc"):
        status, code, message, _ = await refused(stub(port).Members(pb.Empty()))
    assert (status, code) == (Code.UNKNOWN, "outcome-unknown")
    assert "ZeroDivisionError: oops" in message
    assert port.server.statistics()["amino.v1.Registry"]["failed"] == 1
    port.registry.fail_with = None
    assert (await stub(port).Members(pb.Empty())).revision == 11
