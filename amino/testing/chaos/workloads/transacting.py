"""Transactions as workloads make them, by whatever manager of the chain has them; without one, single calls.

Owns beginning blocks, and what the end of one says about its outcome. Leaves what is done in them to the workloads.
Invariant: a block that was left by an error before its end asked for the commit has published nothing.
Failure behaviour: errors of Amino become outcomes; others roll back and go on.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import amino
from amino.dm.base import Manager, Trait
from amino.dm.transactions import TwoPhaseCommit
from amino.errors import AminoError, TransactionAborted
from amino.stubs.cluster import Cluster
from amino.testing.chaos.history import Operation, Recorder


def manager_of(dms: Sequence[Manager]) -> type[Manager] | None:
    """Return the manager that runs transactions, None if there is none."""
    return next((type(one) for one in dms if Trait.TRANSACTIONS in one.provides), None)


def reaches_over_several(dms: Sequence[Manager]) -> bool:
    """Whether one transaction may reach over several microservices."""
    return manager_of(dms) is TwoPhaseCommit


async def transact(
    recorder: Recorder,
    operation: Operation,
    block: Any,
    do: Callable[[], Awaitable[Any]],
    timeout_s: float,
) -> None:
    """Do something in one transaction, and record its outcome in ``operation``; its value is what ``do`` returns.

    Args:
        block: of a manager; not begun. do: returns the value; None rolls back, as something refused by the objects.
    """
    asked = False
    try:
        with amino.deadline(timeout_s):
            async with block:
                value = await do()
                if value is None:
                    raise _Refused
                asked = True
    except _Refused as error:
        recorder.failed(operation, error, "failed")
    except TransactionAborted as error:
        recorder.failed(operation, error, "failed")
    except AminoError as error:
        recorder.failed(operation, error, "unknown" if asked else "failed")
    except BaseException as error:
        recorder.failed(operation, error, "unknown")
        raise
    else:
        recorder.ok(operation, value)


class _Refused(Exception):
    """Leaves a block, which is rolled back, because an object refused."""


def block_of(client: Cluster, stub: Any, dms: Sequence[Manager]) -> Any:
    """Return a block of the chain's manager of transactions, not begun."""
    manager = manager_of(dms)
    assert manager is not None
    if reaches_over_several(dms):
        return client.transaction()
    control: Any = amino.control(stub, manager)
    return control.transaction()
