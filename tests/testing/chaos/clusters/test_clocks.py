"""Wall clocks that can be set: a process that is given one is told that time, and no other clock of it is touched."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from amino.errors import Invalid
from amino.testing.chaos.clusters.clocks import Clocks

ASKS = """
import sys, time
asks = {"__name__": "grpc.aio._utils", "time": time}
exec("def deadline(): return time.time()", asks)
for _ in sys.stdin:
    print(time.time(), time.time_ns() / 1e9, time.monotonic(), asks['deadline'](), flush=True)
"""


@pytest.fixture
def clocks() -> Iterator[Clocks]:
    """The clocks of two servers."""
    made = Clocks(("s1", "s2"))
    yield made
    made.close()
    assert not made.folder.exists()


class Process:
    """A process of a server, which says what time it is."""

    def __init__(self, clocks: Clocks, server: str, *arguments: str) -> None:
        environment = {**os.environ, **clocks.environment(), "AMINO_CHAOS_SERVER": server}
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", ASKS, *arguments],
            env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def ask(self) -> list[float]:
        """Return its wall clock, the same in nanoseconds, its monotonic clock, and the wall clock that gRPC is told."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("?\n")
        self.process.stdin.flush()
        return [float(one) for one in self.process.stdout.readline().split()]

    def end(self) -> None:
        """End it."""
        self.process.communicate()


def test_a_clock_is_set_while_its_process_runs(clocks: Clocks) -> None:
    """A process is told the machine's time, then that which its server's clock was set to, in both units; neither monotonic time nor gRPC's."""
    one, other = Process(clocks, "s1", "amino.node.child"), Process(clocks, "s2")
    try:
        for ahead_s in (0.0, 3600.0, -3600.0, 0.0):
            clocks.set("s1", ahead_s)
            before, steady = time.time(), time.monotonic()
            wall, wall_ns, monotonic, of_grpc = one.ask()
            after, steady_after = time.time(), time.monotonic()
            assert before + ahead_s <= wall <= after + ahead_s
            assert before + ahead_s - 0.001 <= wall_ns <= after + ahead_s + 0.001
            assert before <= of_grpc <= after
            assert steady <= monotonic <= steady_after
            assert clocks.ahead("s1") == ahead_s
            assert clocks.is_told("s1")
            assert before <= other.ask()[0] <= time.time(), "the other server has a clock of its own"
        assert clocks.is_bent("s1", one.process.pid)
        assert not clocks.is_bent("s1", other.process.pid)
        clocks.set("s1", 3600.0)
        assert not clocks.is_told("s1"), "it has not asked since"
    finally:
        one.end()
        other.end()


def test_without_its_file_a_clock_stays_as_it_is(clocks: Clocks) -> None:
    """A process of a server without a clock to set says so and is told the machine's time."""
    process = subprocess.run(
        [sys.executable, "-P", "-c", ASKS],
        env={**os.environ, **clocks.environment(), "AMINO_CHAOS_SERVER": "s3"},
        input="?\n", capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "cannot be bent" in process.stderr
    assert abs(float(process.stdout.split()[0]) - time.time()) < 1000.0


def test_unknown_servers_are_refused(clocks: Clocks) -> None:
    """The error names the servers that have clocks."""
    with pytest.raises(Invalid, match="s1, s2"):
        clocks.set("s9", 1.0)
