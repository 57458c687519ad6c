"""Everything is deleted: etcd, every process and the checkpoint store are as if it had never been."""

from __future__ import annotations

import psutil
import pytest

import amino
from amino.contracts.services import KernelStatistics
from amino.dm import AtLeastOnceRPC, ExplicitMigration, PeriodicCheckpoint, SerializableRPC
from amino.testing import LocalCluster
from tests.acceptance.audit import Audit, eventually
from tests.acceptance.figures import Figures, rounds
from tests.acceptance.services import Blob, Counter

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(300)]
ROW = "delete everything"
BLOB_MIB = 8
LEFT = {"cluster", "servers", "beats", "slots", "events"}
"""Kinds of keys that a cluster without microservices keeps. Applications and code stay until an operator removes them."""
EVENTS_MAX = 1000 + 64
KEPT_MIB_MAX = BLOB_MIB / 2
"""What allocators may keep for later: less than one of the larger objects."""
CHAINS = (
    (),
    (AtLeastOnceRPC(), PeriodicCheckpoint(every=1)),
    (AtLeastOnceRPC(), PeriodicCheckpoint(every=None, interval_s=0.2), SerializableRPC()),
    (ExplicitMigration(), SerializableRPC()),
)


@pytest.fixture(autouse=True)
def large_blocks_go_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the servers' allocator return large blocks when they are freed, so that what is kept is what somebody refers to.

    glibc else keeps some tens of MiB for later, more or less by chance.
    """
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", str(128 << 10))


def test_everything_is_deleted(local: LocalCluster, client: amino.Cluster, audit: Audit, figures: Figures) -> None:
    """After creations, calls, checkpoints, moves and a failover, deleting leaves no key, object, file, thread or memory."""
    empty_files = audit.store_files()
    pids = {name: server.kernel_pid for name, server in local.servers.items()}
    after_first: dict[str, int] = {}
    for turn in range(1 + rounds(3)):
        for number in range(40):
            dms = CHAINS[number % len(CHAINS)]
            stub = client.new(amino.spec(Counter, name=f"c{number}", dms=dms), number)
            assert stub.add() == number + 1
        blobs = [client.new(amino.spec(Blob, name=f"b{number}", dms=CHAINS[1])) for number in range(4)]
        for blob in blobs:
            blob.fill(BLOB_MIB << 20)
        for number in range(3, 40, 4):
            client.move(f"c{number}")
        for each in client.find():
            client.delete(each.name)
        if not turn:
            after_first = {name: psutil.Process(pid).memory_info().rss for name, pid in pids.items()}
    assert eventually(client.find, lambda found: not found, 5.0) == []
    audit.await_consistent(10.0)
    kinds = eventually(audit.kinds, lambda kinds: set(kinds) <= LEFT, 30.0)
    assert set(kinds) <= LEFT, (
        f"{kinds} in etcd: {[key for key in audit.records() if key.partition('/')[0] not in LEFT]}"
    )
    assert kinds["events"] <= EVENTS_MAX
    assert kinds["servers"] == len(local.servers)
    files = eventually(audit.store_files, lambda files: set(files) <= set(empty_files), 30.0)
    assert set(files) <= set(empty_files), f"left in the store: {sorted(set(files) - set(empty_files))[:10]}"
    for name, server in local.servers.items():
        figure: KernelStatistics = audit.kernel(server.address, "statistics")
        assert (figure.replicas, figure.in_flight) == (0, 0)
        grown = psutil.Process(pids[name]).memory_info().rss - after_first[name]
        figures.note(
            f"{name}: memory kept after creating and deleting it all again", grown / 2**20, "MiB", at_most=KEPT_MIB_MAX
        )
    figures.note("keys left beside cluster, servers, slots and events", 0, "keys", at_most=0)


def test_a_failover_leaves_nothing_either(local: LocalCluster, client: amino.Cluster, audit: Audit) -> None:
    """Tombstones, checkpoints of older epochs and what a dead process hosted are gone too, once all is deleted."""
    empty_files = audit.store_files()
    stubs = [client.new(amino.spec(Counter, name=f"c{number}", dms=CHAINS[1]), number) for number in range(12)]
    for name in list(local.servers):
        before = local.server(name).kill_kernel()
        for number, stub in enumerate(stubs):
            assert stub.get() == number
            stub.add(0)
        local.server(name).wait_serving(after=before)
    for number in range(12):
        client.delete(f"c{number}")
    audit.await_consistent()
    kinds = eventually(audit.kinds, lambda kinds: set(kinds) <= LEFT, 40.0)
    assert set(kinds) <= LEFT, kinds
    files = eventually(audit.store_files, lambda files: set(files) <= set(empty_files), 40.0)
    assert set(files) <= set(empty_files), f"left in the store: {sorted(set(files) - set(empty_files))[:10]}"
