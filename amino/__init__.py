"""Amino: a distributed object runtime. Plain classes run as microservices and survive the loss of their machine.

The public names, nothing else.
"""

from amino.contracts.documents import Placement, Requirement
from amino.dm.control import control
from amino.errors import (
    AlreadyExists,
    AminoError,
    ClusterUnavailable,
    CodeUnavailable,
    Conflict,
    ConstructionFailed,
    CoordinationUnavailable,
    CorruptCheckpoint,
    Invalid,
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
    StateLost,
    StoreFailed,
)
from amino.marks import idempotent, inline, readonly
from amino.node.connect import connect
from amino.rpc.tls import TlsConfig
from amino.stubs.cluster import Cluster
from amino.stubs.current import Current, current, deadline
from amino.stubs.spec import Spec, spec
from amino.stubs.stub import aio

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
    "Invalid",
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
    "StateLost",
    "StoreFailed",
    "TlsConfig",
    "__version__",
    "aio",
    "connect",
    "control",
    "current",
    "deadline",
    "idempotent",
    "inline",
    "readonly",
    "spec",
]
