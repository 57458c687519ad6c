"""Port values to etcd's protobuf messages, and back.

Owns the mapping, built on aetcd's generated module because its public calls cannot express paged ranges, prefix deletes
inside transactions or "not equal". Leaves sending to ``store`` and ``stream``.
Invariant: keys survive the way there and back, also those that are not UTF-8.
Failure behaviour: none; values were checked by ``rules`` before.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from aetcd import rpc

from amino.coordination.rules import range_end
from amino.coordination.store import (
    Compare,
    Delete,
    Event,
    EventKind,
    Field,
    NotCreatedAt,
    Operation,
    Put,
    Record,
    TxnResult,
)

_DELETED = rpc.Event.EventType.Value("DELETE")
_CREATE, _MOD, _VALUE = (rpc.Compare.CompareTarget.Value(name) for name in ("CREATE", "MOD", "VALUE"))
_EQUAL, _NOT_EQUAL = (rpc.Compare.CompareResult.Value(name) for name in ("EQUAL", "NOT_EQUAL"))


def encode(key: str) -> bytes:
    """Return the bytes of a key."""
    return key.encode("utf-8", "surrogateescape")


def record(kv: Any) -> Record:
    """Return a key-value message as a record."""
    key = kv.key.decode("utf-8", "surrogateescape")
    return Record(key, kv.value, kv.create_revision, kv.mod_revision, kv.lease)


def event(message: Any) -> Event:
    """Return a watch event message as an event."""
    kind = EventKind.DELETE if message.type == _DELETED else EventKind.PUT
    return Event(kind, record(message.kv))


def range_request(key: str, *, prefix: bool = False) -> Any:
    """Return a linearizable read of one key or of a prefix."""
    start = encode(key)
    if not prefix:
        return rpc.RangeRequest(key=start)
    return rpc.RangeRequest(key=start or b"\0", range_end=range_end(start))


def txn_request(compares: Sequence[Compare], then: Sequence[Operation], otherwise: Sequence[Operation]) -> Any:
    """Return a transaction."""
    return rpc.TxnRequest(
        compare=[_compare(compare) for compare in compares],
        success=[_operation(operation) for operation in then],
        failure=[_operation(operation) for operation in otherwise],
    )


def txn_result(answer: Any) -> TxnResult:
    """Return a transaction's answer; only reads leave something to report."""
    reads = tuple(
        records(part.response_range.kvs) for part in answer.responses if part.WhichOneof("response") == "response_range"
    )
    return TxnResult(answer.succeeded, answer.header.revision, reads)


def records(kvs: Iterable[Any]) -> tuple[Record, ...]:
    """Return key-value messages as records."""
    return tuple(record(kv) for kv in kvs)


def watch_request(prefix: str, start_revision: int) -> Any:
    """Return the request that opens a watch."""
    start = encode(prefix)
    create = rpc.WatchCreateRequest(
        key=start or b"\0", range_end=range_end(start), start_revision=start_revision, progress_notify=True
    )
    return rpc.WatchRequest(create_request=create)


def progress_request() -> Any:
    """Return the request for a sign of life on a watch stream."""
    return rpc.WatchRequest(progress_request=rpc.WatchProgressRequest())


def _compare(compare: Compare) -> Any:
    message = rpc.Compare(key=encode(compare.key), result=_NOT_EQUAL if isinstance(compare, NotCreatedAt) else _EQUAL)
    if compare.field is Field.CREATE:
        message.target = _CREATE
        message.create_revision = compare.expected
    elif compare.field is Field.MOD:
        message.target = _MOD
        message.mod_revision = compare.expected
    else:
        message.target = _VALUE
        message.value = compare.expected
    return message


def _operation(operation: Operation) -> Any:
    if isinstance(operation, Put):
        put = rpc.PutRequest(key=encode(operation.key), value=operation.value, lease=operation.lease)
        return rpc.RequestOp(request_put=put)
    if isinstance(operation, Delete):
        start = encode(operation.key)
        if operation.prefix:
            delete = rpc.DeleteRangeRequest(key=start or b"\0", range_end=range_end(start))
        else:
            delete = rpc.DeleteRangeRequest(key=start)
        return rpc.RequestOp(request_delete_range=delete)
    return rpc.RequestOp(request_range=range_request(operation.key, prefix=operation.prefix))
