from amino.wire.gen.amino_v1 import value_pb2 as _value_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class CallRequest(_message.Message):
    __slots__ = ("microservice", "name", "method", "args", "kwargs", "timeout_s", "request_id")
    class KwargsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: _value_pb2.Value
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[_value_pb2.Value, _Mapping]] = ...) -> None: ...
    MICROSERVICE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    ARGS_FIELD_NUMBER: _ClassVar[int]
    KWARGS_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_S_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    microservice: str
    name: str
    method: str
    args: _containers.RepeatedCompositeFieldContainer[_value_pb2.Value]
    kwargs: _containers.MessageMap[str, _value_pb2.Value]
    timeout_s: float
    request_id: RequestId
    def __init__(self, microservice: _Optional[str] = ..., name: _Optional[str] = ..., method: _Optional[str] = ..., args: _Optional[_Iterable[_Union[_value_pb2.Value, _Mapping]]] = ..., kwargs: _Optional[_Mapping[str, _value_pb2.Value]] = ..., timeout_s: _Optional[float] = ..., request_id: _Optional[_Union[RequestId, _Mapping]] = ...) -> None: ...

class RequestId(_message.Message):
    __slots__ = ("client", "sequence", "floor", "attempt", "age_s")
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    FLOOR_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    AGE_S_FIELD_NUMBER: _ClassVar[int]
    client: str
    sequence: int
    floor: int
    attempt: int
    age_s: float
    def __init__(self, client: _Optional[str] = ..., sequence: _Optional[int] = ..., floor: _Optional[int] = ..., attempt: _Optional[int] = ..., age_s: _Optional[float] = ...) -> None: ...

class CallReply(_message.Message):
    __slots__ = ("value", "application_error")
    VALUE_FIELD_NUMBER: _ClassVar[int]
    APPLICATION_ERROR_FIELD_NUMBER: _ClassVar[int]
    value: _value_pb2.Value
    application_error: ApplicationError
    def __init__(self, value: _Optional[_Union[_value_pb2.Value, _Mapping]] = ..., application_error: _Optional[_Union[ApplicationError, _Mapping]] = ...) -> None: ...

class ApplicationError(_message.Message):
    __slots__ = ("type_name", "message", "traceback")
    TYPE_NAME_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    TRACEBACK_FIELD_NUMBER: _ClassVar[int]
    type_name: str
    message: str
    traceback: str
    def __init__(self, type_name: _Optional[str] = ..., message: _Optional[str] = ..., traceback: _Optional[str] = ...) -> None: ...
