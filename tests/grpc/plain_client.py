"""A plain grpcio client, made from the .proto files alone: it imports nothing of Amino.

python plain_client.py ADDRESS GENERATED_FOLDER CLASS_PATH [NAME]
Prints one JSON document {"checks": [names of what was checked]}.
"""

from __future__ import annotations

import json
import sys
import uuid

address, generated, class_path = sys.argv[1:4]
name = sys.argv[4] if len(sys.argv) > 4 else "from-plain-grpcio"
sys.path.insert(0, generated)

import grpc  # noqa: E402 - the path comes first
from amino_v1 import error_pb2, invoke_pb2, invoke_pb2_grpc, registry_pb2, registry_pb2_grpc  # noqa: E402
from amino_v1.value_pb2 import ListValue, MapValue, Ref, Value  # noqa: E402
from google.protobuf.timestamp_pb2 import Timestamp  # noqa: E402

channel = grpc.insecure_channel(address)
registry = registry_pb2_grpc.RegistryStub(channel)
invoke = invoke_pb2_grpc.InvokeStub(channel)
checks: list[str] = []


def call(method, *args, **more):
    request = invoke_pb2.CallRequest(name=name, method=method, args=args, **more)
    reply = invoke.Call(request, timeout=20)
    assert reply.WhichOneof("outcome") == "value", reply
    return reply.value


def integer(number):
    return Value(int_value=number)


def error_of(ask):
    try:
        ask()
    except grpc.RpcError as error:
        return error
    raise AssertionError("it was not refused")


def refused(ask):
    error = error_of(ask)
    metadata = dict(error.trailing_metadata())
    status = error_pb2.Status.FromString(metadata["grpc-status-details-bin"])
    assert (status.code, status.message) == (error.code().value[0], error.details())
    described = error_pb2.Error()
    assert status.details[0].Unpack(described)
    assert described.code == metadata["amino-error-code"]
    return error.code(), described, error.details()


def check(title):
    checks.append(title)


ms_id = uuid.uuid4().hex[:24]
spec = registry_pb2.MicroserviceSpec(class_path=class_path, name=name)
spec.dms.add(name="AtLeastOnceRPC").options["timeout_s"].float_value = 20
create = registry_pb2.CreateRequest(
    microservice=ms_id, spec=spec, args=[integer(40)], kwargs={"label": Value(string_value="plain")}
)
location = registry.Create(create, timeout=20)
assert (location.microservice, location.created) == (ms_id, True)
assert registry.Create(create, timeout=20).microservice == ms_id
check("create")

assert call("add", integer(2)).int_value == 42
assert call("add", kwargs={"n": integer(3)}).int_value == 45
assert call("name_tag").string_value == "plain"
check("call")

for number in (2**63 - 1, -(2**63), 0):
    assert call("echo", integer(number)).int_value == number
assert call("echo", Value(bytes_value=bytes(range(256)))).bytes_value == bytes(range(256))
moment = Timestamp(seconds=1770091506, nanos=789000000)
assert call("echo", Value(timestamp_value=moment)).timestamp_value == moment
tree = Value(
    map_value=MapValue(
        entries=[
            MapValue.Entry(key=integer(7), value=Value(list_value=ListValue(items=[integer(1), Value(null_value=0)]))),
            MapValue.Entry(key=Value(string_value="x"), value=Value(map_value=MapValue())),
        ]
    )
)
assert call("echo", tree) == tree
ref = Ref(microservice=ms_id, name=name, class_path=class_path)
call("keep", Value(ref_value=ref))
assert call("kept_value").ref_value.microservice == ms_id
check("int64, bytes, timestamps, maps and refs round-trip")

request_id = invoke_pb2.RequestId(client=f"plain-{ms_id}", sequence=1, floor=1)
assert call("add", integer(5), request_id=request_id).int_value == 50
request_id.attempt, request_id.age_s = 1, 0.1
assert call("add", integer(5), request_id=request_id).int_value == 50
check("a repeated request id runs once")

raised = invoke.Call(
    invoke_pb2.CallRequest(name=name, method="fail", args=[Value(string_value="no such thing")]), timeout=20
)
assert raised.application_error.type_name == "builtins.LookupError"
assert raised.application_error.message == "no such thing"
own = invoke.Call(invoke_pb2.CallRequest(name=name, method="fail_as_amino"), timeout=20)
assert own.application_error.type_name == "amino.errors.NotFound"
code, described, _ = refused(lambda: call("no_such_method"))
assert (code, described.code) == (grpc.StatusCode.NOT_FOUND, "not-found")
create.microservice = "e" * 24
code, described, _ = refused(lambda: registry.Create(create, timeout=20))
assert (code, described.code) == (grpc.StatusCode.ALREADY_EXISTS, "already-exists")
code, described, message = refused(lambda: call("echo", Value()))
assert (code, described.code) == (grpc.StatusCode.INVALID_ARGUMENT, "invalid")
assert "args[0]" in message
check("typed errors")

assert [row.id for row in registry.Find(registry_pb2.FindRequest(name_prefix=name), timeout=20).rows] == [ms_id]
registry.Delete(registry_pb2.DeleteRequest(name=name), timeout=20)
code, described, _ = refused(lambda: call("get"))
assert described.code == "not-found"
check("delete")

channel.close()
sys.stdout.write(json.dumps({"checks": checks}))
