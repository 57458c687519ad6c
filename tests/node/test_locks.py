"""Distributed locks of real processes on a real cluster: frozen and thawed, killed, waited for, blocking and awaited."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

import amino
from amino.contracts.services import EventsRequest
from amino.dm import AtLeastOnceRPC, ConsensusRSM
from amino.testing import LocalCluster
from tests.acceptance.figures import Figures
from tests.stubs.holder import Guarded, Teller
from tests.waiting import until

pytestmark = [pytest.mark.real, pytest.mark.keeps("the module's cluster lives as long as the module")]

HERE = __file__.rpartition("tests")[0]
TTL_S = 1.5
FIGURES = Figures("locks")
MEASURED = threading.Event()  # never set: a while in which a lock is renewed


@pytest.fixture(scope="module")
def local(node_etcd):
    with LocalCluster(
        2, etcd_endpoints=node_etcd.endpoints, app_dirs=[HERE], cluster="locks", session_ttl_s=2
    ) as running:
        with running.connect() as client:
            client.new(amino.spec(Guarded, name="guarded"))
        yield running


@pytest.fixture
def cluster(local):
    with local.connect() as client:
        yield client


@contextlib.contextmanager
def holder(local, folder):
    """Another process that holds lock ``account``; yields it with its token and what lets it go on."""
    mark, go_on = folder / "mark", folder / "go-on"
    command = [sys.executable, "-m", "tests.stubs.holder", local.addresses[0], "locks", mark, go_on, str(TTL_S)]
    process = subprocess.Popen(list(map(str, command)), cwd=HERE, env={**os.environ, "PYTHONPATH": HERE})
    try:
        await_file(mark)
        yield process, int(mark.read_text()), go_on
    finally:
        process.kill()
        process.wait()


def await_file(path, timeout_s=20.0):
    until(lambda: path.exists() and path.read_text(), timeout_s, f"{path} did not come")


def test_a_holder_that_was_frozen_past_its_lease_is_refused(local, cluster, tmp_path):
    """Thawed, its write is refused by the microservice that has seen the next holder, and it knows that it lost."""
    guarded = cluster.get("guarded", Guarded)
    with holder(local, tmp_path) as (process, token, go_on):
        process.send_signal(signal.SIGSTOP)
        go_on.touch()
        with cluster.lock("account", wait_s=TTL_S + 1.0) as lock:
            assert lock.token > token
            assert guarded.write("mine", lock) == "mine"
            process.send_signal(signal.SIGCONT)
            await_file(tmp_path / "mark.outcome")
        assert (tmp_path / "mark.outcome").read_text() == "refused lost"
        FIGURES.note("writes accepted of a holder thawed after its lease", 0, "writes", at_most=0)
        assert guarded.read() == "mine"


def test_the_lock_of_a_killed_holder_is_free_within_its_ttl(local, cluster, tmp_path):
    """The TTL counts from the last renewal, so it takes at most the TTL and a second."""
    with holder(local, tmp_path) as (process, token, _):
        MEASURED.wait(TTL_S)  # it has renewed several times
        process.kill()
        killed = time.monotonic()
        with cluster.lock("account", wait_s=30.0) as lock:
            took_s = time.monotonic() - killed
            FIGURES.note("holder killed: free again", took_s, "s", at_most=TTL_S + 1.0, note=f"TTL {TTL_S} s")
            assert took_s <= TTL_S + 1.0
            assert lock.token > token


def test_the_lock_is_held_by_one_at_a_time(cluster):
    """Threads that add to a plain counter under the lock lose nothing, and each grant has a larger token."""
    seen, inside = [], []

    def work():
        for _ in range(5):
            with cluster.lock("counting", wait_s=60.0) as lock:
                inside.append(lock)
                assert len(inside) == 1
                seen.append(lock.token)
                assert lock.valid()
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 20
    assert seen == sorted(set(seen))


def test_waiting_is_bounded_and_a_lock_kept_longer_than_its_ttl_is_renewed(cluster):
    """The second is told who waits; the first keeps the lock for several TTLs, and releases it for others at once."""
    with cluster.lock("kept", ttl_s=0.5) as lock:
        with pytest.raises(amino.LockHeld, match="kept"), cluster.lock("kept", wait_s=1.2):
            pytest.fail("it was free")
        assert lock.valid()
        with pytest.raises(amino.Invalid, match="held already"):
            lock.acquire()
    with pytest.raises(amino.Invalid, match="not held"):
        lock.check()
    with cluster.lock("kept", wait_s=0.0) as again:
        assert again.token > 0


async def test_awaited(local):
    """``async with`` waits without blocking the loop, and passes the token on."""
    async with local.connect() as cluster:
        guarded = await amino.aio(cluster.get)("guarded", Guarded)
        async with cluster.lock("awaited", ttl_s=0.6) as lock:
            await asyncio.sleep(1.0)
            fence = lock.fence
            assert await amino.aio(guarded.write_by_number)("async", fence.name, fence.token) == "async"
        late = cluster.lock("awaited", wait_s=None)
        await amino.aio(late.acquire)()
        await amino.aio(late.release)()
        with pytest.raises(amino.StaleToken):
            await amino.aio(guarded.write_by_number)("old", fence.name, fence.token - 1)


def test_a_lost_lock_says_so_also_at_the_end_of_its_block(cluster):
    """A holder that cannot renew hears of it wherever it uses the lock."""
    lock = cluster.lock("cut", ttl_s=0.5).acquire()
    lock._stop.set()  # as if its thread were starved
    until(lambda: not lock.valid(), 5.0)
    with pytest.raises(amino.LockLost, match="cut"):
        lock.token  # noqa: B018 - looking is what raises
    with pytest.raises(amino.LockLost, match="cut"):
        lock.__exit__(None, None, None)


def test_a_replicated_method_takes_a_lock_once(local, cluster):
    """Replicas replay what the primary was granted; the one that is primary next asks for itself."""
    stub = cluster.new(amino.spec(Teller, name="teller", dms=[AtLeastOnceRPC(timeout_s=25), ConsensusRSM(replicas=2)]))
    assert [stub.count() for _ in range(3)] == [1, 2, 3]
    group = cluster.describe(stub).groups["/"]
    local.server(next(each.server for each in group.replicas if each.id == group.primary)).kill_kernel()
    assert stub.count() == 4
    tokens = stub.seen()
    assert tokens == sorted(set(tokens))
    assert "diverge" not in " ".join(event.kind for event in cluster.registry.events(EventsRequest()).events)
    cluster.delete("teller")
