"""Invoke on a running port: values, outcomes, deadlines, request ids, bad requests."""

from __future__ import annotations

from amino.wire import typed
from amino.wire.gen.amino_v1 import invoke_pb2 as pb
from amino.wire.gen.amino_v1 import registry_pb2
from amino.wire.gen.amino_v1.invoke_pb2_grpc import InvokeStub
from amino.wire.gen.amino_v1.registry_pb2_grpc import RegistryStub

CALLEE = "tests.grpc.callee:Callee"


async def make(port, name="it", *args):
    request = registry_pb2.CreateRequest(spec=registry_pb2.MicroserviceSpec(class_path=CALLEE, name=name))
    typed.fill_values(request.args, args, "args")
    return await RegistryStub(port.channel).Create(request)


def call_of(method, *args, name="it", **more):
    request = pb.CallRequest(name=name, method=method, **more)
    typed.fill_values(request.args, args, "args")
    return request


async def call(port, method, *args, name="it", **more):
    reply = await InvokeStub(port.channel).Call(call_of(method, *args, name=name, **more))
    return typed.from_value(reply.value, "result")


async def test_a_call_runs_the_method_and_returns_its_result(port):
    """A call by name and one by id reach the same object, and keyword arguments arrive."""
    made = await make(port, "it", 40)
    assert await call(port, "add", 2) == 42
    request = pb.CallRequest(microservice=made.microservice, method="add")
    request.kwargs["n"].int_value = 3
    assert (await InvokeStub(port.channel).Call(request)).value.int_value == 45
