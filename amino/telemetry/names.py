"""Every span, metric, attribute and log key, in one place.

Owns the names and what they mean; ``docs/telemetry.md`` repeats them and a test compares the two.
Leaves when they are emitted to the packages that emit them.
Invariant: no other module spells such a name. Metric names carry no unit; it is declared beside them.
Failure behaviour: none.
"""

from __future__ import annotations

from typing import Final

SCOPE: Final = "amino"
"""Name of the instrumentation scope of all our spans and metrics."""

# Spans of a call. One call is one trace:
# CLIENT_CALL > CLIENT_DM > TRANSPORT > SERVER_CALL > SERVER_DM > METHOD.
CLIENT_CALL: Final = "amino.call"
"""One call as its caller sees it, stub to outcome; kind client. Attributes: METHOD_NAME, MICROSERVICE."""
CLIENT_DM: Final = "amino.dm.client"
"""One DM's client component around the rest of the call; attribute DM."""
TRANSPORT: Final = "amino.transport"
"""One request on a link, sent to answered; kind client. Attribute PEER. Retries are several of these."""
SERVER_CALL: Final = "amino.serve"
"""One request inside a kernel server, read to replied; kind server; its parent came in the frame."""
SERVER_DM: Final = "amino.dm.server"
"""One DM's server component around the rest of the call; attribute DM."""
METHOD: Final = "amino.method"
"""The user's method itself; calls that it makes are its children."""
COORDINATOR_DM: Final = "amino.dm.coordinator"
"""One upcall of a DM coordinator; attributes DM and UPCALL."""
SYSTEM_CALL: Final = "amino.system"
"""One request to the OMS or kernel services; attributes SERVICE and METHOD_NAME."""

# Spans of the life of an object.
CREATE: Final = "amino.create"
"""Creation of a microservice, record written to confirmed."""
DELETE: Final = "amino.delete"
"""Deletion of a microservice, until nothing of it is left."""
PLACE: Final = "amino.place"
"""Placing one replica on a server: instantiate, restore, confirm."""
MIGRATE: Final = "amino.migrate"
"""Moving one replica, intent to source dropped."""
CHECKPOINT: Final = "amino.checkpoint"
"""Writing and publishing one checkpoint. Attributes: SIZE_BYTES, SEQUENCE."""
RESTORE: Final = "amino.restore"
"""Reading the newest intact checkpoint. Attributes: SIZE_BYTES, SEQUENCE."""
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
FAILOVER_FIRST_CALL: Final = "amino.failover.first_call"
"""From restored to the first good reply of the object. Attributes: MICROSERVICE, METHOD_NAME."""

SPANS: Final = frozenset(
    {
        CLIENT_CALL, CLIENT_DM, TRANSPORT, SERVER_CALL, SERVER_DM, METHOD, COORDINATOR_DM, SYSTEM_CALL,
        CREATE, DELETE, PLACE, MIGRATE, CHECKPOINT, RESTORE, ETCD, FAILOVER, FAILOVER_LOST, FAILOVER_DETECTED,
        FAILOVER_ELECTED, FAILOVER_PLACED, FAILOVER_RESTORED, FAILOVER_FIRST_CALL,
    }
)  # fmt: skip

# Metrics: name, and in METRICS its unit and meaning.
CALLS: Final = "amino.calls"
CALL_DURATION: Final = "amino.call.duration"
QUEUE_DEPTH: Final = "amino.queue.depth"
SESSION_VALIDITY: Final = "amino.session.validity"
REPLICATION_LAG: Final = "amino.replication.lag"
FAILOVERS: Final = "amino.failovers"
FAILOVER_DURATION: Final = "amino.failover.duration"
CHECKPOINTS: Final = "amino.checkpoints"
CHECKPOINT_SIZE: Final = "amino.checkpoint.size"
CHECKPOINT_DURATION: Final = "amino.checkpoint.duration"
REFUSED: Final = "amino.refused"

METRICS: Final[dict[str, tuple[str, str]]] = {
    CALLS: ("{call}", "Calls by side, method and outcome."),
    CALL_DURATION: ("s", "Histogram of call durations by side and method."),
    QUEUE_DEPTH: (
        "{call}",
        "Calls in flight or waiting now, by queue: `server` (all of a kernel server), `threads` (its busy workers).",
    ),
    SESSION_VALIDITY: (
        "s",
        "Seconds for which the server's session is still proved valid; negative when it is not.",
    ),
    REPLICATION_LAG: (
        "{entry}",
        "Entries that the slowest in-sync replica of a group has still to acknowledge.",
    ),
    FAILOVERS: ("{failover}", "Incarnations recovered from, by kind."),
    FAILOVER_DURATION: ("s", "Histogram of the time from lost to the last object placed again, by kind."),
    CHECKPOINTS: ("{checkpoint}", "Checkpoints by outcome."),
    CHECKPOINT_SIZE: ("By", "Histogram of checkpoint sizes."),
    CHECKPOINT_DURATION: ("s", "Histogram of the time to write and publish a checkpoint."),
    REFUSED: ("{call}", "Calls refused before they ran, by reason; `malformed` for bad input."),
}

# Attributes of spans and metrics, and keys of log records.
MICROSERVICE: Final = "amino.microservice"
CLASS: Final = "amino.class"
REPLICA: Final = "amino.replica"
METHOD_NAME: Final = "amino.method"
DM: Final = "amino.dm"
UPCALL: Final = "amino.upcall"
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

ATTRIBUTES: Final[dict[str, str]] = {
    MICROSERVICE: "Microservice id.",
    CLASS: "Import path of the user's class.",
    REPLICA: "Replica id.",
    METHOD_NAME: "Class and method, `Counter.add`; for services the service method.",
    DM: "Name of the deployment manager.",
    UPCALL: "Which upcall of the component.",
    SERVICE: "`oms` or `kernel`.",
    SERVER: "Name of the kernel server.",
    INCARNATION: "Its incarnation (create revision of its key).",
    CLUSTER: "Name of the cluster.",
    SLOT: "Slot number, 0 to 63.",
    EPOCH: "Epoch of the placement.",
    REQUEST: "Request id.",
    ATTEMPT: "Sends after an unknown outcome, 0 at first.",
    PEER: "Address of the other end.",
    OUTCOME: "`result`, `application-error`, `not-executed` or `unknown`; for checkpoints `ok` or `failed`.",
    REASON: "Why not executed or refused.",
    KIND: "Kind of loss: `crash`, `hang`, `expiry`.",
    SIDE: "`client` or `server`.",
    QUEUE: "Which queue.",
    OPERATION: "`get`, `put`, `txn`, `watch`, `lease` ...",
    SIZE_BYTES: "Size in bytes.",
    SEQUENCE: "Sequence number of a checkpoint.",
}

OUTCOME_RESULT: Final = "result"
OUTCOME_APPLICATION_ERROR: Final = "application-error"
OUTCOME_NOT_EXECUTED: Final = "not-executed"
OUTCOME_UNKNOWN: Final = "unknown"

SIDE_CLIENT: Final = "client"
SIDE_SERVER: Final = "server"

QUEUE_SERVER: Final = "server"
QUEUE_THREADS: Final = "threads"

# Keys that the log formatter adds to each record by itself.
LOG_TIME: Final = "time"
LOG_LEVEL: Final = "level"
LOG_LOGGER: Final = "logger"
LOG_MESSAGE: Final = "msg"
LOG_ERROR: Final = "error"
LOG_TRACE: Final = "trace_id"
LOG_SPAN: Final = "span_id"

LOG_KEYS: Final = (LOG_TIME, LOG_LEVEL, LOG_LOGGER, LOG_MESSAGE, LOG_ERROR, LOG_TRACE, LOG_SPAN)
