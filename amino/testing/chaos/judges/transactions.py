"""The judge of transactions on lists: strict serializability, with the anomaly by its name.

Owns reading transactions out of recorded operations. Leaves the judgement to ``amino.testing.serializability``.
Invariants: pure; as there. Failure behaviour: a history that cannot be judged (a value appended twice) is a failure that says so.
"""

from __future__ import annotations

from collections.abc import Iterable

from amino.testing.chaos.history import Operation
from amino.testing.chaos.record import Verdict
from amino.testing.serializability import Outcome, Transaction, judge

NAME = "serializability"
APPEND, READ = "append", "read"


def serializable(operations: Iterable[Operation], *, strict: bool = True) -> Verdict:
    """Judge transactions on lists.

    Args:
        operations: the argument is a list of steps, ``["append", key, value]`` or ``["read", key]``; the value of one that was
            answered is the same list with what was read at the end of each read.
        strict: whether their order must agree with real time.
    """
    recorded = {one.index: one for one in operations}
    done = sum(one.outcome == "ok" for one in recorded.values())
    if not done:
        return Verdict(NAME, False, "could not judge: no transaction was committed")
    try:
        findings = judge([_transaction(one) for one in recorded.values()], strict=strict)
    except ValueError as error:
        return Verdict(NAME, False, f"could not judge: {error}")
    figures = {"committed": float(done), "anomalies": float(len(findings))}
    if findings:
        first = min(findings, key=lambda one: len(one.transactions))
        shown = [recorded[index] for index in dict.fromkeys(first.transactions) if isinstance(index, int)]
        return Verdict(NAME, False, f"{len(findings)} anomalies, first {first}", figures=figures, smallest=shown)
    rule = "strictly serializable" if strict else "serializable"
    return Verdict(NAME, True, f"{done} committed transactions are {rule}", figures=figures)


def _transaction(operation: Operation) -> Transaction:
    one = Transaction(operation.index, operation.began_s)
    steps = operation.value if operation.outcome == "ok" else operation.argument
    for function, key, *rest in steps:
        if function == APPEND:
            one.append(key, rest[0])
        elif operation.outcome == "ok":
            one.read(key, rest[0])
    one.end(Outcome(operation.outcome), operation.ended_s)
    return one
