from amino.wire.gen.amino_v1 import registry_pb2 as _registry_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Fencing(_message.Message):
    __slots__ = ("slot", "leader_revision", "document_revision")
    SLOT_FIELD_NUMBER: _ClassVar[int]
    LEADER_REVISION_FIELD_NUMBER: _ClassVar[int]
    DOCUMENT_REVISION_FIELD_NUMBER: _ClassVar[int]
    slot: int
    leader_revision: int
    document_revision: int
    def __init__(self, slot: _Optional[int] = ..., leader_revision: _Optional[int] = ..., document_revision: _Optional[int] = ...) -> None: ...

class KernelCommand(_message.Message):
    __slots__ = ("microservice", "path", "replica", "fence", "body", "snapshot")
    MICROSERVICE_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    REPLICA_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    microservice: str
    path: str
    replica: str
    fence: Fencing
    body: bytes
    snapshot: bytes
    def __init__(self, microservice: _Optional[str] = ..., path: _Optional[str] = ..., replica: _Optional[str] = ..., fence: _Optional[_Union[Fencing, _Mapping]] = ..., body: _Optional[bytes] = ..., snapshot: _Optional[bytes] = ...) -> None: ...

class KernelAnswer(_message.Message):
    __slots__ = ("document_revision", "body")
    DOCUMENT_REVISION_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    document_revision: int
    body: bytes
    def __init__(self, document_revision: _Optional[int] = ..., body: _Optional[bytes] = ...) -> None: ...

class FenceRequest(_message.Message):
    __slots__ = ("incarnation",)
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    incarnation: int
    def __init__(self, incarnation: _Optional[int] = ...) -> None: ...

class KernelStatistics(_message.Message):
    __slots__ = ("server", "incarnation", "replicas", "in_flight", "threads", "valid_for_s", "rss_bytes", "calls")
    SERVER_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    THREADS_FIELD_NUMBER: _ClassVar[int]
    VALID_FOR_S_FIELD_NUMBER: _ClassVar[int]
    RSS_BYTES_FIELD_NUMBER: _ClassVar[int]
    CALLS_FIELD_NUMBER: _ClassVar[int]
    server: str
    incarnation: int
    replicas: int
    in_flight: int
    threads: int
    valid_for_s: float
    rss_bytes: int
    calls: int
    def __init__(self, server: _Optional[str] = ..., incarnation: _Optional[int] = ..., replicas: _Optional[int] = ..., in_flight: _Optional[int] = ..., threads: _Optional[int] = ..., valid_for_s: _Optional[float] = ..., rss_bytes: _Optional[int] = ..., calls: _Optional[int] = ...) -> None: ...

class ReplicaInfo(_message.Message):
    __slots__ = ("microservice", "path", "replica", "epoch", "state", "in_flight", "mutations")
    MICROSERVICE_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    REPLICA_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    MUTATIONS_FIELD_NUMBER: _ClassVar[int]
    microservice: str
    path: str
    replica: str
    epoch: int
    state: str
    in_flight: int
    mutations: int
    def __init__(self, microservice: _Optional[str] = ..., path: _Optional[str] = ..., replica: _Optional[str] = ..., epoch: _Optional[int] = ..., state: _Optional[str] = ..., in_flight: _Optional[int] = ..., mutations: _Optional[int] = ...) -> None: ...

class ReplicaList(_message.Message):
    __slots__ = ("replicas",)
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    replicas: _containers.RepeatedCompositeFieldContainer[ReplicaInfo]
    def __init__(self, replicas: _Optional[_Iterable[_Union[ReplicaInfo, _Mapping]]] = ...) -> None: ...
