"""Durable objects on real servers: killed and moved under load, nothing acknowledged is lost or applied twice."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest

import amino
from amino.contracts.services import LocateRequest
from amino.dm import DHT, AtLeastOnceRPC, DurableSerializableRPC, ExplicitCheckpoint, ExplicitMigration
from amino.errors import StateLost
from amino.testing import LocalCluster
from tests.acceptance.figures import Figures, rounds
from tests.etcd_fixtures import etcd_binaries
from tests.waiting import until

pytestmark = [pytest.mark.real, pytest.mark.timeout(170)]
ROOT = Path(__file__).resolve().parents[2]
KILLS = max(5, rounds())
WRITERS = 5


class Ledger:
    """What each writer wrote, in order."""

    def __init__(self) -> None:
        self.lines: list[tuple[int, int]] = []

    def write(self, writer: int, number: int) -> int:
        """Add a line and return how many there are."""
        self.lines.append((writer, number))
        return len(self.lines)

    @amino.inline
    def write_inline(self, writer: int, number: int) -> int:
        """As ``write``."""
        return self.write(writer, number)

    def fail(self) -> None:
        """Add a line that must not stay."""
        self.lines.append((-1, -1))
        raise KeyError("no")

    @amino.readonly
    def read(self) -> list[tuple[int, int]]:
        """Return all lines."""
        return self.lines


@pytest.fixture
def local() -> Iterator[LocalCluster]:
    """Two servers."""
    with LocalCluster(2, etcd_binary=etcd_binaries()[0], session_ttl_s=2, app_dirs=[ROOT]) as running:
        yield running


@pytest.fixture
def client(local: LocalCluster) -> Iterator[amino.Cluster]:
    """A connection to them."""
    with local.connect() as connected:
        yield connected


class Writers:
    """Threads that write line after line and remember which were acknowledged, with the answer."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._stop = threading.Event()
        self.acknowledged: dict[tuple[int, int], int] = {}
        self.refused = 0
        self.errors: list[BaseException] = []
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(WRITERS)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    def _run(self, writer: int) -> None:
        number = 0
        while not self._stop.is_set():
            number += 1
            try:
                write = self._ledger.write_inline if number % 2 else self._ledger.write
                self.acknowledged[writer, number] = write(writer, number)
                if number % 10 == 0:
                    self._fail()
            except BaseException as error:  # noqa: BLE001 - judged by the test
                self.errors.append(error)
                return

    def _fail(self) -> None:
        try:
            self._ledger.fail()
        except KeyError:
            self.refused += 1

    def await_more(self, count: int) -> None:
        """Wait until ``count`` more writes were acknowledged."""
        goal = len(self.acknowledged) + count
        until(lambda: len(self.acknowledged) >= goal or self.errors, 30.0, f"not {count} more writes")

    def judge(self, lines: list[tuple[int, int]]) -> None:
        """Check that ``lines`` hold each acknowledged write once, where its answer says, in each writer's order."""
        assert not self.errors, self.errors
        assert self.refused > 0
        assert len(set(lines)) == len(lines), "a write was applied twice"
        assert all(writer >= 0 for writer, _ in lines), "a failed call left something"
        for line, position in self.acknowledged.items():
            assert lines[position - 1] == line
        assert set(lines) == set(self.acknowledged)


def test_kernel_processes_are_killed_under_load(local: LocalCluster, client: amino.Cluster) -> None:
    """Whatever was acknowledged is there after each kill, once, in its place; failed calls left nothing."""
    dms = [AtLeastOnceRPC(timeout_s=30), DurableSerializableRPC(snapshot_every=500)]
    ledger = client.new(amino.spec(Ledger, name="ledger", dms=dms))
    with Writers(ledger) as writers:
        for _ in range(KILLS):
            writers.await_more(200)
            location = client.registry.locate(LocateRequest(name="ledger"))
            server = local.server(location.groups["/"].replicas[0].server)
            server.wait_serving(after=server.kill_kernel())
        writers.await_more(100)
    writers.judge(ledger.read())
    told = f"of {len(writers.acknowledged)} acknowledged, {KILLS} kills"
    Figures("DurableSerializableRPC").note(
        "acknowledged writes lost or applied twice", 0, "writes", at_most=0, note=told
    )
    client.delete("ledger")


def test_moved_under_load(local: LocalCluster, client: amino.Cluster) -> None:
    """A move carries the log along: no call fails, and a kill right after it loses nothing."""
    dms = [AtLeastOnceRPC(timeout_s=30), ExplicitMigration(), DurableSerializableRPC()]
    ledger = client.new(amino.spec(Ledger, name="moving", dms=dms))
    control = amino.control(ledger, ExplicitMigration)
    with Writers(ledger) as writers:
        for name in ("s1", "s2", "s1"):
            writers.await_more(100)
            control.migrate_to(name)
        server = local.server("s1")
        server.wait_serving(after=server.kill_kernel())
        writers.await_more(100)
    writers.judge(ledger.read())
    client.delete("moving")


class Note:
    """A line of text."""

    def __init__(self, text: str = "made") -> None:
        self.text = text

    def write(self, text: str) -> None:
        """Change it."""
        self.text = text

    @amino.readonly
    def read(self) -> str:
        """Return it."""
        return self.text


def lose(local: LocalCluster, client: amino.Cluster, name: str) -> None:
    """Kill the kernel process that has the microservice, and wait until its server serves again."""
    location = client.registry.locate(LocateRequest(name=name))
    server = local.server(location.groups["/"].replicas[0].server)
    server.wait_serving(after=server.kill_kernel())


def test_explicit_checkpoints_and_on_loss(local: LocalCluster, client: amino.Cluster) -> None:
    """After a loss: the newest checkpoint; without any, what ``on_loss`` says."""
    dms = [AtLeastOnceRPC(timeout_s=30), ExplicitCheckpoint()]
    kept = client.new(amino.spec(Note, name="kept", dms=dms))
    control = amino.control(kept, ExplicitCheckpoint)
    kept.write("stored")
    assert control.checkpoint() == 1
    kept.write("not stored")
    assert control.restore() == 1
    assert kept.read() == "stored"
    kept.write("not stored either")
    lose(local, client, "kept")
    assert kept.read() == "stored"
    again = client.new(amino.spec(Note, name="again", dms=dms, on_loss="recreate"))
    again.write("changed")
    lose(local, client, "again")
    assert again.read() == "made"
    gone = client.new(amino.spec(Note, name="gone", dms=dms))
    gone.write("changed")
    lose(local, client, "gone")
    with pytest.raises(StateLost, match="no checkpoint"):
        gone.read()


class Shelf:
    """Values by key."""

    def __init__(self) -> None:
        self.values: dict[str, int] = {}

    @amino.key
    def put(self, name: str, value: int) -> int:
        """Keep a value."""
        if value < 0:
            self.values.clear()
            raise ValueError("negative")
        self.values[name] = value
        return value

    @amino.readonly
    @amino.key
    def get(self, name: str) -> int:
        """Return a value."""
        return self.values[name]


def test_each_shard_has_a_log_of_its_own(local: LocalCluster, client: amino.Cluster) -> None:
    """Under ``DHT`` all shards come back with what they acknowledged, failed calls undone, whoever dies."""
    dms = [AtLeastOnceRPC(timeout_s=30), DHT(shards=3), DurableSerializableRPC(snapshot_every=10)]
    shelf = client.new(amino.spec(Shelf, name="shelf", dms=dms))
    for number in range(60):
        shelf.put(f"k{number}", number)
        if number % 7 == 0:
            with pytest.raises(ValueError, match="negative"):
                shelf.put(f"k{number}", -1)
    for name in ("s1", "s2"):
        server = local.server(name)
        server.wait_serving(after=server.kill_kernel())
        assert [shelf.get(f"k{number}") for number in range(60)] == list(range(60))
        assert shelf.put("k0", 0) == 0
