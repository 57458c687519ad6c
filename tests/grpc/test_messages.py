"""The .proto files and the contracts say the same: a field added to one is noticed in the other."""

from __future__ import annotations

import inspect

import msgspec
import pytest

from amino.contracts import documents as d
from amino.contracts import services as c
from amino.wire.gen.amino_v1 import kernel_pb2, registry_pb2

RENAMED = {"cls": "class_path"}
# (contract, message, fields of the contract that are not carried and why, fields only in the message and why)
PAIRS = [
    (c.CreateRequest, "CreateRequest", {"arguments": "args and kwargs"}, {"args", "kwargs"}),
    (c.ReplicaLocation, "ReplicaLocation", {}, set()),
    (c.GroupLocation, "GroupLocation", {}, set()),
    (c.Location, "Location", {}, set()),
    (c.LocateRequest, "LocateRequest", {"stale_incarnation": "for peers, which see servers fail"}, set()),
    (c.DeleteRequest, "DeleteRequest", {}, set()),
    (c.MoveRequest, "MoveRequest", {"leave": "for drains of a server that ends"}, set()),
    (c.ScaleRequest, "ScaleRequest", {}, set()),
    (c.ChangeRequest, "ChangeRequest", {}, set()),
    (c.ChangeReply, "ChangeReply", {}, set()),
    (c.FindRequest, "FindRequest", {"describe": "Describe tells it of one"}, set()),
    (c.MicroserviceInfo, "MicroserviceInfo", {}, set()),
    (c.FindReply, "FindReply", {"described": "Describe tells it of one"}, set()),
    (c.Description, "Description", {"record": "its spec and time; arguments stay inside"}, {"spec", "created_at"}),
    (c.ServerInfo, "ServerInfo", {}, set()),
    (c.Membership, "Membership", {}, set()),
    (c.ByName, "ByName", {}, set()),
    (c.CordonRequest, "CordonRequest", {}, set()),
    (c.DrainRequest, "DrainRequest", {"leave": "for a server that ends, and its pod"}, set()),
    (c.DrainReply, "DrainReply", {}, set()),
    (c.PauseRequest, "PauseRequest", {}, set()),
    (c.PushCodeRequest, "PushCodeRequest", {}, set()),
    (c.ApplicationRequest, "ApplicationRequest", {"arguments": "args and kwargs"}, {"args", "kwargs"}),
    (c.EventsRequest, "EventsRequest", {}, set()),
    (c.EventInfo, "EventInfo", {}, set()),
    (c.EventList, "EventList", {}, set()),
    (c.SlotInfo, "SlotInfo", {}, set()),
    (c.SlotList, "SlotList", {}, set()),
    (c.AcquireLockRequest, "AcquireLockRequest", {}, set()),
    (c.BeginDecisionRequest, "BeginDecisionRequest", {}, set()),
    (c.DecideRequest, "DecideRequest", {}, set()),
    (c.Decision, "Decision", {}, set()),
    (c.DecisionsRequest, "DecisionsRequest", {}, set()),
    (c.DecisionList, "DecisionList", {}, set()),
    (c.HeldLockRequest, "HeldLockRequest", {}, set()),
    (c.LockGrant, "LockGrant", {}, set()),
    (c.FenceRequest, "FenceRequest", {}, set()),
    (c.KernelStatistics, "KernelStatistics", {}, set()),
    (c.ReplicaInfo, "ReplicaInfo", {}, set()),
    (c.ReplicaList, "ReplicaList", {}, set()),
    (c.Fence, "Fencing", {}, set()),
    (d.MicroserviceSpec, "MicroserviceSpec", {}, set()),
    (d.DmSpec, "DeploymentManager", {}, set()),
    (d.Placement, "Placement", {}, set()),
    (d.Requirement, "Requirement", {}, set()),
    (d.ReplicaDocument, "Replica", {"rest": "of the stored form"}, set()),
    (d.Move, "Migration", {"rest": "of the stored form"}, set()),
    (
        d.GroupDocument,
        "Group",
        {
            "coordinator": "the managers' own bytes",
            "methods": "in Location",
            "trace": "internal",
            "format": "of the stored form",
            "rest": "of the stored form",
        },
        set(),
    ),
    (d.ServerRecord, "ServerRecord", dict.fromkeys(("format", "format_read"), "of the stored form"), set()),
]
# Operations that are for servers only, which use the peer link.
NOT_OFFERED = {"clear_deaths", "report_absent", "notify", "heartbeat", "observe"}


@pytest.mark.parametrize(
    ("contract", "name", "left_out", "added"), PAIRS, ids=lambda value: getattr(value, "__name__", "")
)
def test_messages_carry_what_contracts_have(contract, name, left_out, added):
    """Every field of a contract is in its message, or left out for a stated reason."""
    module = kernel_pb2 if name in kernel_pb2.DESCRIPTOR.message_types_by_name else registry_pb2
    message = module.DESCRIPTOR.message_types_by_name[name]
    expected = {RENAMED.get(field, field) for field in contract.__struct_fields__} - left_out.keys() | added
    assert {field.name for field in message.fields} == expected


def test_all_messages_of_the_registry_are_compared():
    """A message without a contract is one that this module would not notice."""
    compared = {name for _, name, _, _ in PAIRS}
    without = {"Empty", "SelectorTerm", "Method"}
    assert set(registry_pb2.DESCRIPTOR.message_types_by_name) - compared == without


@pytest.mark.parametrize(
    ("protocol", "service"),
    [
        (c.Registry, registry_pb2.DESCRIPTOR.services_by_name["Registry"]),
        (c.Kernel, kernel_pb2.DESCRIPTOR.services_by_name["Kernel"]),
    ],
)
def test_services_offer_every_operation(protocol, service):
    """Every method of a contract is a method of its service, but for those named above."""
    operations = {name for name, _ in inspect.getmembers(protocol, inspect.isfunction) if not name.startswith("_")}
    offered = {method.name for method in service.methods}
    assert offered == {"".join(part.title() for part in name.split("_")) for name in operations - NOT_OFFERED}


def test_contracts_are_structs():
    """The comparison reads their fields; this guards it."""
    assert all(issubclass(contract, msgspec.Struct) for contract, *_ in PAIRS)
