"""The workloads by name, and how one is made, for a run or again from its record.

Owns the table. Leaves what they do to the workloads.
Invariant: a workload made from its own description judges as it did.
Failure behaviour: an unknown kind is ``Invalid`` and names those there are.
"""

from __future__ import annotations

from collections.abc import Sequence

from amino.dm.base import Manager
from amino.dm.registry import manager_class
from amino.errors import Invalid
from amino.testing.chaos.history import Recorder
from amino.testing.chaos.record import WorkloadRecord
from amino.testing.chaos.workloads.bank import Bank
from amino.testing.chaos.workloads.base import Calls, Workload
from amino.testing.chaos.workloads.counter import Counter
from amino.testing.chaos.workloads.entries import KeyValue
from amino.testing.chaos.workloads.list_append import ListAppend
from amino.testing.chaos.workloads.register import Register
from amino.testing.chaos.workloads.sets_and_queues import Queue, Set

KINDS: dict[str, type[Calls]] = {one.kind: one for one in (Register, Counter, Set, Queue, KeyValue, Bank, ListAppend)}


def workload(kind: str, recorder: Recorder, dms: Sequence[Manager] = (), name: str = "") -> Workload:
    """Return a workload.

    Args:
        kind: one of ``KINDS``; ``counter@anything`` is a counter, too. recorder: of the run.
        dms: managers of its microservices, outermost first. name: different for each of one run; default: ``kind``.
    """
    name = name or kind
    kind = kind.partition("@")[0]
    known = KINDS.get(kind)
    if known is None:
        raise Invalid(f"there is no workload {kind!r}; there are {', '.join(KINDS)}")
    return known(recorder, dms, name)


def make(described: WorkloadRecord) -> Workload:
    """Return a workload of a record, to judge it again."""
    dms = [manager_class(one.name).from_options(one.options) for one in described.dms]
    return workload(described.kind, Recorder(), dms, described.name)
