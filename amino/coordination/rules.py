"""What makes a transaction valid, and how prefixes become ranges; one statement for both adapters.

Owns the checks made before anything is sent. Leaves sending to the adapters.
Invariant: what passes here is accepted by etcd with its default limits (operations, duplicate keys).
Failure behaviour: ``Invalid`` names the key or count, the rule and the remedy.
"""

from __future__ import annotations

from collections.abc import Sequence

from amino.coordination.store import OPERATIONS_MAX, Compare, Delete, Field, Get, Operation, Put
from amino.errors import Conflict, Invalid

LEASE_TTL_S_MIN = 2  # etcd raises anything smaller with its default election time-outs


def check_transaction(compares: Sequence[Compare], then: Sequence[Operation], otherwise: Sequence[Operation]) -> None:
    """Raise ``Invalid`` unless etcd would accept the transaction.

    The source of the rules is etcd's ``v3rpc/key.go``: at most ``OPERATIONS_MAX`` compares and operations per branch,
    no key put twice in a branch, and no key both put and deleted in a branch.
    """
    for what, count in (("compares", len(compares)), ("then", len(then)), ("otherwise", len(otherwise))):
        if count > OPERATIONS_MAX:
            raise Invalid(f"a transaction has {count} {what}; at most {OPERATIONS_MAX} are allowed: split it")
    for compare in compares:
        if isinstance(compare.expected, bytes) != (compare.field is Field.VALUE):
            raise Invalid(
                f"compare of {compare.key!r}: {compare.field.value} cannot equal a "
                f"{type(compare.expected).__name__}; compare values with bytes, revisions with int"
            )
    _check_branch(then)
    _check_branch(otherwise)


def _check_branch(operations: Sequence[Operation]) -> None:
    puts: set[str] = set()
    for operation in operations:
        if isinstance(operation, Put):
            if operation.key in puts:
                raise Invalid(f"key {operation.key!r} is written twice in one transaction; write it once")
            puts.add(operation.key)
    if not puts:
        return
    for operation in operations:
        if not isinstance(operation, Delete):
            continue
        if operation.prefix:
            clash = next((key for key in puts if key.startswith(operation.key)), None)
        else:
            clash = operation.key if operation.key in puts else None
        if clash is not None:
            raise Invalid(f"key {clash!r} is both written and deleted in one transaction; do one of them")


def read_only(*branches: Sequence[Operation]) -> bool:
    """Return whether no branch writes: such a transaction can be repeated, and on etcd takes the read path."""
    return all(isinstance(operation, Get) for branch in branches for operation in branch)


def check_ttl(ttl_s: int) -> None:
    """Raise ``Invalid`` unless ``ttl_s`` is a lease time that etcd keeps as it is."""
    if ttl_s < LEASE_TTL_S_MIN:
        raise Invalid(f"lease of {ttl_s} s; etcd's minimum is {LEASE_TTL_S_MIN} s: ask for at least that")


def check_start_revision(revision: int) -> None:
    """Raise ``Invalid`` unless a watch can start at ``revision``."""
    if revision < 1:
        raise Invalid(f"watch from revision {revision}; start at 1 or more: one above the revision of your list")


def lease_gone(text: str) -> Conflict:
    """Return the error of a request that names a lease which does not exist (any more); nothing was done."""
    return Conflict(f"the lease has ended: {text}; whoever held it has lost its session", reason="lease-gone")


def is_lease_gone(error: Conflict) -> bool:
    """Return whether a conflict is about a lease that does not exist."""
    return error.details.get("reason") == "lease-gone"


def range_end(prefix: bytes) -> bytes:
    """Return the first key after all that start with ``prefix`` (one zero byte, "no end", if there is none)."""
    stripped = prefix.rstrip(b"\xff")
    if not stripped:
        return b"\0"
    return stripped[:-1] + bytes([stripped[-1] + 1])
