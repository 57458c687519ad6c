"""The record of one run: everything judges and reports read, and all that ``replay`` needs.

Owns what a record holds, and its file (one JSON document). Leaves filling it in to the runner and judging it to ``judges``.
Invariants: all times are seconds since the run's zero, by the clock of its histories.
Failure behaviour: a file of another format is ``Invalid``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import msgspec

from amino.contracts.documents import DmSpec
from amino.errors import Invalid
from amino.testing.chaos.history import History, Operation

FORMAT = 1


class FaultRecord(msgspec.Struct, omit_defaults=True):
    """One fault as it happened.

    Args:
        kind: for example ``kill-server``; target: what was hit, for example ``s2``; text: one line for people.
        began_s, healed_s: when it was there for certain, and when everything that the injector did was undone; ``healed_s`` is
            infinite if it never was.
        injected_s: when the injector began, and a part of it may have been there; negative: not known, it counts as ``began_s``.
        verified: the postcondition held: it really happened.
    """

    kind: str
    target: str = ""
    began_s: float = 0.0
    healed_s: float = math.inf
    verified: bool = False
    text: str = ""
    injected_s: float = -1.0

    @property
    def from_s(self) -> float:
        """From when on something of it may have been there."""
        return self.injected_s if self.injected_s >= 0 else self.began_s

    def __post_init__(self) -> None:
        if self.healed_s == math.inf:
            self.healed_s = math.inf  # as in Operation


class KeyEvent(msgspec.Struct, omit_defaults=True):
    """One change of a key in etcd, as a watch told it. The first ones are what was there when the watch began, each as put.

    Args:
        key: below the cluster's prefix, for example ``servers/s1``. kind: what happened; ``gap``: changes from here on were
            missed, and what follows first is what a new listing shows. value: what it holds now.
        revision: etcd's, of this change; create_revision: of the key's present life (of the life that ended, for a deletion).
    """

    key: str
    kind: Literal["put", "delete", "gap"] = "put"
    revision: int = 0
    create_revision: int = 0
    at_s: float = 0.0
    value: bytes = b""


class Sample(msgspec.Struct):
    """Figures read at one moment, by name.

    ``etcd keys`` (without its history), ``etcd events``, ``etcd bytes`` in use (its file shrinks only when defragmented); and of each server, ``s1 memory bytes``,
    ``s1 descriptors``, ``s1 tasks``, ``s1 objects``.
    """

    at_s: float
    figures: dict[str, float]


class WorkloadRecord(msgspec.Struct, omit_defaults=True):
    """What a workload was, so that it can be made again to judge what it recorded (``workloads.registry.make``).

    Args:
        name: of this one, in its operations and microservices. kind: of the workload, for example ``counter``.
        dms: the managers of its microservices, outermost first.
    """

    name: str
    kind: str
    dms: list[DmSpec] = []

    @property
    def chain(self) -> str:
        """The managers as text: ``AtLeastOnceRPC + PeriodicCheckpoint(every=1)``."""
        return " + ".join(_told(one) for one in self.dms) or "no manager"


def _told(one: DmSpec) -> str:
    options = ", ".join(f"{name}={value!r}" for name, value in one.options.items())
    return f"{one.name}({options})" if options else one.name


class Verdict(msgspec.Struct, omit_defaults=True):
    """What one judge says.

    Args:
        judge: its name. workload: whose history it read; empty: the whole run's.
        ok: nothing is wrong, and the judge could tell. text: one line: what was seen, or what is broken, or why it could not judge.
        figures: numbers by name, units last (``unavailable_s_p50``). smallest: the smallest failing history it found.
    """

    judge: str
    ok: bool
    text: str = ""
    workload: str = ""
    figures: dict[str, float] = {}
    smallest: list[Operation] = []

    def __str__(self) -> str:
        what = f"{self.workload}: {self.judge}" if self.workload else self.judge
        return f"{'ok  ' if self.ok else 'FAIL'} {what}: {self.text}"


class RunRecord(msgspec.Struct, omit_defaults=True):
    """One run.

    Args:
        scenario, topology, seed, duration_s: what was run, where, from which seed, and for how long under faults.
        patience_s: how long a workload may go unanswered once a fault is undone.
        command: repeats it. workloads: what called and recorded.
        operations: of all workloads. faults: in the order in which they began. events: changes of keys in etcd, in order.
        samples: in order. verdicts: empty until judged. notes: whatever else a reader should know, a line each.
    """

    scenario: str
    topology: str = ""
    seed: int = 0
    duration_s: float = 0.0
    patience_s: float = 10.0
    command: str = ""
    workloads: list[WorkloadRecord] = []
    operations: list[Operation] = []
    faults: list[FaultRecord] = []
    events: list[KeyEvent] = []
    samples: list[Sample] = []
    verdicts: list[Verdict] = []
    notes: list[str] = []
    format: int = FORMAT

    @property
    def chain(self) -> str:
        """The managers of all workloads, as text."""
        return "; ".join(dict.fromkeys(one.chain for one in self.workloads))

    @property
    def ok(self) -> bool:
        """Every verdict is good, and there is one."""
        return bool(self.verdicts) and all(verdict.ok for verdict in self.verdicts)

    def history(self, workload: str | None = None) -> History:
        """Return the operations of a workload, default: of all."""
        return History(self.operations).of(workload=workload)

    def add(self, verdicts: Iterable[Verdict]) -> None:
        """Add verdicts."""
        self.verdicts.extend(verdicts)

    def save(self, path: str | Path) -> None:
        """Write it as JSON. Replaces what is there."""
        Path(path).write_bytes(msgspec.json.encode(self))

    @classmethod
    def load(cls, path: str | Path) -> RunRecord:
        """Read what ``save`` wrote.

        Raises:
            Invalid: it is no record of a run, or of another format.
        """
        try:
            record = msgspec.json.decode(Path(path).read_bytes(), type=RunRecord)
        except (msgspec.DecodeError, msgspec.ValidationError) as error:
            raise Invalid(f"{path} is not the record of a run: {error}") from error
        if record.format != FORMAT:
            raise Invalid(f"{path} is a record of format {record.format}, this release reads {FORMAT}")
        return record
