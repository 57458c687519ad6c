"""Recording histories in tests: workers in threads, blocking calls, and judgements that fail the test with what they saw.

Owns the object behind the pytest fixture ``history``. Leaves judging to ``judges`` and breaking things to the test.
Invariants: workers have ended when their block has; what a worker raises is raised where the block ends.
Failure behaviour: a verdict that is not good is an ``AssertionError`` with the smallest failing history, and the whole one is saved.
"""

from __future__ import annotations

import contextlib
import random as random_module
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from amino.testing.chaos.history import Recorder
from amino.testing.chaos.record import Verdict

Step = Callable[[int, random_module.Random], object]
JOIN_S = 90.0


class TestHistory(Recorder):
    """What the fixture ``history`` gives to a test: a ``Recorder`` with workers and judgements.

    Args:
        folder: where a history that fails is saved. seed: of the workers' random choices.
    """

    __test__ = False  # for pytest, which collects classes by such names

    def __init__(self, folder: Path, seed: int = 0) -> None:
        super().__init__()
        self._folder = folder
        self._seed = seed

    @contextlib.contextmanager
    def workers(self, step: Step, count: int = 5, pause_s: float = 0.005) -> Iterator[None]:
        """Have so many threads call ``step(worker, random)`` again and again until the block ends.

        Args:
            pause_s: between two steps of one worker.

        Raises:
            ExceptionGroup: what steps raised, at the end of the block. AssertionError: a step hangs.
        """
        stop = threading.Event()
        problems: list[Exception] = []

        def work(worker: int) -> None:
            drawn = random_module.Random(f"{self._seed}/{worker}")
            try:
                while not stop.is_set():
                    step(worker, drawn)
                    stop.wait(pause_s)
            except Exception as error:  # noqa: BLE001 - raised where the block ends
                problems.append(error)

        threads = [
            threading.Thread(target=work, args=(worker,), name=f"worker {worker}", daemon=True)
            for worker in range(count)
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            for thread in threads:
                thread.join(JOIN_S)
        assert not any(thread.is_alive() for thread in threads), f"a step hangs for {JOIN_S:g} s"
        if problems:
            raise ExceptionGroup("steps of workers raised", problems)

    def check(self, *verdicts: Verdict) -> None:
        """Fail the test if a verdict is not good.

        Raises:
            AssertionError: with the text of each bad one, its smallest failing history, and where the whole one is saved.
        """
        bad = [one for one in verdicts if not one.ok]
        if bad:
            path = self._folder / "history.jsonl"
            self.history.save(path)
            lines = [line for one in bad for line in (str(one), *(f"    {each}" for each in one.smallest))]
            raise AssertionError("\n".join([*lines, f"{len(self.history)} operations are in {path}"]))
