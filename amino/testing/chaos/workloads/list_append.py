"""Lists under keys, appended to and read in transactions: histories that show every anomaly by its name.

Owns the workload: with a manager of transactions several steps at once, over three microservices with ``TwoPhaseCommit``; without
one, single calls, which a serial chain makes transactions of one step. Leaves judging to ``judges.transactions``.
Invariant: no value is appended twice.
Failure behaviour: as ``base``.
"""

from __future__ import annotations

import asyncio
import random as random_module
import zlib
from collections.abc import Sequence
from typing import Any, ClassVar

import amino
from amino.dm.base import Manager
from amino.errors import AminoError
from amino.stubs.cluster import Cluster
from amino.stubs.spec import Spec
from amino.testing.chaos.history import Operation, Recorder
from amino.testing.chaos.judges.transactions import APPEND, READ, serializable
from amino.testing.chaos.record import RunRecord, Verdict
from amino.testing.chaos.workloads.base import AUDIT_S, AUDITOR, CALL_S, RETRY_S, Calls, Generations
from amino.testing.chaos.workloads.stores import Lists
from amino.testing.chaos.workloads.transacting import block_of, manager_of, reaches_over_several, transact

STEPS_MAX = 4
OBJECTS = 3
LIFE_S = 10.0


class ListAppend(Calls):
    """Every operation is a transaction of one to four steps, half of them reads."""

    kind: ClassVar[str] = "list-append"
    service: ClassVar[type] = Lists

    def __init__(self, recorder: Recorder, dms: Sequence[Manager], name: str = "") -> None:
        super().__init__(recorder, dms, name)
        self._keys = Generations(keys=4, life_s=LIFE_S)
        self._manager = manager_of(dms)
        self._objects = OBJECTS if reaches_over_several(dms) else 1
        self._clients: list[Cluster] = []
        self._lists: list[list[Any]] = []

    async def prepare(self, clients: Sequence[Cluster]) -> None:
        """See ``Workload``."""
        self._clients = list(clients)
        self._lists = [[] for _ in clients]
        for number in range(self._objects):
            name = self.microservice if number == 0 else f"{self.microservice}-{number + 1}"
            spec: Spec[Any] = amino.spec(self.service, name=name, dms=self._dms)
            await amino.aio(clients[0].get_or_create)(spec)
            for client, mine in zip(clients, self._lists, strict=True):
                mine.append(await amino.aio(client.get)(name, self.service))
                await amino.aio(mine[-1].read)("first")  # a handle of its managers wants a call before it
        self._stubs = [mine[0] for mine in self._lists]

    def _holder(self, worker: int, key: str) -> Any:
        return self._lists[worker % len(self._lists)][zlib.crc32(key.encode()) % self._objects]

    async def step(self, worker: int, random: random_module.Random) -> None:
        """See ``Workload``."""
        old = self._keys.take_old(self.recorder.now_s)
        if old is not None:
            await self.ask(worker, "forget", old, stub=self._holder(worker, old))
            return
        token = self.token(worker)
        steps: list[list[str]] = []
        for number in range(random.randint(1, STEPS_MAX) if self._manager is not None else 1):
            key = self._keys.key(self.recorder.now_s, random)
            steps.append([READ, key] if random.random() < 0.5 else [APPEND, key, f"{token}.{number}"])
        await self._transact(worker, steps)

    async def _transact(self, worker: int, steps: list[list[str]], among: Sequence[Any] = ()) -> Operation:
        operation = self.recorder.begin(worker, "transaction", "", steps, workload=self.name)

        async def do() -> list[list[Any]]:
            done: list[list[Any]] = []
            for function, key, *value in steps:
                holder = among[zlib.crc32(key.encode()) % self._objects] if among else self._holder(worker, key)
                if function == READ:
                    done.append([READ, key, list(await amino.aio(holder.read)(key))])
                else:
                    await amino.aio(holder.append)(key, *value)
                    done.append([APPEND, key, *value])
            return done

        if self._manager is not None and not among:
            block = block_of(self._clients[worker % len(self._clients)], self.stub(worker), self._dms)
            await transact(self.recorder, operation, block, do, CALL_S)
            return operation
        try:
            with amino.deadline(CALL_S):
                self.recorder.ok(operation, await do())
        except AminoError as error:
            self.recorder.failed(operation, error)
        return operation

    async def audit(self, client: Cluster) -> None:
        """Read every list once more."""
        names = [self.microservice, *(f"{self.microservice}-{number + 2}" for number in range(self._objects - 1))]
        among: list[Any] = [await amino.aio(client.get)(name, self.service) for name in names]
        while (key := self._keys.take_any()) is not None:
            until_s = self.recorder.now_s + AUDIT_S
            while True:
                one = await self._transact(AUDITOR, [[READ, key]], among)
                if one.outcome == "ok" or self.recorder.now_s > until_s:
                    break
                await asyncio.sleep(RETRY_S)

    def judge(self, record: RunRecord) -> list[Verdict]:
        """See ``Workload``."""
        if not self.promise.keeps or not (self.promise.reads or self._manager is not None):
            return []
        return self.named([serializable([one for one in self.mine(record) if one.function == "transaction"])])
