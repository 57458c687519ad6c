"""Every span, metric, attribute and log key, in one place.

Owns the names and what they mean; ``docs/telemetry.md`` repeats them and a test compares the two.
Leaves when they are emitted to the packages that emit them.
Invariant: no other module spells such a name. Metric names carry no unit; it is declared beside them.
Failure behaviour: none.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

SCOPE: Final = "amino"
"""Name of the instrumentation scope of all our spans and metrics."""

# Spans of a call. One call is one trace:
# CLIENT_CALL > CLIENT_DM > TRANSPORT > SERVER_CALL > SERVER_DM > METHOD.
CLIENT_CALL: Final = "amino.call"
"""One call as its caller sees it, stub to outcome; kind client. Attributes: METHOD_NAME, MICROSERVICE, DMS,
OUTCOME, ATTEMPT."""
CLIENT_DM: Final = "amino.dm.client"
"""One DM's client component around the rest of the call; attribute DM."""
TRANSPORT: Final = "amino.transport"
"""One request on a link, sent to answered; kind client. Retries are several of these. Attributes: PEER, SERVER, REPLICA, EPOCH,
ATTEMPT."""
SERVER_CALL: Final = "amino.serve"
"""One request inside a kernel server, read to replied; kind server; its parent came in the frame; linked to what delayed it.
Attributes: METHOD_NAME, MICROSERVICE, DMS, REPLICA, EPOCH, SERVER, REQUEST, ATTEMPT, OUTCOME."""
SERVER_DM: Final = "amino.dm.server"
"""One DM's server component around the rest of the call; attribute DM."""
METHOD: Final = "amino.method"
"""The user's method itself; calls that it makes are its children."""
SYSTEM_CALL: Final = "amino.system"
"""One request to a server's OMS (`registry`) or `kernel` on behalf of something traced; kind server. Attributes: SERVICE,
METHOD_NAME."""

# Spans of the life of an object.
CREATE: Final = "amino.create"
"""Creation of a microservice, record written to confirmed."""
DELETE: Final = "amino.delete"
"""Deletion of a microservice, until nothing of it is left."""
PLACE: Final = "amino.place"
"""Placing one replica on a server: instantiate, restore, confirm. Attributes: MICROSERVICE, SERVER, REPLICA, EPOCH, OPERATION."""
MIGRATE: Final = "amino.migrate"
"""Moving one replica, intent to source dropped."""
CHANGE: Final = "amino.change"
"""Changing the spec of a running microservice, asked for to serving again."""
CHECKPOINT: Final = "amino.checkpoint"
"""Writing and publishing one checkpoint. Attributes: SIZE_BYTES, SEQUENCE."""
RESTORE: Final = "amino.restore"
"""Reading the newest intact checkpoint. Attributes: SIZE_BYTES, SEQUENCE."""
ELECTION: Final = "amino.election"
"""Taking the lead of one slot, claimed to ready; a trace of its own. Attributes: SLOT, SERVER."""
ETCD: Final = "amino.etcd"
"""One operation on etcd that a call or command waits for; kind client; attributes OPERATION, PEER."""

# Spans of a failover. A failover is a trace too; its root is FAILOVER, all others are children of it.
FAILOVER: Final = "amino.failover"
"""The loss of one incarnation, until all its objects are placed again. Attributes: SERVER, INCARNATION, KIND."""
FAILOVER_LOST: Final = "amino.failover.lost"
"""A mark (no duration): when the incarnation was last known to live, or died."""
FAILOVER_DETECTED: Final = "amino.failover.detected"
"""From lost to known as lost: by its supervisor, by fencing, or by expiry of the lease."""
FAILOVER_ELECTED: Final = "amino.failover.elected"
"""From detected to a leader for each slot it led. Attribute: SLOT."""
FAILOVER_PLACED: Final = "amino.failover.placed"
"""From detected to the guarded write of an object's new placement. Attributes: MICROSERVICE, SERVER, EPOCH."""
FAILOVER_RESTORED: Final = "amino.failover.restored"
"""From placed to confirmed with its state on the new server. Attributes: MICROSERVICE, SERVER, EPOCH."""
FAILOVER_PROMOTED: Final = "amino.failover.promoted"
"""From the moment a replica heard that it is primary to its serving. Attributes: MICROSERVICE, SERVER, EPOCH."""
FAILOVER_FIRST_CALL: Final = "amino.failover.first_call"
"""From restored or promoted to the first good reply of the object; linked to that call. Attributes: MICROSERVICE, METHOD_NAME."""

SPANS: Final = frozenset(
    {
        CLIENT_CALL, CLIENT_DM, TRANSPORT, SERVER_CALL, SERVER_DM, METHOD, SYSTEM_CALL,
        CREATE, DELETE, PLACE, MIGRATE, CHANGE, CHECKPOINT, RESTORE, ELECTION, ETCD, FAILOVER, FAILOVER_LOST,
        FAILOVER_DETECTED, FAILOVER_ELECTED, FAILOVER_PLACED, FAILOVER_RESTORED, FAILOVER_PROMOTED, FAILOVER_FIRST_CALL,
    }
)  # fmt: skip

# Attributes of spans and metrics, and keys of log records.
MICROSERVICE: Final = "amino.microservice"
REPLICA: Final = "amino.replica"
METHOD_NAME: Final = "amino.method"
DM: Final = "amino.dm"
DMS: Final = "amino.dms"
SERVICE: Final = "amino.service"
SERVER: Final = "amino.server"
INCARNATION: Final = "amino.incarnation"
CLUSTER: Final = "amino.cluster"
SLOT: Final = "amino.slot"
EPOCH: Final = "amino.epoch"
REQUEST: Final = "amino.request"
ATTEMPT: Final = "amino.attempt"
PEER: Final = "amino.peer"
OUTCOME: Final = "amino.outcome"
REASON: Final = "amino.reason"
KIND: Final = "amino.kind"
SIDE: Final = "amino.side"
QUEUE: Final = "amino.queue"
OPERATION: Final = "amino.operation"
SIZE_BYTES: Final = "amino.size_bytes"
SEQUENCE: Final = "amino.sequence"

# Attributes of OpenTelemetry's semantic conventions, beside ours on the spans that they fit.
RPC_SYSTEM: Final = "rpc.system"
RPC_SERVICE: Final = "rpc.service"
RPC_METHOD: Final = "rpc.method"
SERVER_ADDRESS: Final = "server.address"
SERVER_PORT: Final = "server.port"
ERROR_TYPE: Final = "error.type"
DB_SYSTEM: Final = "db.system.name"
DB_OPERATION: Final = "db.operation.name"

CONVENTIONS: Final[dict[str, str]] = {
    RPC_SYSTEM: "`amino`, on calls and requests to services.",
    RPC_SERVICE: "Name of the user's class, or of the service.",
    RPC_METHOD: "Name of the method alone.",
    SERVER_ADDRESS: "Host of the other end.",
    SERVER_PORT: "Port of the other end.",
    ERROR_TYPE: "Type of the error that ended the span.",
    DB_SYSTEM: "`etcd`.",
    DB_OPERATION: "As `amino.operation`.",
}

ATTRIBUTES: Final[dict[str, str]] = {
    MICROSERVICE: "Microservice id.",
    REPLICA: "Replica id.",
    METHOD_NAME: "Class and method, `Counter.add`; for services the service method.",
    DM: "Name of the deployment manager.",
    DMS: "Names of the chain's deployment managers, from the outside in, with commas.",
    SERVICE: "`registry` or `kernel`.",
    SERVER: "Name of the kernel server.",
    INCARNATION: "Its incarnation (create revision of its key).",
    CLUSTER: "Name of the cluster.",
    SLOT: "Slot number, 0 to 63.",
    EPOCH: "Epoch of the placement.",
    REQUEST: "Request id.",
    ATTEMPT: "Sends after an unknown outcome, 0 at first.",
    PEER: "Address of the other end.",
    OUTCOME: "`result`, `application-error`, `not-executed` or `unknown`; for checkpoints, keepalives and etcd `ok` or `failed`.",
    REASON: "Why not executed or refused.",
    KIND: "Kind of loss: `crash`, `hang`, `expiry`.",
    SIDE: "`client` or `server`.",
    QUEUE: "Which queue.",
    OPERATION: "`get`, `put`, `txn`, `watch`, `lease` ...",
    SIZE_BYTES: "Size in bytes.",
    SEQUENCE: "Sequence number of a checkpoint.",
}

# Metrics: name, and in METRICS what they are; ``docs/metrics.md`` is generated from it.
CALLS: Final = "amino.calls"
CALL_DURATION: Final = "amino.call.duration"
IN_FLIGHT: Final = "amino.calls.in_flight"
REFUSED: Final = "amino.refused"
QUEUE_DEPTH: Final = "amino.queue.depth"
SESSION_VALIDITY: Final = "amino.session.validity"
KEEPALIVE_DURATION: Final = "amino.keepalive.duration"
SLOTS_LED: Final = "amino.slots.led"
FAILOVERS: Final = "amino.failovers"
FAILOVER_DURATION: Final = "amino.failover.duration"
REPLICATION_LAG: Final = "amino.replication.lag"
IN_SYNC: Final = "amino.replication.in_sync"
WANTED: Final = "amino.replication.wanted"
CHECKPOINTS: Final = "amino.checkpoints"
CHECKPOINT_AGE: Final = "amino.checkpoint.age"
CHECKPOINT_SIZE: Final = "amino.checkpoint.size"
CHECKPOINT_DURATION: Final = "amino.checkpoint.duration"
ETCD_DURATION: Final = "amino.etcd.duration"
ETCD_SIZE: Final = "amino.etcd.size"
MICROSERVICES: Final = "amino.microservices"
MICROSERVICE_MEMORY: Final = "amino.microservice.memory"
PROCESS_MEMORY: Final = "amino.process.memory"
MEMORY_AVAILABLE: Final = "amino.memory.available"


class Metric(NamedTuple):
    """What a metric is.

    Args:
        kind: ``counter``, ``histogram`` or ``gauge``. attributes: the keys of its series.
    """

    kind: Literal["counter", "histogram", "gauge"]
    unit: str
    meaning: str
    attributes: tuple[str, ...] = ()


METRICS: Final[dict[str, Metric]] = {
    CALLS: Metric("counter", "{call}", "Calls that ended.", (SIDE, METHOD_NAME, DMS, OUTCOME)),
    CALL_DURATION: Metric(
        "histogram",
        "s",
        "How long calls took: at the client stub to outcome, at the server read to replied.",
        (SIDE, METHOD_NAME, DMS),
    ),
    IN_FLIGHT: Metric(
        "gauge", "{call}", "Calls that run in a kernel server now, or wait for something there.", (SERVER,)
    ),
    REFUSED: Metric(
        "counter", "{call}", "Calls that a kernel server refused before they ran; `malformed` for bad input.", (REASON,)
    ),
    QUEUE_DEPTH: Metric(
        "gauge",
        "{item}",
        "What waits or is worked at: `threads` (worker threads that run a method), `reconciler` (microservices that a slot "
        "leader has to look at), `events` (events to be written).",
        (QUEUE, SERVER),
    ),
    SESSION_VALIDITY: Metric(
        "gauge", "s", "For how long the session is still proved valid; negative when it is not.", (SERVER,)
    ),
    KEEPALIVE_DURATION: Metric(
        "histogram",
        "s",
        "Round trips to etcd that keep a server's session: its beats, and keepalives of its lease.",
        (OUTCOME,),
    ),
    SLOTS_LED: Metric(
        "gauge", "{slot}", "Slots that the server leads; 64 over all servers when all is well.", (SERVER,)
    ),
    FAILOVERS: Metric("counter", "{failover}", "Incarnations recovered from.", (KIND,)),
    FAILOVER_DURATION: Metric("histogram", "s", "Time from lost to the last object placed again.", (KIND,)),
    REPLICATION_LAG: Metric(
        "gauge",
        "{entry}",
        "Entries that the slowest in-sync replica has still to acknowledge, told by the primary; the worst groups only.",
        (MICROSERVICE, SERVER),
    ),
    IN_SYNC: Metric(
        "gauge",
        "{replica}",
        "Size of the in-sync set, told by the primary; the smallest groups only.",
        (MICROSERVICE, SERVER),
    ),
    WANTED: Metric(
        "gauge",
        "{replica}",
        "How many replicas there should be, for the groups shown by the metric before.",
        (MICROSERVICE, SERVER),
    ),
    CHECKPOINTS: Metric("counter", "{checkpoint}", "Checkpoints, `ok` or `failed`.", (OUTCOME,)),
    CHECKPOINT_AGE: Metric(
        "gauge",
        "s",
        "Time since the last checkpoint of a microservice here was published; the oldest only.",
        (MICROSERVICE, SERVER),
    ),
    CHECKPOINT_SIZE: Metric("histogram", "By", "Sizes of checkpoints."),
    CHECKPOINT_DURATION: Metric("histogram", "s", "Time to write and publish a checkpoint."),
    ETCD_DURATION: Metric(
        "histogram", "s", "Operations on etcd as their caller sees them, repeats included.", (OPERATION, OUTCOME)
    ),
    ETCD_SIZE: Metric(
        "gauge", "By", "Size of the database of the etcd member that the server talks to.", (SERVER, PEER)
    ),
    MICROSERVICES: Metric("gauge", "{replica}", "Replicas that the server hosts.", (SERVER,)),
    MICROSERVICE_MEMORY: Metric(
        "gauge",
        "By",
        "Estimated memory of a microservice's object on this server, from time to time; the largest only.",
        (MICROSERVICE, SERVER),
    ),
    PROCESS_MEMORY: Metric("gauge", "By", "Resident memory of the process."),
    MEMORY_AVAILABLE: Metric(
        "gauge",
        "{share}",
        "Share, 0 to 1, of the memory of its machine and control groups that the server may still take.",
        (SERVER,),
    ),
}

OUTCOME_RESULT: Final = "result"
OUTCOME_APPLICATION_ERROR: Final = "application-error"
OUTCOME_NOT_EXECUTED: Final = "not-executed"
OUTCOME_UNKNOWN: Final = "unknown"

SIDE_CLIENT: Final = "client"
SIDE_SERVER: Final = "server"

QUEUE_THREADS: Final = "threads"
QUEUE_RECONCILER: Final = "reconciler"
QUEUE_EVENTS: Final = "events"

OK: Final = "ok"
FAILED: Final = "failed"

# Keys that the log formatter adds to each record by itself.
LOG_TIME: Final = "time"
LOG_LEVEL: Final = "level"
LOG_LOGGER: Final = "logger"
LOG_MESSAGE: Final = "msg"
LOG_ERROR: Final = "error"
LOG_TRACE: Final = "trace_id"
LOG_SPAN: Final = "span_id"
LOG_MORE: Final = "suppressed"

LOG_KEYS: Final = (LOG_TIME, LOG_LEVEL, LOG_LOGGER, LOG_MESSAGE, LOG_ERROR, LOG_TRACE, LOG_SPAN, LOG_MORE)
