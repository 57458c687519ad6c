from amino.wire.gen.amino_v1 import value_pb2 as _value_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class BeginDecisionRequest(_message.Message):
    __slots__ = ("transaction", "cohorts", "resource")
    TRANSACTION_FIELD_NUMBER: _ClassVar[int]
    COHORTS_FIELD_NUMBER: _ClassVar[int]
    RESOURCE_FIELD_NUMBER: _ClassVar[int]
    transaction: str
    cohorts: _containers.RepeatedScalarFieldContainer[str]
    resource: str
    def __init__(self, transaction: _Optional[str] = ..., cohorts: _Optional[_Iterable[str]] = ..., resource: _Optional[str] = ...) -> None: ...

class DecideRequest(_message.Message):
    __slots__ = ("transaction", "revision", "wish")
    TRANSACTION_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    WISH_FIELD_NUMBER: _ClassVar[int]
    transaction: str
    revision: int
    wish: str
    def __init__(self, transaction: _Optional[str] = ..., revision: _Optional[int] = ..., wish: _Optional[str] = ...) -> None: ...

class Decision(_message.Message):
    __slots__ = ("transaction", "outcome", "revision", "cohorts", "resource")
    TRANSACTION_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    COHORTS_FIELD_NUMBER: _ClassVar[int]
    RESOURCE_FIELD_NUMBER: _ClassVar[int]
    transaction: str
    outcome: str
    revision: int
    cohorts: _containers.RepeatedScalarFieldContainer[str]
    resource: str
    def __init__(self, transaction: _Optional[str] = ..., outcome: _Optional[str] = ..., revision: _Optional[int] = ..., cohorts: _Optional[_Iterable[str]] = ..., resource: _Optional[str] = ...) -> None: ...

class DecisionsRequest(_message.Message):
    __slots__ = ("resource",)
    RESOURCE_FIELD_NUMBER: _ClassVar[int]
    resource: str
    def __init__(self, resource: _Optional[str] = ...) -> None: ...

class DecisionList(_message.Message):
    __slots__ = ("decisions",)
    DECISIONS_FIELD_NUMBER: _ClassVar[int]
    decisions: _containers.RepeatedCompositeFieldContainer[Decision]
    def __init__(self, decisions: _Optional[_Iterable[_Union[Decision, _Mapping]]] = ...) -> None: ...

class AcquireLockRequest(_message.Message):
    __slots__ = ("lock", "holder", "ttl_s", "wait_s", "timeout_s")
    LOCK_FIELD_NUMBER: _ClassVar[int]
    HOLDER_FIELD_NUMBER: _ClassVar[int]
    TTL_S_FIELD_NUMBER: _ClassVar[int]
    WAIT_S_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_S_FIELD_NUMBER: _ClassVar[int]
    lock: str
    holder: str
    ttl_s: float
    wait_s: float
    timeout_s: float
    def __init__(self, lock: _Optional[str] = ..., holder: _Optional[str] = ..., ttl_s: _Optional[float] = ..., wait_s: _Optional[float] = ..., timeout_s: _Optional[float] = ...) -> None: ...

class HeldLockRequest(_message.Message):
    __slots__ = ("lock", "holder", "token", "timeout_s")
    LOCK_FIELD_NUMBER: _ClassVar[int]
    HOLDER_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_S_FIELD_NUMBER: _ClassVar[int]
    lock: str
    holder: str
    token: int
    timeout_s: float
    def __init__(self, lock: _Optional[str] = ..., holder: _Optional[str] = ..., token: _Optional[int] = ..., timeout_s: _Optional[float] = ...) -> None: ...

class LockGrant(_message.Message):
    __slots__ = ("token", "holder", "waiting", "waited_s")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    HOLDER_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    WAITED_S_FIELD_NUMBER: _ClassVar[int]
    token: int
    holder: str
    waiting: int
    waited_s: float
    def __init__(self, token: _Optional[int] = ..., holder: _Optional[str] = ..., waiting: _Optional[int] = ..., waited_s: _Optional[float] = ...) -> None: ...

class Empty(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ByName(_message.Message):
    __slots__ = ("microservice", "name")
    MICROSERVICE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    microservice: str
    name: str
    def __init__(self, microservice: _Optional[str] = ..., name: _Optional[str] = ...) -> None: ...

class MicroserviceSpec(_message.Message):
    __slots__ = ("class_path", "code", "name", "dms", "placement", "on_loss", "labels", "application")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    CLASS_PATH_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    DMS_FIELD_NUMBER: _ClassVar[int]
    PLACEMENT_FIELD_NUMBER: _ClassVar[int]
    ON_LOSS_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    APPLICATION_FIELD_NUMBER: _ClassVar[int]
    class_path: str
    code: str
    name: str
    dms: _containers.RepeatedCompositeFieldContainer[DeploymentManager]
    placement: Placement
    on_loss: str
    labels: _containers.ScalarMap[str, str]
    application: str
    def __init__(self, class_path: _Optional[str] = ..., code: _Optional[str] = ..., name: _Optional[str] = ..., dms: _Optional[_Iterable[_Union[DeploymentManager, _Mapping]]] = ..., placement: _Optional[_Union[Placement, _Mapping]] = ..., on_loss: _Optional[str] = ..., labels: _Optional[_Mapping[str, str]] = ..., application: _Optional[str] = ...) -> None: ...

class DeploymentManager(_message.Message):
    __slots__ = ("name", "options")
    class OptionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: _value_pb2.Value
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[_value_pb2.Value, _Mapping]] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    name: str
    options: _containers.MessageMap[str, _value_pb2.Value]
    def __init__(self, name: _Optional[str] = ..., options: _Optional[_Mapping[str, _value_pb2.Value]] = ...) -> None: ...

class Placement(_message.Message):
    __slots__ = ("selector", "spread")
    SELECTOR_FIELD_NUMBER: _ClassVar[int]
    SPREAD_FIELD_NUMBER: _ClassVar[int]
    selector: _containers.RepeatedCompositeFieldContainer[SelectorTerm]
    spread: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, selector: _Optional[_Iterable[_Union[SelectorTerm, _Mapping]]] = ..., spread: _Optional[_Iterable[str]] = ...) -> None: ...

class SelectorTerm(_message.Message):
    __slots__ = ("requirements",)
    REQUIREMENTS_FIELD_NUMBER: _ClassVar[int]
    requirements: _containers.RepeatedCompositeFieldContainer[Requirement]
    def __init__(self, requirements: _Optional[_Iterable[_Union[Requirement, _Mapping]]] = ...) -> None: ...

class Requirement(_message.Message):
    __slots__ = ("key", "operator", "values")
    KEY_FIELD_NUMBER: _ClassVar[int]
    OPERATOR_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    key: str
    operator: str
    values: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, key: _Optional[str] = ..., operator: _Optional[str] = ..., values: _Optional[_Iterable[str]] = ...) -> None: ...

class CreateRequest(_message.Message):
    __slots__ = ("microservice", "spec", "args", "kwargs", "if_exists", "timeout_s")
    class KwargsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: _value_pb2.Value
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[_value_pb2.Value, _Mapping]] = ...) -> None: ...
    MICROSERVICE_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    ARGS_FIELD_NUMBER: _ClassVar[int]
    KWARGS_FIELD_NUMBER: _ClassVar[int]
    IF_EXISTS_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_S_FIELD_NUMBER: _ClassVar[int]
    microservice: str
    spec: MicroserviceSpec
    args: _containers.RepeatedCompositeFieldContainer[_value_pb2.Value]
    kwargs: _containers.MessageMap[str, _value_pb2.Value]
    if_exists: str
    timeout_s: float
    def __init__(self, microservice: _Optional[str] = ..., spec: _Optional[_Union[MicroserviceSpec, _Mapping]] = ..., args: _Optional[_Iterable[_Union[_value_pb2.Value, _Mapping]]] = ..., kwargs: _Optional[_Mapping[str, _value_pb2.Value]] = ..., if_exists: _Optional[str] = ..., timeout_s: _Optional[float] = ...) -> None: ...

class ReplicaLocation(_message.Message):
    __slots__ = ("id", "server", "incarnation", "address")
    ID_FIELD_NUMBER: _ClassVar[int]
    SERVER_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    id: str
    server: str
    incarnation: int
    address: str
    def __init__(self, id: _Optional[str] = ..., server: _Optional[str] = ..., incarnation: _Optional[int] = ..., address: _Optional[str] = ...) -> None: ...

class GroupLocation(_message.Message):
    __slots__ = ("epoch", "replicas", "primary", "children")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    PRIMARY_FIELD_NUMBER: _ClassVar[int]
    CHILDREN_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    replicas: _containers.RepeatedCompositeFieldContainer[ReplicaLocation]
    primary: str
    children: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, epoch: _Optional[int] = ..., replicas: _Optional[_Iterable[_Union[ReplicaLocation, _Mapping]]] = ..., primary: _Optional[str] = ..., children: _Optional[_Iterable[str]] = ...) -> None: ...

class Method(_message.Message):
    __slots__ = ("name", "readonly", "idempotent", "inline", "asynchronous")
    NAME_FIELD_NUMBER: _ClassVar[int]
    READONLY_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENT_FIELD_NUMBER: _ClassVar[int]
    INLINE_FIELD_NUMBER: _ClassVar[int]
    ASYNCHRONOUS_FIELD_NUMBER: _ClassVar[int]
    name: str
    readonly: bool
    idempotent: bool
    inline: bool
    asynchronous: bool
    def __init__(self, name: _Optional[str] = ..., readonly: _Optional[bool] = ..., idempotent: _Optional[bool] = ..., inline: _Optional[bool] = ..., asynchronous: _Optional[bool] = ...) -> None: ...

class Location(_message.Message):
    __slots__ = ("microservice", "spec", "groups", "methods", "created", "restored_from")
    class GroupsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: GroupLocation
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[GroupLocation, _Mapping]] = ...) -> None: ...
    MICROSERVICE_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    METHODS_FIELD_NUMBER: _ClassVar[int]
    CREATED_FIELD_NUMBER: _ClassVar[int]
    RESTORED_FROM_FIELD_NUMBER: _ClassVar[int]
    microservice: str
    spec: MicroserviceSpec
    groups: _containers.MessageMap[str, GroupLocation]
    methods: _containers.RepeatedCompositeFieldContainer[Method]
    created: bool
    restored_from: str
    def __init__(self, microservice: _Optional[str] = ..., spec: _Optional[_Union[MicroserviceSpec, _Mapping]] = ..., groups: _Optional[_Mapping[str, GroupLocation]] = ..., methods: _Optional[_Iterable[_Union[Method, _Mapping]]] = ..., created: _Optional[bool] = ..., restored_from: _Optional[str] = ...) -> None: ...

class LocateRequest(_message.Message):
    __slots__ = ("microservice", "name", "stale", "wait_s")
    class StaleEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    MICROSERVICE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    STALE_FIELD_NUMBER: _ClassVar[int]
    WAIT_S_FIELD_NUMBER: _ClassVar[int]
    microservice: str
    name: str
    stale: _containers.ScalarMap[str, int]
    wait_s: float
    def __init__(self, microservice: _Optional[str] = ..., name: _Optional[str] = ..., stale: _Optional[_Mapping[str, int]] = ..., wait_s: _Optional[float] = ...) -> None: ...

class DeleteRequest(_message.Message):
    __slots__ = ("microservice", "name", "timeout_s")
    MICROSERVICE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_S_FIELD_NUMBER: _ClassVar[int]
    microservice: str
    name: str
    timeout_s: float
    def __init__(self, microservice: _Optional[str] = ..., name: _Optional[str] = ..., timeout_s: _Optional[float] = ...) -> None: ...

class MoveRequest(_message.Message):
    __slots__ = ("microservice", "name", "server", "replica", "why", "timeout_s", "path")
    MICROSERVICE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    SERVER_FIELD_NUMBER: _ClassVar[int]
    REPLICA_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_S_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    microservice: str
    name: str
    server: str
    replica: str
    why: str
    timeout_s: float
    path: str
    def __init__(self, microservice: _Optional[str] = ..., name: _Optional[str] = ..., server: _Optional[str] = ..., replica: _Optional[str] = ..., why: _Optional[str] = ..., timeout_s: _Optional[float] = ..., path: _Optional[str] = ...) -> None: ...

class ScaleRequest(_message.Message):
    __slots__ = ("microservice", "name", "shards", "replicas", "timeout_s")
    MICROSERVICE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_S_FIELD_NUMBER: _ClassVar[int]
    microservice: str
    name: str
    shards: int
    replicas: int
    timeout_s: float
    def __init__(self, microservice: _Optional[str] = ..., name: _Optional[str] = ..., shards: _Optional[int] = ..., replicas: _Optional[int] = ..., timeout_s: _Optional[float] = ...) -> None: ...

class ChangeRequest(_message.Message):
    __slots__ = ("spec", "microservice", "dry_run", "timeout_s")
    SPEC_FIELD_NUMBER: _ClassVar[int]
    MICROSERVICE_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_S_FIELD_NUMBER: _ClassVar[int]
    spec: MicroserviceSpec
    microservice: str
    dry_run: bool
    timeout_s: float
    def __init__(self, spec: _Optional[_Union[MicroserviceSpec, _Mapping]] = ..., microservice: _Optional[str] = ..., dry_run: _Optional[bool] = ..., timeout_s: _Optional[float] = ...) -> None: ...

class ChangeReply(_message.Message):
    __slots__ = ("location", "changes")
    LOCATION_FIELD_NUMBER: _ClassVar[int]
    CHANGES_FIELD_NUMBER: _ClassVar[int]
    location: Location
    changes: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, location: _Optional[_Union[Location, _Mapping]] = ..., changes: _Optional[_Iterable[str]] = ...) -> None: ...

class FindRequest(_message.Message):
    __slots__ = ("class_path", "name_prefix", "label", "server", "region", "state", "application", "after", "limit")
    CLASS_PATH_FIELD_NUMBER: _ClassVar[int]
    NAME_PREFIX_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    SERVER_FIELD_NUMBER: _ClassVar[int]
    REGION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    APPLICATION_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    class_path: str
    name_prefix: str
    label: _containers.RepeatedCompositeFieldContainer[Requirement]
    server: str
    region: str
    state: str
    application: str
    after: str
    limit: int
    def __init__(self, class_path: _Optional[str] = ..., name_prefix: _Optional[str] = ..., label: _Optional[_Iterable[_Union[Requirement, _Mapping]]] = ..., server: _Optional[str] = ..., region: _Optional[str] = ..., state: _Optional[str] = ..., application: _Optional[str] = ..., after: _Optional[str] = ..., limit: _Optional[int] = ...) -> None: ...

class MicroserviceInfo(_message.Message):
    __slots__ = ("id", "name", "class_path", "state", "epoch", "servers", "dms", "labels", "application", "created_at", "slot")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    CLASS_PATH_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    SERVERS_FIELD_NUMBER: _ClassVar[int]
    DMS_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    APPLICATION_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    SLOT_FIELD_NUMBER: _ClassVar[int]
    id: str
    name: str
    class_path: str
    state: str
    epoch: int
    servers: _containers.RepeatedScalarFieldContainer[str]
    dms: _containers.RepeatedScalarFieldContainer[str]
    labels: _containers.ScalarMap[str, str]
    application: str
    created_at: float
    slot: int
    def __init__(self, id: _Optional[str] = ..., name: _Optional[str] = ..., class_path: _Optional[str] = ..., state: _Optional[str] = ..., epoch: _Optional[int] = ..., servers: _Optional[_Iterable[str]] = ..., dms: _Optional[_Iterable[str]] = ..., labels: _Optional[_Mapping[str, str]] = ..., application: _Optional[str] = ..., created_at: _Optional[float] = ..., slot: _Optional[int] = ...) -> None: ...

class FindReply(_message.Message):
    __slots__ = ("rows", "more")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    rows: _containers.RepeatedCompositeFieldContainer[MicroserviceInfo]
    more: bool
    def __init__(self, rows: _Optional[_Iterable[_Union[MicroserviceInfo, _Mapping]]] = ..., more: _Optional[bool] = ...) -> None: ...

class Replica(_message.Message):
    __slots__ = ("id", "server", "incarnation", "confirmed", "source", "doubted")
    ID_FIELD_NUMBER: _ClassVar[int]
    SERVER_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    CONFIRMED_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    DOUBTED_FIELD_NUMBER: _ClassVar[int]
    id: str
    server: str
    incarnation: int
    confirmed: bool
    source: str
    doubted: bool
    def __init__(self, id: _Optional[str] = ..., server: _Optional[str] = ..., incarnation: _Optional[int] = ..., confirmed: _Optional[bool] = ..., source: _Optional[str] = ..., doubted: _Optional[bool] = ...) -> None: ...

class Migration(_message.Message):
    __slots__ = ("source", "target", "why")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    source: str
    target: Replica
    why: str
    def __init__(self, source: _Optional[str] = ..., target: _Optional[_Union[Replica, _Mapping]] = ..., why: _Optional[str] = ...) -> None: ...

class Group(_message.Message):
    __slots__ = ("phase", "epoch", "version", "replicas", "primary", "in_sync", "move", "leftovers", "constructed", "ineligible", "deaths", "explanation", "reason", "store_id", "kind", "wanted", "min_in_sync", "children", "report", "generation", "changing", "regions", "preferred_region", "devices")
    class IneligibleEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class DeathsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class ExplanationEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    PHASE_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    PRIMARY_FIELD_NUMBER: _ClassVar[int]
    IN_SYNC_FIELD_NUMBER: _ClassVar[int]
    MOVE_FIELD_NUMBER: _ClassVar[int]
    LEFTOVERS_FIELD_NUMBER: _ClassVar[int]
    CONSTRUCTED_FIELD_NUMBER: _ClassVar[int]
    INELIGIBLE_FIELD_NUMBER: _ClassVar[int]
    DEATHS_FIELD_NUMBER: _ClassVar[int]
    EXPLANATION_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    STORE_ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    WANTED_FIELD_NUMBER: _ClassVar[int]
    MIN_IN_SYNC_FIELD_NUMBER: _ClassVar[int]
    CHILDREN_FIELD_NUMBER: _ClassVar[int]
    REPORT_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    CHANGING_FIELD_NUMBER: _ClassVar[int]
    REGIONS_FIELD_NUMBER: _ClassVar[int]
    PREFERRED_REGION_FIELD_NUMBER: _ClassVar[int]
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    phase: str
    epoch: int
    version: int
    replicas: _containers.RepeatedCompositeFieldContainer[Replica]
    primary: str
    in_sync: _containers.RepeatedScalarFieldContainer[str]
    move: Migration
    leftovers: _containers.RepeatedCompositeFieldContainer[Replica]
    constructed: bool
    ineligible: _containers.ScalarMap[str, str]
    deaths: _containers.ScalarMap[str, int]
    explanation: _containers.ScalarMap[str, str]
    reason: str
    store_id: str
    kind: str
    wanted: int
    min_in_sync: int
    children: _containers.RepeatedScalarFieldContainer[str]
    report: str
    generation: int
    changing: bool
    regions: _containers.RepeatedScalarFieldContainer[str]
    preferred_region: str
    devices: bool
    def __init__(self, phase: _Optional[str] = ..., epoch: _Optional[int] = ..., version: _Optional[int] = ..., replicas: _Optional[_Iterable[_Union[Replica, _Mapping]]] = ..., primary: _Optional[str] = ..., in_sync: _Optional[_Iterable[str]] = ..., move: _Optional[_Union[Migration, _Mapping]] = ..., leftovers: _Optional[_Iterable[_Union[Replica, _Mapping]]] = ..., constructed: _Optional[bool] = ..., ineligible: _Optional[_Mapping[str, str]] = ..., deaths: _Optional[_Mapping[str, int]] = ..., explanation: _Optional[_Mapping[str, str]] = ..., reason: _Optional[str] = ..., store_id: _Optional[str] = ..., kind: _Optional[str] = ..., wanted: _Optional[int] = ..., min_in_sync: _Optional[int] = ..., children: _Optional[_Iterable[str]] = ..., report: _Optional[str] = ..., generation: _Optional[int] = ..., changing: _Optional[bool] = ..., regions: _Optional[_Iterable[str]] = ..., preferred_region: _Optional[str] = ..., devices: _Optional[bool] = ...) -> None: ...

class Description(_message.Message):
    __slots__ = ("id", "spec", "created_at", "groups", "slot", "slot_leader", "state", "explanation", "checkpoints")
    class GroupsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Group
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Group, _Mapping]] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    SLOT_FIELD_NUMBER: _ClassVar[int]
    SLOT_LEADER_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    EXPLANATION_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINTS_FIELD_NUMBER: _ClassVar[int]
    id: str
    spec: MicroserviceSpec
    created_at: float
    groups: _containers.MessageMap[str, Group]
    slot: int
    slot_leader: str
    state: str
    explanation: _containers.RepeatedScalarFieldContainer[str]
    checkpoints: _containers.RepeatedCompositeFieldContainer[_value_pb2.MapValue]
    def __init__(self, id: _Optional[str] = ..., spec: _Optional[_Union[MicroserviceSpec, _Mapping]] = ..., created_at: _Optional[float] = ..., groups: _Optional[_Mapping[str, Group]] = ..., slot: _Optional[int] = ..., slot_leader: _Optional[str] = ..., state: _Optional[str] = ..., explanation: _Optional[_Iterable[str]] = ..., checkpoints: _Optional[_Iterable[_Union[_value_pb2.MapValue, _Mapping]]] = ...) -> None: ...

class ServerRecord(_message.Message):
    __slots__ = ("name", "address", "grpc_address", "labels", "capacity", "device", "pid", "supervisor_pid", "store_id", "version", "started_at")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    GRPC_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    CAPACITY_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    SUPERVISOR_PID_FIELD_NUMBER: _ClassVar[int]
    STORE_ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    STARTED_AT_FIELD_NUMBER: _ClassVar[int]
    name: str
    address: str
    grpc_address: str
    labels: _containers.ScalarMap[str, str]
    capacity: int
    device: bool
    pid: int
    supervisor_pid: int
    store_id: str
    version: str
    started_at: float
    def __init__(self, name: _Optional[str] = ..., address: _Optional[str] = ..., grpc_address: _Optional[str] = ..., labels: _Optional[_Mapping[str, str]] = ..., capacity: _Optional[int] = ..., device: _Optional[bool] = ..., pid: _Optional[int] = ..., supervisor_pid: _Optional[int] = ..., store_id: _Optional[str] = ..., version: _Optional[str] = ..., started_at: _Optional[float] = ...) -> None: ...

class ServerInfo(_message.Message):
    __slots__ = ("record", "incarnation", "cordoned", "replicas", "slots")
    RECORD_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    CORDONED_FIELD_NUMBER: _ClassVar[int]
    REPLICAS_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    record: ServerRecord
    incarnation: int
    cordoned: str
    replicas: int
    slots: int
    def __init__(self, record: _Optional[_Union[ServerRecord, _Mapping]] = ..., incarnation: _Optional[int] = ..., cordoned: _Optional[str] = ..., replicas: _Optional[int] = ..., slots: _Optional[int] = ...) -> None: ...

class Membership(_message.Message):
    __slots__ = ("revision", "servers", "cluster", "paused", "leaders")
    REVISION_FIELD_NUMBER: _ClassVar[int]
    SERVERS_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    PAUSED_FIELD_NUMBER: _ClassVar[int]
    LEADERS_FIELD_NUMBER: _ClassVar[int]
    revision: int
    servers: _containers.RepeatedCompositeFieldContainer[ServerInfo]
    cluster: str
    paused: bool
    leaders: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, revision: _Optional[int] = ..., servers: _Optional[_Iterable[_Union[ServerInfo, _Mapping]]] = ..., cluster: _Optional[str] = ..., paused: _Optional[bool] = ..., leaders: _Optional[_Iterable[int]] = ...) -> None: ...

class SlotInfo(_message.Message):
    __slots__ = ("slot", "leader", "microservices")
    SLOT_FIELD_NUMBER: _ClassVar[int]
    LEADER_FIELD_NUMBER: _ClassVar[int]
    MICROSERVICES_FIELD_NUMBER: _ClassVar[int]
    slot: int
    leader: str
    microservices: int
    def __init__(self, slot: _Optional[int] = ..., leader: _Optional[str] = ..., microservices: _Optional[int] = ...) -> None: ...

class SlotList(_message.Message):
    __slots__ = ("slots",)
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    slots: _containers.RepeatedCompositeFieldContainer[SlotInfo]
    def __init__(self, slots: _Optional[_Iterable[_Union[SlotInfo, _Mapping]]] = ...) -> None: ...

class CordonRequest(_message.Message):
    __slots__ = ("server", "cordon", "why")
    SERVER_FIELD_NUMBER: _ClassVar[int]
    CORDON_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    server: str
    cordon: bool
    why: str
    def __init__(self, server: _Optional[str] = ..., cordon: _Optional[bool] = ..., why: _Optional[str] = ...) -> None: ...

class DrainRequest(_message.Message):
    __slots__ = ("server", "timeout_s", "why")
    SERVER_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_S_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    server: str
    timeout_s: float
    why: str
    def __init__(self, server: _Optional[str] = ..., timeout_s: _Optional[float] = ..., why: _Optional[str] = ...) -> None: ...

class DrainReply(_message.Message):
    __slots__ = ("moved", "left")
    MOVED_FIELD_NUMBER: _ClassVar[int]
    LEFT_FIELD_NUMBER: _ClassVar[int]
    moved: int
    left: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, moved: _Optional[int] = ..., left: _Optional[_Iterable[str]] = ...) -> None: ...

class PauseRequest(_message.Message):
    __slots__ = ("paused",)
    PAUSED_FIELD_NUMBER: _ClassVar[int]
    paused: bool
    def __init__(self, paused: _Optional[bool] = ...) -> None: ...

class PushCodeRequest(_message.Message):
    __slots__ = ("sha256", "kind", "content")
    SHA256_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    sha256: str
    kind: str
    content: bytes
    def __init__(self, sha256: _Optional[str] = ..., kind: _Optional[str] = ..., content: _Optional[bytes] = ...) -> None: ...

class ApplicationRequest(_message.Message):
    __slots__ = ("name", "entry", "args", "kwargs")
    class KwargsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: _value_pb2.Value
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[_value_pb2.Value, _Mapping]] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    ENTRY_FIELD_NUMBER: _ClassVar[int]
    ARGS_FIELD_NUMBER: _ClassVar[int]
    KWARGS_FIELD_NUMBER: _ClassVar[int]
    name: str
    entry: MicroserviceSpec
    args: _containers.RepeatedCompositeFieldContainer[_value_pb2.Value]
    kwargs: _containers.MessageMap[str, _value_pb2.Value]
    def __init__(self, name: _Optional[str] = ..., entry: _Optional[_Union[MicroserviceSpec, _Mapping]] = ..., args: _Optional[_Iterable[_Union[_value_pb2.Value, _Mapping]]] = ..., kwargs: _Optional[_Mapping[str, _value_pb2.Value]] = ...) -> None: ...

class EventsRequest(_message.Message):
    __slots__ = ("after", "wait_s")
    AFTER_FIELD_NUMBER: _ClassVar[int]
    WAIT_S_FIELD_NUMBER: _ClassVar[int]
    after: int
    wait_s: float
    def __init__(self, after: _Optional[int] = ..., wait_s: _Optional[float] = ...) -> None: ...

class EventInfo(_message.Message):
    __slots__ = ("revision", "kind", "at", "microservice", "server", "text")
    REVISION_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    MICROSERVICE_FIELD_NUMBER: _ClassVar[int]
    SERVER_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    revision: int
    kind: str
    at: float
    microservice: str
    server: str
    text: str
    def __init__(self, revision: _Optional[int] = ..., kind: _Optional[str] = ..., at: _Optional[float] = ..., microservice: _Optional[str] = ..., server: _Optional[str] = ..., text: _Optional[str] = ...) -> None: ...

class EventList(_message.Message):
    __slots__ = ("events",)
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[EventInfo]
    def __init__(self, events: _Optional[_Iterable[_Union[EventInfo, _Mapping]]] = ...) -> None: ...
