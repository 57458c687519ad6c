"""Amino: a distributed object runtime. Plain classes run as microservices and survive the loss of their machine.

The public names, nothing else.
"""

from amino.contracts.documents import Placement, Requirement
from amino.dm.control import control
from amino.dm.transactions.distributed import transactional
from amino.errors import (
    AlreadyExists,
    AminoError,
    ClusterUnavailable,
    CodeUnavailable,
    Conflict,
    ConstructionFailed,
    CoordinationUnavailable,
    CorruptCheckpoint,
    EventsMissed,
    Invalid,
    LockHeld,
    LockLost,
    NoEligibleServer,
    NotEncodable,
    NotExecuted,
    NotFound,
    OutcomeUnknown,
    Overloaded,
    PermissionDenied,
    Quarantined,
    RemoteError,
    SessionLost,
    StaleToken,
    StateLost,
    StoreFailed,
    TransactionAborted,
)
from amino.marks import broadcast, idempotent, inline, key, readonly
from amino.node.connect import connect
from amino.node.device import Device
from amino.rpc.tls import TlsConfig
from amino.stubs.cluster import Cluster
from amino.stubs.current import Current, current, deadline, now, random
from amino.stubs.events import Event, Subscription, emit
from amino.stubs.fencing import check_token, fenced
from amino.stubs.locks import Fence, Lock
from amino.stubs.spec import Spec, spec
from amino.stubs.stub import aio
from amino.stubs.timers import cancel_timer, timer, timers

__version__ = "0.1.0"

__all__ = [
    "AlreadyExists",
    "AminoError",
    "Cluster",
    "ClusterUnavailable",
    "CodeUnavailable",
    "Conflict",
    "ConstructionFailed",
    "CoordinationUnavailable",
    "CorruptCheckpoint",
    "Current",
    "Device",
    "Event",
    "EventsMissed",
    "Fence",
    "Invalid",
    "Lock",
    "LockHeld",
    "LockLost",
    "NoEligibleServer",
    "NotEncodable",
    "NotExecuted",
    "NotFound",
    "OutcomeUnknown",
    "Overloaded",
    "PermissionDenied",
    "Placement",
    "Quarantined",
    "RemoteError",
    "Requirement",
    "SessionLost",
    "Spec",
    "StaleToken",
    "StateLost",
    "StoreFailed",
    "Subscription",
    "TlsConfig",
    "TransactionAborted",
    "__version__",
    "aio",
    "broadcast",
    "cancel_timer",
    "check_token",
    "connect",
    "control",
    "current",
    "deadline",
    "emit",
    "fenced",
    "idempotent",
    "inline",
    "key",
    "now",
    "random",
    "readonly",
    "spec",
    "timer",
    "timers",
    "transactional",
]
