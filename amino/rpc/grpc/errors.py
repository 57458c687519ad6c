"""Errors as gRPC sees them: a status, and what programs want to know in the trailing metadata.

Owns the map from error codes to statuses and the form of the metadata. Leaves the codes to ``amino.errors``.
Invariants: every error of the tree has a status; UNAVAILABLE, which clients repeat by themselves, is given only where
repeating is safe; status, message and metadata together stay below the 8 KiB that clients accept.
Failure behaviour: a message or details too large for that are cut, and say so.
"""

from __future__ import annotations

from typing import Any, NoReturn
from urllib.parse import quote

import grpc

from amino.errors import AminoError, NotEncodable
from amino.wire import typed
from amino.wire.gen.amino_v1.error_pb2 import Error, Status

CODE_KEY = "amino-error-code"
DETAILS_KEY = "grpc-status-details-bin"
MESSAGE_BYTES_MAX = 2400
DETAILS_BYTES_MAX = 1200

# The message travels once percent-encoded and once in base64, the details in base64.
assert MESSAGE_BYTES_MAX * 7 / 3 + DETAILS_BYTES_MAX * 4 / 3 + 512 < 8192

STATUS_BY_CODE: dict[str, grpc.StatusCode] = {
    "error": grpc.StatusCode.INTERNAL,
    "invalid": grpc.StatusCode.INVALID_ARGUMENT,
    "not-encodable": grpc.StatusCode.INVALID_ARGUMENT,
    "not-found": grpc.StatusCode.NOT_FOUND,
    "already-exists": grpc.StatusCode.ALREADY_EXISTS,
    "permission-denied": grpc.StatusCode.PERMISSION_DENIED,
    "not-executed": grpc.StatusCode.UNAVAILABLE,
    "overloaded": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "outcome-unknown": grpc.StatusCode.UNKNOWN,
    "state-lost": grpc.StatusCode.DATA_LOSS,
    "quarantined": grpc.StatusCode.FAILED_PRECONDITION,
    "no-eligible-server": grpc.StatusCode.FAILED_PRECONDITION,
    "code-unavailable": grpc.StatusCode.FAILED_PRECONDITION,
    "construction-failed": grpc.StatusCode.FAILED_PRECONDITION,
    "store-failed": grpc.StatusCode.INTERNAL,
    "corrupt-checkpoint": grpc.StatusCode.DATA_LOSS,
    "coordination-unavailable": grpc.StatusCode.UNKNOWN,
    "cluster-unavailable": grpc.StatusCode.UNAVAILABLE,
    "session-lost": grpc.StatusCode.FAILED_PRECONDITION,
    "conflict": grpc.StatusCode.ABORTED,
    "transaction-aborted": grpc.StatusCode.ABORTED,
    "lock-held": grpc.StatusCode.ABORTED,
    "lock-lost": grpc.StatusCode.FAILED_PRECONDITION,
    "stale-token": grpc.StatusCode.FAILED_PRECONDITION,
    "events-missed": grpc.StatusCode.DATA_LOSS,
    "application-error": grpc.StatusCode.UNKNOWN,
}


def status_of(error: AminoError) -> grpc.StatusCode:
    """Return the status that stands for ``error``; classes added by others have that of their nearest base."""
    if error.details.get("reason") == "deadline":
        return grpc.StatusCode.DEADLINE_EXCEEDED
    for cls in type(error).__mro__:
        found = STATUS_BY_CODE.get(getattr(cls, "code", ""))
        if found is not None:
            return found
    return grpc.StatusCode.INTERNAL


def metadata_of(error: AminoError, status: grpc.StatusCode, message: str) -> tuple[tuple[str, str | bytes], ...]:
    """Return the trailing metadata for ``error``: its code as text, and a ``google.rpc.Status``."""
    rich = Status(code=status.value[0], message=message)
    rich.details.add().Pack(_described(error))
    return ((CODE_KEY, error.code), (DETAILS_KEY, rich.SerializeToString()))


async def abort(context: grpc.aio.ServicerContext[Any, Any], error: AminoError) -> NoReturn:
    """End the request with ``error``."""
    status, message = status_of(error), _cut(error.message or type(error).__name__)
    await context.abort(status, message, metadata_of(error, status, message))
    raise AssertionError("abort returns nothing")


def _described(error: AminoError) -> Error:
    described = Error(code=error.code)
    for name, value in error.details.items():
        if name == "traceback":  # for people, and long
            continue
        before = described.ByteSize()
        try:
            typed.fill_named(described.details, {name: value}, "details")
        except NotEncodable:
            described.details[name].string_value = _cut(str(value))
        if described.ByteSize() > DETAILS_BYTES_MAX:
            del described.details[name]
            if before + 32 <= DETAILS_BYTES_MAX:
                described.details["cut"].bool_value = True
    return described


def _cut(message: str) -> str:
    """Shorten ``message`` so that its percent-encoded form fits."""
    message = message.encode(errors="replace").decode()
    if len(quote(message, safe=" !\"#$&'()*+,/:;<=>?@[\\]^`{|}~")) <= MESSAGE_BYTES_MAX:
        return message
    room = MESSAGE_BYTES_MAX - 32
    kept = []
    for letter in message:
        room -= len(quote(letter, safe=" !\"#$&'()*+,/:;<=>?@[\\]^`{|}~"))
        if room < 0:
            break
        kept.append(letter)
    return "".join(kept) + " ... (cut)"
