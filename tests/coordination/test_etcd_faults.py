"""Three real etcd members, killed and frozen: no event missed or doubled, no lease lost, calls wait or fail honestly."""

from __future__ import annotations

import asyncio

import pytest

from amino.aio.clock import RealClock
from amino.aio.tasks import TaskOwner
from amino.coordination.deadline import LocalDeadline
from amino.coordination.etcd import EtcdStore
from amino.coordination.keys import Keys
from amino.coordination.session import SessionHolder, SessionView
from amino.coordination.session_machine import Timing
from amino.coordination.store import Get, Put, absent
from amino.coordination.watch import WatchedCache
from amino.errors import CoordinationUnavailable
from tests.coordination.virtual import until
from tests.etcd_members import elected_besides, leader_index

pytestmark = pytest.mark.real
KEYS = Keys("faults")
CLOCK = RealClock()


class Load:
    """Writes numbered keys, each guarded by its absence, until told to stop; counts what could not be answered."""

    def __init__(self, store):
        self.store = store
        self.written = 0
        self.unknown = 0
        self.longest_s = 0.0
        self.running = True

    async def run(self):
        while self.running:
            await self._write(f"/w/{self.written:06d}")
            self.written += 1
            await asyncio.sleep(0.002)

    async def _write(self, key):
        begun = CLOCK.monotonic()
        while True:
            try:
                result = await self.store.txn([absent(key)], [Put(key, b"1")], [Get(key)])
            except CoordinationUnavailable:
                self.unknown += 1
                continue
            assert result.succeeded or result.reads[0], "a key that is not absent is there"
            self.longest_s = max(self.longest_s, CLOCK.monotonic() - begun)
            return


async def _strike(etcd, index, how):
    if how == "kill":
        await etcd.kill(index)
    else:
        etcd.freeze(index)


@pytest.mark.parametrize("how", ["kill", "freeze"])
@pytest.mark.parametrize("whom", ["connected", "leader"])
async def test_one_member_lost(etcd_three, whom, how):
    """Work goes on with another member: soon after etcd has a leader, the watch whole, the session never lost.

    An election takes etcd 1 to 2 s, each split vote as much again; what comes on top of it is ours.
    """
    leader = await leader_index(etcd_three)
    order = etcd_three.endpoints
    if whom == "connected":  # to a follower, so that this is not the case of the leader
        order = [*(one for one in order if one != order[leader]), order[leader]]
        victim = etcd_three.index_of(order[0])
    else:
        victim = leader
    timing = Timing.of_ttl(3)
    store = await EtcdStore.open(order)
    session_store = await EtcdStore.open(order, request_timeout_s=timing.request_timeout_s)
    word, lost, seen = LocalDeadline(), [], []
    view = SessionView(word, CLOCK)
    session = SessionHolder(session_store, KEYS, "s1", word, clock=CLOCK, timing=timing, on_lost=lost.append)
    await session.start(b"")
    cache = WatchedCache(store, "/w/", lambda key, new, old: seen.append((key, new is not None)), clock=CLOCK)
    await cache.start()
    load, tasks = Load(store), TaskOwner("load")
    tasks.spawn(load.run())
    await until(lambda: load.written >= 50, 10)
    struck_at, begun = load.written, CLOCK.monotonic()
    await _strike(etcd_three, victim, how)
    await elected_besides(etcd_three, victim)
    elected_s = CLOCK.monotonic() - begun
    await until(lambda: load.written >= struck_at + 200, 20)
    assert load.longest_s < elected_s + 2.5
    assert await view.wait_valid(3.0)
    if how == "freeze":
        etcd_three.thaw(victim)
    else:
        await etcd_three.start_member(victim)
    await until(lambda: load.written >= struck_at + 400, 20)
    load.running = False
    expected = [(f"/w/{number:06d}", True) for number in range(load.written)]
    await until(lambda: len(seen) >= len(expected), 10)
    assert seen[: len(expected)] == expected
    assert len(seen) == len(set(seen))
    assert lost == []
    assert session.incarnation
    await tasks.aclose()
    await cache.aclose()
    await session.tombstone_and_revoke()
    await store.aclose()
    await session_store.aclose()


@pytest.mark.parametrize("how", ["kill", "freeze"])
async def test_a_raw_watch_misses_and_doubles_nothing(etcd_three, how):
    """The store's own watch, without the cache's repairs, delivers each event once and in order across two losses."""
    store = await EtcdStore.open(etcd_three.endpoints)
    load, tasks, seen = Load(store), TaskOwner("load"), []

    async def watch():
        async for batch in store.watch("/w/", 1):
            seen.extend(event.record.key for event in batch.events)

    tasks.spawn(watch())
    tasks.spawn(load.run())
    for _ in range(2):
        done = load.written
        await until(lambda done=done: load.written >= done + 50, 20)
        victim = etcd_three.index_of(store.endpoint)
        await _strike(etcd_three, victim, how)
        done = load.written
        await until(lambda done=done: load.written >= done + 50, 20)
        if how == "freeze":
            etcd_three.thaw(victim)
        else:
            await etcd_three.start_member(victim)
            await etcd_three.wait_ready()
    load.running = False
    await until(lambda: len(seen) >= load.written, 10)
    assert seen[: load.written] == [f"/w/{number:06d}" for number in range(load.written)]
    await tasks.aclose()
    await store.aclose()


async def test_a_member_alone_asks_before_it_stands_for_election(etcd_three):
    """While the others are frozen it raises no term: with a higher one it would unseat whoever is elected afterwards."""
    leader = await leader_index(etcd_three)
    alone = etcd_three.members[(leader + 1) % 3]
    others = [index for index, member in enumerate(etcd_three.members) if member is not alone]
    before = alone.log_path.stat().st_size
    for index in others:
        etcd_three.freeze(index)
    await until(lambda: b"candidate at term" in alone.log_path.read_bytes()[before:], 30)
    assert b"became candidate" not in alone.log_path.read_bytes()[before:]
    for index in others:
        etcd_three.thaw(index)
    await etcd_three.wait_ready()


async def test_no_majority_is_said_and_survived(etcd_three):
    """With two of three members frozen calls fail within their time-out; after the thaw everything goes on."""
    store = await EtcdStore.open(etcd_three.endpoints, request_timeout_s=2.0)
    word, lost = LocalDeadline(), []
    view = SessionView(word, CLOCK)
    session = SessionHolder(store, KEYS, "s1", word, clock=CLOCK, timing=Timing(6, 0.5, 2.0, 0.6), on_lost=lost.append)
    await session.start(b"")
    leader = await leader_index(etcd_three)
    victims = [leader, (leader + 1) % 3]
    for victim in victims:
        etcd_three.freeze(victim)
    begun = CLOCK.monotonic()
    with pytest.raises(CoordinationUnavailable):
        await store.txn([], [Put("/x", b"1")])
    with pytest.raises(CoordinationUnavailable):
        await store.get("/x")
    assert CLOCK.monotonic() - begun < 5
    await until(lambda: not view.valid(), 8)
    for victim in victims:
        etcd_three.thaw(victim)
    assert await view.wait_valid(10) or lost
    async with asyncio.timeout(10):
        while True:
            try:
                await store.get("/x")
                break
            except CoordinationUnavailable:
                continue
    await session.tombstone_and_revoke()
    await store.aclose()
