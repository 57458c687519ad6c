"""Writers that never pause while something breaks, and the judgement of what they were answered.

Owns the threads and what they ask. Leaves recording and judging to ``amino.testing.chaos``, breaking things to the tests.
Invariant: each change has a token of its own.
Failure behaviour: a call that raises is noted as refused (certainly not run) or unknown.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import Any, Self

from amino.testing.chaos.history import Operation, Recorder
from amino.testing.chaos.judges.linearizability import linearizable
from amino.testing.chaos.judges.models import Counter
from amino.testing.chaos.judges.once import exactly_once

WINDOW_S = 0.25
"""Seconds for which all writers use one key, so that the check of each key's history stays small."""
RECENT = 2500
"""Operations among which a new write is looked for."""


@dataclass(slots=True)
class Storm:
    """Writers of a ``Counters`` microservice; a context manager.

    Args:
        target: the stub.
        writers: threads; each third call of one is a read.
        pause_s: between two calls of one writer.
    """

    target: Any
    writers: int = 5
    pause_s: float = 0.002
    recorder: Recorder = field(default_factory=lambda: Recorder(time.perf_counter, zero=0.0))
    _threads: list[threading.Thread] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _moved: threading.Condition = field(default_factory=threading.Condition)

    def __enter__(self) -> Self:
        self._threads = [
            threading.Thread(target=self._write, args=(number,), daemon=True) for number in range(self.writers)
        ]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Let the writers end, each after its present call. Idempotent."""
        self._stop.set()
        for thread in self._threads:
            thread.join(90)
            assert not thread.is_alive(), "a call hangs"

    def _write(self, worker: int) -> None:
        number = 0
        while not self._stop.is_set():
            key = f"k{int(time.perf_counter() / WINDOW_S)}"
            number += 1
            answer = self._read(worker, key) if number % 3 == 0 else self._add(worker, key, number)
            with self._moved:
                self._moved.notify_all()
            self._stop.wait(self.pause_s if answer is not None else 0.02)

    def _read(self, worker: int, key: str) -> int | None:
        return self.recorder.ask(worker, "read", key, None, lambda: self.target.get(key))

    def _add(self, worker: int, key: str, number: int) -> int | None:
        who = f"w{worker}"
        return self.recorder.ask(worker, "add", key, f"{who}.{number}", lambda: self.target.add(key, who, number))

    def write_after(self, moment: float, timeout_s: float) -> Operation:
        """Wait for a write that began after ``moment`` (``time.perf_counter``) and was acknowledged; returns the first."""
        until = time.perf_counter() + timeout_s
        with self._moved:
            while True:
                recent = list(self.recorder.operations[-RECENT:])
                good = [
                    one for one in recent if one.began_s >= moment and one.outcome == "ok" and one.function == "add"
                ]
                if good:
                    return min(good, key=lambda one: one.ended_s)
                left = until - time.perf_counter()
                assert left > 0, f"no write within {timeout_s} s; last: {recent[-self.writers :]}"
                self._moved.wait(min(left, 0.2))

    def failed(self) -> list[Operation]:
        """Return the calls that raised."""
        return [one for one in self.recorder.operations if one.error]

    def judge(self, changes: list[Any]) -> None:
        """Check everything against the changes that the object ended with, in their order.

        No acknowledged write is missing, none is there twice, none is there that was refused, and some order of all
        calls that fits their times explains each answer.
        """
        operations = list(self.recorder.operations)
        key_of = {one.argument: one.key for one in operations if one.function == "add"}
        done: dict[str, list[str]] = {key: [] for key in key_of.values()}
        mine = {f"w{worker}" for worker in range(self.writers)}
        for who, number in (one for one in changes if one[0] in mine):  # others may have written beside us
            done.setdefault(key_of.get(f"{who}.{number}", "nobody's"), []).append(f"{who}.{number}")
        for verdict in (
            exactly_once([one for one in operations if one.function == "add"], done),
            linearizable(operations, Counter(done)),
        ):
            assert verdict.ok, "\n".join([str(verdict), *map(str, verdict.smallest)])
