"""What every workload is, and what those of one microservice share.

Owns the protocol, creating and finding the microservice, and one recorded call. Leaves calling ``step`` (workers, pace, end) to
the runner, what is called and how it is judged to the workloads.
Invariant: a worker makes one step at a time, so a history has at most as many concurrent operations as workers.
Failure behaviour: errors of Amino are recorded outcomes, never raised by ``step``; whatever else it raises is a bug of the workload.
"""

from __future__ import annotations

import asyncio
import random as random_module
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

import amino
from amino.dm.base import Manager
from amino.errors import AminoError
from amino.stubs.cluster import Cluster
from amino.stubs.spec import Spec
from amino.testing.chaos.history import Operation, Recorder
from amino.testing.chaos.record import RunRecord, Verdict, WorkloadRecord
from amino.testing.chaos.workloads.promises import promise_of

CALL_S = 8.0
AUDIT_S = 60.0
RETRY_S = 0.25
AUDITOR = -1
"""Worker of what the audit does."""


class Workload(Protocol):
    """One workload of one run.

    Attributes:
        name: in ``Operation.workload`` and in the names of its microservices.
        described: what ``registry.make`` makes it from again.
    """

    name: str
    described: WorkloadRecord

    @property
    def microservice(self) -> str:
        """The name of its microservice, of several the first."""

    async def prepare(self, clients: Sequence[Cluster]) -> None:
        """Create its microservices, before the first fault. Worker ``n`` calls through ``clients[n % len(clients)]``."""

    async def step(self, worker: int, random: random_module.Random) -> None:
        """Make and record one operation (or one transaction) as ``worker``; returns once it has its outcome."""

    async def audit(self, client: Cluster) -> None:
        """Read, and record, what is there in the end: all faults are healed, no worker calls any more."""

    def judge(self, record: RunRecord) -> list[Verdict]:
        """Judge what was recorded; needs no cluster, so that a saved record can be judged again."""


class Calls(ABC):
    """A workload of one microservice, with its calls recorded.

    Args:
        recorder: of the run. dms: the microservice's managers. name: of the workload.
    """

    kind: ClassVar[str]
    service: ClassVar[type]

    def __init__(self, recorder: Recorder, dms: Sequence[Manager], name: str = "") -> None:
        self.name = name or self.kind
        self.described = WorkloadRecord(self.name, self.kind, [one.to_spec() for one in dms])
        self.promise = promise_of(dms)
        self.recorder = recorder
        self._dms = tuple(dms)
        self._stubs: list[Any] = []
        self._tokens: dict[int, int] = {}

    @property
    def microservice(self) -> str:
        """The name of its microservice."""
        return f"chaos-{self.name}".replace("@", "-")

    async def prepare(self, clients: Sequence[Cluster]) -> None:
        """See ``Workload``."""
        spec: Spec[Any] = amino.spec(self.service, name=self.microservice, dms=self._dms)
        await amino.aio(clients[0].get_or_create)(spec, *self.arguments())
        self._stubs = [await amino.aio(one.get)(self.microservice, self.service) for one in clients]

    @abstractmethod
    async def step(self, worker: int, random: random_module.Random) -> None:
        """See ``Workload``."""

    @abstractmethod
    async def audit(self, client: Cluster) -> None:
        """See ``Workload``."""

    @abstractmethod
    def judge(self, record: RunRecord) -> list[Verdict]:
        """See ``Workload``."""

    def arguments(self) -> tuple[Any, ...]:
        """Return what the class is constructed with."""
        return ()

    def stub(self, worker: int) -> Any:
        """Return the microservice as a worker reaches it."""
        return self._stubs[worker % len(self._stubs)]

    def token(self, worker: int) -> str:
        """Return a token that no operation had before."""
        number = self._tokens[worker] = self._tokens.get(worker, 0) + 1
        return f"w{worker}.{number}"

    async def ask(self, worker: int, function: str, key: str, argument: Any = None, *, stub: Any = None) -> Operation:
        """Call a method of the microservice and record that: ``function(key)``, or ``function(key, argument)``."""
        operation = self.recorder.begin(worker, function, key, argument, workload=self.name)
        arguments = (key,) if argument is None else (key, argument)
        try:
            with amino.deadline(CALL_S):
                value = await amino.aio(getattr(stub or self.stub(worker), function))(*arguments)
        except AminoError as error:
            self.recorder.failed(operation, error)
        except BaseException as error:
            self.recorder.failed(operation, error, "unknown")
            raise
        else:
            self.recorder.ok(operation, value)
        return operation

    async def insist(self, client: Cluster, function: str, key: str) -> Operation:
        """Call, as the auditor, a method that may be repeated, until it is answered or ``AUDIT_S`` have passed."""
        until_s = self.recorder.now_s + AUDIT_S
        stub = await self._found(client, until_s)
        while True:
            operation = await self.ask(AUDITOR, function, key, stub=stub)
            if operation.outcome == "ok" or self.recorder.now_s > until_s:
                return operation
            await asyncio.sleep(RETRY_S)

    async def _found(self, client: Cluster, until_s: float) -> Any:
        while True:
            try:
                return await amino.aio(client.get)(self.microservice, self.service)
            except AminoError:
                if self.recorder.now_s > until_s:
                    raise
                await asyncio.sleep(RETRY_S)

    def mine(self, record: RunRecord) -> list[Operation]:
        """Return this workload's operations."""
        return record.history(self.name).operations

    def named(self, verdicts: Sequence[Verdict]) -> list[Verdict]:
        """Return verdicts as this workload's."""
        for verdict in verdicts:
            verdict.workload = self.name
        return list(verdicts)


class Generations:
    """Keys that are used for a while and then never again, so that neither state nor histories of one key grow without end.

    Args:
        keys: at a time. life_s: seconds for which a key is used.
    """

    def __init__(self, keys: int = 3, life_s: float = 20.0) -> None:
        self._keys, self._life_s = keys, life_s
        self._used: dict[str, int] = {}

    def key(self, now_s: float, random: random_module.Random) -> str:
        """Return a key of the present generation."""
        generation = int(now_s / self._life_s)
        key = f"g{generation}.{random.randrange(self._keys)}"
        self._used.setdefault(key, generation)
        return key

    def take_old(self, now_s: float) -> str | None:
        """Return a key of a generation before the last, each of them once; None if there is none now."""
        limit = int(now_s / self._life_s) - 1
        for key, generation in self._used.items():
            if generation < limit:
                del self._used[key]
                return key
        return None

    def take_any(self) -> str | None:
        """Return a key that was not taken yet, None if all were."""
        return self._used.popitem()[0] if self._used else None

    def put_back(self, key: str) -> None:
        """Have a key that was taken, and could not be closed, taken again."""
        self._used[key] = -1
