"""Histories: what each worker asked, when, and how it ended.

Owns one recorded operation, the history of many, the recorder that fills it in and its file. Leaves what operations mean to
workloads and whether they may be so to judges.
Invariants: an operation's beginning is noted before it is sent, its end after it was answered, both in seconds of one monotonic
clock since the recorder's zero; a worker has one operation at a time; an outcome is ``failed`` only if it certainly did not happen.
Failure behaviour: whatever raises is noted (``outcome_of`` says as what); a file of another format is ``Invalid``.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from amino.errors import AminoError, Invalid, NotExecuted, TransactionAborted

T = TypeVar("T")
Outcome = Literal["ok", "failed", "unknown"]
FORMAT = 1


class Operation(msgspec.Struct, omit_defaults=True):
    """One call by one worker.

    Args:
        worker: who, from 0. index: number of the operation in its history, from 0, in the order of beginning.
        workload: name of the workload that it belongs to.
        function: what was asked; key: of which part of the object, empty if there are no parts.
        argument, value: what was sent and what was answered; plain values as JSON has them (no tuples, no sets).
        outcome: ``ok``: it happened and was answered. ``failed``: it certainly did not happen. ``unknown``: it may have.
        error: type and message of what it raised.
        began_s, ended_s: seconds since the recorder's zero; ``ended_s`` is infinite if no answer ever came.
    """

    worker: int
    index: int
    function: str
    workload: str = ""
    key: str = ""
    argument: Any = None
    outcome: Outcome = "unknown"
    value: Any = None
    error: str = ""
    began_s: float = 0.0
    ended_s: float = math.inf

    def __post_init__(self) -> None:
        if self.ended_s == math.inf:
            self.ended_s = math.inf  # that very object, which files leave out: JSON has no infinity

    def __str__(self) -> str:
        ends = "..." if self.ended_s == math.inf else f"{self.ended_s:.3f}"
        what = ", ".join(repr(each) for each in (self.key, self.argument) if each not in ("", None))
        answer = repr(self.value) if self.outcome == "ok" else f"{self.outcome} {self.error}".rstrip()
        return f"[{self.began_s:.3f}-{ends} s] worker {self.worker}: {self.function}({what}) -> {answer}"


class _Header(msgspec.Struct):
    history: int


class History:
    """Operations in the order in which they began.

    Args:
        operations: taken as they are, not copied.
    """

    def __init__(self, operations: Iterable[Operation] = ()) -> None:
        self.operations: list[Operation] = list(operations)

    def __len__(self) -> int:
        return len(self.operations)

    def __iter__(self) -> Iterator[Operation]:
        return iter(self.operations)

    def __repr__(self) -> str:
        return f"<History of {len(self.operations)} operations>"

    def of(
        self, *, workload: str | None = None, function: str | None = None, outcome: Outcome | None = None
    ) -> History:
        """Return the operations that have all that is given."""
        return History(
            one
            for one in self.operations
            if (workload is None or one.workload == workload)
            and (function is None or one.function == function)
            and (outcome is None or one.outcome == outcome)
        )

    def by_key(self) -> dict[str, list[Operation]]:
        """Return the operations of each key, in order."""
        keys: dict[str, list[Operation]] = {}
        for one in self.operations:
            keys.setdefault(one.key, []).append(one)
        return keys

    def save(self, path: str | Path) -> None:
        """Write it as JSON lines: a header, then one operation a line, in order. Replaces what is there."""
        encoder = msgspec.json.Encoder()
        with Path(path).open("wb") as file:
            file.write(encoder.encode(_Header(FORMAT)) + b"\n")
            file.writelines(encoder.encode(one) + b"\n" for one in self.operations)

    @classmethod
    def load(cls, path: str | Path) -> History:
        """Read what ``save`` wrote.

        Raises:
            Invalid: it is no history, or of another format.
        """
        with Path(path).open("rb") as file:
            try:
                header = msgspec.json.decode(file.readline(), type=_Header)
                if header.history != FORMAT:
                    raise Invalid(f"{path} is a history of format {header.history}, this release reads {FORMAT}")
                decoder = msgspec.json.Decoder(Operation)
                return cls(decoder.decode(line) for line in file if line.strip())
            except (msgspec.DecodeError, msgspec.ValidationError) as error:
                raise Invalid(f"{path} is not a recorded history: {error}") from error


def outcome_of(error: BaseException) -> Outcome:
    """Return what an error says about whether the operation happened: ``failed`` if it certainly did not, else ``unknown``."""
    return "failed" if isinstance(error, NotExecuted | TransactionAborted) else "unknown"


class Recorder:
    """Records a history while it happens. For one event loop, or from threads of which each is one worker.

    Args:
        clock: monotonic seconds. zero: its reading that counts as 0; default: now.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, zero: float | None = None) -> None:
        self._clock = clock
        self.zero = clock() if zero is None else zero
        self.history = History()
        self._indices = itertools.count()

    @property
    def now_s(self) -> float:
        """Seconds since zero."""
        return self._clock() - self.zero

    @property
    def operations(self) -> Sequence[Operation]:
        """What is recorded so far."""
        return self.history.operations

    def begin(
        self, worker: int, function: str, key: str = "", argument: Any = None, *, workload: str = ""
    ) -> Operation:
        """Note that an operation is about to be sent; returns it, to be ended by ``ok`` or ``failed``."""
        operation = Operation(worker, next(self._indices), function, workload, key, argument, began_s=self.now_s)
        self.history.operations.append(operation)
        return operation

    def ok(self, operation: Operation, value: Any = None) -> None:
        """Note the answer."""
        operation.ended_s = self.now_s
        operation.outcome, operation.value = "ok", value

    def failed(self, operation: Operation, error: BaseException, outcome: Outcome | None = None) -> None:
        """Note that it raised, and what that says: ``outcome``, default: by ``outcome_of``."""
        operation.ended_s = self.now_s
        operation.outcome = outcome or outcome_of(error)
        operation.error = f"{type(error).__name__}: {error}"

    async def call(
        self, worker: int, function: str, key: str, argument: Any, answer: Awaitable[T], *, workload: str = ""
    ) -> T | None:
        """Record one operation whose answer is awaited; returns it, or None if an ``AminoError`` came instead.

        Anything else that is raised is noted as unknown and goes on.
        """
        operation = self.begin(worker, function, key, argument, workload=workload)
        try:
            value = await answer
        except AminoError as error:
            self.failed(operation, error)
            return None
        except BaseException as error:
            self.failed(operation, error, "unknown")
            raise
        self.ok(operation, value)
        return value

    def ask(
        self,
        worker: int,
        function: str,
        key: str,
        argument: Any,
        call: Callable[[], T],
        refused_by: tuple[type[Exception], ...] = (),
    ) -> T | None:
        """Make one blocking call and record it; returns its answer, or None if an error came that is recorded.

        Args:
            worker: who asks; one call at a time. function, key, argument: as judges know the call; plain values.
            call: makes it. refused_by: errors of the application that mean that nothing was changed.

        Raises:
            Exception: any other error than those and Amino's; recorded as an unknown outcome.
        """
        operation = self.begin(worker, function, key, argument)
        try:
            answer = call()
        except refused_by as error:
            self.failed(operation, error, "failed")
            return None
        except AminoError as error:
            self.failed(operation, error)
            return None
        except BaseException as error:
            self.failed(operation, error, "unknown")
            raise
        self.ok(operation, answer)
        return answer
