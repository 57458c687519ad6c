"""The faults that the memory store plays are those of a real network and a real etcd, and are repeatable."""

from __future__ import annotations

import asyncio
import random

import pytest

from amino.coordination.memory import Fate, Faults, MemoryStore
from amino.coordination.memory_etcd import MemoryEtcd
from amino.coordination.store import Put
from amino.errors import CoordinationUnavailable
from tests.coordination.virtual import run_virtual


@pytest.mark.parametrize(
    ("fate", "at_once", "later"),
    [(Fate.ANSWER_LOST, True, True), (Fate.LANDS_LATER, False, True), (Fate.LOST, False, False)],
)
def test_fates(fate, at_once, later):
    """A request that times out was done, is done later, or never is."""

    async def main(clock):
        etcd = MemoryEtcd(clock)
        store = MemoryStore(etcd, clock=clock, faults=Faults(fate=lambda _: fate))
        begun = clock.monotonic()
        with pytest.raises(CoordinationUnavailable):
            await store.txn([], [Put("/a", b"")])
        assert clock.monotonic() - begun == pytest.approx(1.5, abs=0.01)
        assert (etcd.get("/a") is not None) is at_once
        await asyncio.sleep(10)
        assert (etcd.get("/a") is not None) is later

    run_virtual(main)


def test_a_partition_cuts_one_client_only():
    """The cut-off client waits and fails, or goes on if healed in time; others notice nothing."""

    async def main(clock):
        etcd = MemoryEtcd(clock)
        cut, other = (MemoryStore(etcd, clock=clock, name=name) for name in ("cut", "other"))
        cut.partition()
        await other.txn([], [Put("/a", b"")])
        with pytest.raises(CoordinationUnavailable):
            await cut.get("/a")
        waiting = asyncio.ensure_future(cut.get("/a"))
        await asyncio.sleep(1)
        cut.heal()
        assert (await waiting).key == "/a"

    run_virtual(main)


def test_leases_and_leaders():
    """A new leader extends leases; without a majority none ends; an old leader can end one early; keepalives may lie."""

    async def main(clock):
        etcd = MemoryEtcd(clock, expiry_lag_s=0.5)
        store = MemoryStore(etcd, clock=clock)
        lease = await store.grant(3)
        await asyncio.sleep(2.9)
        etcd.change_leader()
        await asyncio.sleep(2.9)
        etcd.stop_serving()
        await asyncio.sleep(60)
        etcd.resume_serving()
        await asyncio.sleep(3.4)
        assert etcd.leases == (lease,)
        await asyncio.sleep(0.2)
        assert etcd.leases == ()
        assert await store.keep_alive(lease) == 0
        store.faults.keepalive_lies = True
        assert await store.keep_alive(lease) == 3

    run_virtual(main)


def test_the_same_seed_gives_the_same_history():
    """Two runs of the same random load under the same faults leave the same history."""

    async def main(clock):
        rng = random.Random(7)
        etcd = MemoryEtcd(clock)
        fates = [Fate.ANSWERED, Fate.ANSWERED, Fate.ANSWER_LOST, Fate.LANDS_LATER, Fate.LOST]
        faults = Faults(request_delay_s=rng.random, fate=lambda _: rng.choice(fates))
        store = MemoryStore(etcd, clock=clock, faults=faults)
        puts = (store.txn([], [Put(f"/{rng.randrange(9)}", str(n).encode())]) for n in range(200))
        await asyncio.gather(*puts, return_exceptions=True)
        await asyncio.sleep(20)
        return etcd.events_from("/", 1)

    first, second = run_virtual(main), run_virtual(main)
    assert first == second
    assert len(first.events) > 100
