"""How tests ask: calls with plain values, and errors taken apart."""

from __future__ import annotations

import grpc
import pytest

from amino.wire import typed
from amino.wire.gen.amino_v1 import error_pb2, invoke_pb2, registry_pb2
from amino.wire.gen.amino_v1.invoke_pb2_grpc import InvokeStub
from amino.wire.gen.amino_v1.registry_pb2_grpc import RegistryStub

CALLEE = "tests.grpc.callee:Callee"


async def make(port, name="it", *args):
    """Create the class that tests call."""
    request = registry_pb2.CreateRequest(spec=registry_pb2.MicroserviceSpec(class_path=CALLEE, name=name))
    typed.fill_values(request.args, args, "args")
    return await RegistryStub(port.channel).Create(request)


def call_request(method, *args, name="it", **more):
    """Return the request of a call by name."""
    request = invoke_pb2.CallRequest(name=name, method=method, **more)
    typed.fill_values(request.args, args, "args")
    return request


async def call(port, method, *args, name="it", **more):
    """Call, and return the result."""
    reply = await InvokeStub(port.channel).Call(call_request(method, *args, name=name, **more))
    assert reply.WhichOneof("outcome") == "value", reply
    return typed.from_value(reply.value, "result")


async def refused(pending):
    """Return (status, code, message, details) of a request that is refused; checks that its parts agree."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await pending
    error = caught.value
    metadata = dict(error.trailing_metadata())
    status = error_pb2.Status.FromString(metadata["grpc-status-details-bin"])
    assert (status.code, status.message) == (error.code().value[0], error.details())
    described = error_pb2.Error()
    assert status.details[0].Unpack(described)
    assert described.code == metadata["amino-error-code"]
    return error.code(), described.code, error.details(), typed.read_named(described.details, "details")
