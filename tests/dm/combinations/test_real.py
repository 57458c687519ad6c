"""Stacks of managers on real servers: each does what its managers promise, and goes on doing it when its server dies."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import amino
from amino.testing import LocalCluster
from tests.dm.combinations.board import PATIENCE_S, Subject
from tests.dm.combinations.stacks import REGIONS, SAMPLE, Stack, pairs, refusal, title
from tests.dm.replication.real_world import until
from tests.etcd_fixtures import etcd_binaries

pytestmark = [
    pytest.mark.real,
    pytest.mark.timeout(300),
    pytest.mark.keeps("one cluster serves all tests of this module"),
]
ROOT = Path(__file__).resolve().parents[3]
PAIRS = [pair for pair in pairs() if not refusal(pair)]
AT_ONCE = 33


@pytest.fixture(scope="module")
def local() -> Iterator[LocalCluster]:
    """Three servers, each in a region of its own."""
    with LocalCluster(0, etcd_binary=etcd_binaries()[0], session_ttl_s=2, app_dirs=[ROOT]) as running:
        for number, region in enumerate(REGIONS, 1):
            running.add_server(f"s{number}", labels={"region": region})
        yield running


@pytest.fixture
def client(local: LocalCluster) -> Iterator[amino.Cluster]:
    """A connection; what was made through it is gone at the end."""
    with local.connect() as connected:
        yield connected
        for found in connected.find():
            connected.delete(found.name)


def kill(local: LocalCluster, client: amino.Cluster, name: str) -> None:
    """Kill the kernel process of a server, and wait until its successor serves and everybody knows."""
    server = local.server(name)
    before = server.kill_kernel()
    now = server.wait_serving(after=before)
    known = lambda: any(one.record.name == name and one.incarnation == now for one in client.servers())  # noqa: E731
    until(known, PATIENCE_S, lambda: f"{name} is not back")


@pytest.mark.parametrize("stack", SAMPLE, ids=title)
def test_a_stack_keeps_its_promises_when_its_server_dies(
    local: LocalCluster, client: amino.Cluster, stack: Stack
) -> None:
    """Values, order, transactions and places are right; then its server is killed, and nothing acknowledged is missing."""
    subject = Subject(client, stack)
    subject.use()
    kill(local, client, min(subject.hosts()))
    subject.survives()


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, len(PAIRS), AT_ONCE))
def test_every_pair_keeps_its_promises_when_every_server_dies_in_turn(
    local: LocalCluster, client: amino.Cluster, first: int
) -> None:
    """All pairs that are not refused, side by side: each does what its managers promise through the kill of each server."""
    subjects = [Subject(client, pair) for pair in PAIRS[first : first + AT_ONCE]]
    for subject in subjects:
        subject.use()
    for name in ("s1", "s2", "s3"):
        kill(local, client, name)
        for subject in subjects:
            subject.survives()
