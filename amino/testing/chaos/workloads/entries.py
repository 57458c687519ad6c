"""Keys and values: workers put, delete, replace if unchanged, and get.

Owns the workload, and reading its history as that of cells. Leaves judging to ``judges.linearizability`` and ``judges.freshness``.
Invariants: each change has a token of its own, which the entry keeps, a deleted one too; so every state is unique, and a get tells
which change it saw. A replacement that found something else says nothing about the state that the other operations do not.
Failure behaviour: as ``base``; an entry whose value does not belong to its token is told.
"""

from __future__ import annotations

import random as random_module
from collections.abc import Sequence
from typing import ClassVar

import msgspec

from amino.dm.base import Manager
from amino.stubs.cluster import Cluster
from amino.testing.chaos.history import Operation, Recorder
from amino.testing.chaos.judges.freshness import bounded_staleness, read_your_writes
from amino.testing.chaos.judges.linearizability import linearizable
from amino.testing.chaos.judges.models import Cell
from amino.testing.chaos.record import RunRecord, Verdict
from amino.testing.chaos.workloads.base import Calls, Generations
from amino.testing.chaos.workloads.stores import Entries


class KeyValue(Calls):
    """Half of all operations get."""

    kind: ClassVar[str] = "key-value"
    service: ClassVar[type] = Entries

    def __init__(self, recorder: Recorder, dms: Sequence[Manager], name: str = "") -> None:
        super().__init__(recorder, dms, name)
        self._keys = Generations(keys=5)
        self._seen: dict[tuple[int, str], str | None] = {}

    async def step(self, worker: int, random: random_module.Random) -> None:
        """See ``Workload``."""
        old = self._keys.take_old(self.recorder.now_s)
        if old is not None:
            await self.ask(worker, "forget", old)
            self._seen = {place: token for place, token in self._seen.items() if place[1] != old}
            return
        key = self._keys.key(self.recorder.now_s, random)
        function = random.choice(["get", "get", "get", "put", "delete", "replace"])
        if function == "get":
            one = await self.ask(worker, "get", key)
            if one.outcome == "ok":
                self._seen[worker, key] = one.value[0]
            return
        token = self.token(worker)
        await self.ask(
            worker, function, key, [self._seen.get((worker, key)), token] if function == "replace" else token
        )

    async def audit(self, client: Cluster) -> None:
        """Get every entry once more."""
        while (key := self._keys.take_any()) is not None:
            await self.insist(client, "get", key)

    def judge(self, record: RunRecord) -> list[Verdict]:
        """See ``Workload``."""
        if not self.promise.changes:
            return []
        mine = self.mine(record)
        torn = [one for one in mine if one.function == "get" and one.outcome == "ok" and not _whole(one)]
        if torn:
            return self.named(
                [Verdict("linearizability", False, f"the entry {torn[0].value} is torn", smallest=torn[:1])]
            )
        cells = [cell for one in mine if (cell := as_cell(one)) is not None]
        if self.promise.reads:
            return self.named([linearizable(cells, Cell()), read_your_writes(cells)])
        verdicts = [linearizable([one for one in cells if one.function != "read"], Cell())]
        if self.promise.staleness_s:
            verdicts.append(bounded_staleness(cells, self.promise.staleness_s))
        return self.named(verdicts)


def _whole(get: Operation) -> bool:
    token, value = get.value
    return value is None or value == f"value of {token}"


def as_cell(operation: Operation) -> Operation | None:
    """Return an operation as one of a cell that holds tokens, None if it says nothing about that."""
    if operation.function == "get":
        token = operation.value[0] if operation.outcome == "ok" else None
        return msgspec.structs.replace(operation, function="read", value=token)
    if operation.function in ("put", "delete"):
        return msgspec.structs.replace(operation, function="write")
    if operation.function != "replace" or (operation.outcome == "ok" and not operation.value):
        return None
    expected, token = operation.argument
    return msgspec.structs.replace(operation, function="swap", argument=token, value=expected)
