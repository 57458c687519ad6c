"""Slot elections between servers on the memory store: spread, failover, guards, and what happens in doubt."""

from __future__ import annotations

import asyncio

import pytest

from amino.coordination.deadline import LocalDeadline
from amino.coordination.election import Identity, SlotElection, decode_slot
from amino.coordination.keys import Keys
from amino.coordination.memory import Fate, MemoryStore
from amino.coordination.memory_etcd import MemoryEtcd
from amino.coordination.session import SessionHolder
from amino.coordination.store import Delete, Put
from amino.coordination.watch import WatchedCache
from amino.errors import Conflict
from amino.ids import SLOT_COUNT
from tests.coordination.virtual import run_virtual, until

KEYS = Keys("test")


class Server:
    """A server's session, caches and election, with a log of what it led."""

    def __init__(self, etcd, clock, name):
        self.name = name
        self.clock = clock
        self.store = MemoryStore(etcd, clock=clock, name=name)
        self.session = SessionHolder(self.store, KEYS, name, LocalDeadline(), clock=clock)
        self.servers = WatchedCache(self.store, KEYS.servers_prefix, clock=clock)
        self.slots = WatchedCache(self.store, KEYS.slots_prefix, clock=clock, decode=decode_slot)
        self.log = []
        self.election = None

    async def start(self, record=b"server"):
        await self.session.start(record)
        await self.servers.start()
        await self.slots.start()
        identity = Identity(self.name, self.session.incarnation, self.session.lease)
        self.election = SlotElection(
            self.store,
            KEYS,
            identity,
            self.servers,
            self.slots,
            eligible=lambda record: record.value != b"device",
            on_gained=self._gained,
            on_lost=self._lost,
            clock=self.clock,
        )
        await self.election.start()
        return self

    async def _gained(self, slot):
        assert self.election.guard(slot).expected > 0
        self.log.append(("gained", slot))

    async def _lost(self, slot):
        self.log.append(("lost", slot))

    async def stop(self):
        await self.election.aclose()
        await self.servers.aclose()
        await self.slots.aclose()
        await self.session.aclose()

    def check_log(self):
        """Gains and losses of a slot alternate, beginning with a gain."""
        led = set()
        for what, slot in self.log:
            assert (slot in led) == (what == "lost")
            led ^= {slot}
        return led


async def _settled(servers, timeout_s=30.0):
    def even():
        led = [server.election.led for server in servers]
        sizes = [len(one) for one in led]
        return len(frozenset().union(*led)) == sum(sizes) == SLOT_COUNT and max(sizes) - min(sizes) <= 1

    await until(even, timeout_s)


def test_slots_spread_as_servers_join_and_leave():
    """One server leads all; each that joins gets its share; when one dies the others take over at once."""

    async def main(clock):
        etcd = MemoryEtcd(clock)
        servers = [await Server(etcd, clock, "a").start()]
        await _settled(servers)
        for name in ("b", "c"):
            servers.append(await Server(etcd, clock, name).start())
            await _settled(servers)
        moved = [len([what for what, _ in server.log if what == "lost"]) for server in servers]
        assert sum(moved) == 32 + 21
        dead = servers.pop()
        await dead.session.tombstone_and_revoke()
        begun = clock.monotonic()
        await _settled(servers)
        assert clock.monotonic() - begun < 0.2
        for server in [*servers, dead]:
            server.check_log()
            await server.stop()
        assert dead.check_log() == set()

    run_virtual(main)


def test_devices_never_lead():
    """A server that is not eligible claims nothing and is assigned nothing."""

    async def main(clock):
        etcd = MemoryEtcd(clock)
        server = await Server(etcd, clock, "a").start()
        device = await Server(etcd, clock, "d").start(b"device")
        await _settled([server])
        assert device.log == []
        for one in (server, device):
            await one.stop()

    run_virtual(main)


def test_the_guard_ends_with_the_leadership():
    """A guard holds in transactions while we lead, fails after another creation, and is refused when we do not lead."""

    async def main(clock):
        etcd = MemoryEtcd(clock)
        server = await Server(etcd, clock, "a").start()
        await _settled([server])
        guard = server.election.guard(5)
        assert (await server.store.txn([guard], [])).succeeded
        assert server.election.leader_of(5) == "a"
        await server.store.txn([], [Delete(KEYS.slot(5))])
        await until(lambda: ("lost", 5) in server.log and server.election.leads(5), 5)
        assert not (await server.store.txn([guard], [])).succeeded
        assert (await server.store.txn([server.election.guard(5)], [])).succeeded
        await server.election.resign_all()
        with pytest.raises(Conflict, match="slot 5"):
            server.election.guard(5)
        assert etcd.list(KEYS.slots_prefix)[0] == []
        server.check_log()
        await server.stop()

    run_virtual(main)


def test_unanswered_claims_are_settled_by_the_watch():
    """Claims that landed without an answer are adopted; those that did not are made again."""

    async def main(clock):
        etcd = MemoryEtcd(clock)
        server = Server(etcd, clock, "a")
        fates = iter([Fate.ANSWER_LOST, Fate.LOST])
        started = await server.start()
        server.store.faults.fate = lambda writes: next(fates, Fate.ANSWERED) if writes else Fate.ANSWERED
        await _settled([started])
        assert server.check_log() == set(range(SLOT_COUNT))
        await server.stop()

    run_virtual(main)


def test_a_corrupt_slot_record_stops_nobody():
    """A slot that holds garbage is left alone, the other slots are led."""

    async def main(clock):
        etcd = MemoryEtcd(clock)
        writer = MemoryStore(etcd, clock=clock)
        await writer.txn([], [Put(KEYS.slot(9), b"\xff")])
        server = await Server(etcd, clock, "a").start()
        await until(lambda: len(server.election.led) == SLOT_COUNT - 1, 5)
        assert server.election.leader_of(9) is None
        await writer.txn([], [Delete(KEYS.slot(9))])
        await _settled([server])
        await server.stop()

    run_virtual(main)


def test_a_silent_server_is_stood_in_for():
    """Slots assigned to a server that does not claim are led by others after a moment, without going back and forth."""

    async def main(clock):
        etcd = MemoryEtcd(clock)
        server = await Server(etcd, clock, "a").start()
        await _settled([server])
        silent = Server(etcd, clock, "b")
        await silent.session.start(b"server")
        await asyncio.sleep(2)
        await until(lambda: len(server.election.led) == SLOT_COUNT, 2)
        before = len(server.log)
        await asyncio.sleep(5)
        assert len(server.log) == before
        await silent.session.aclose()
        await server.stop()

    run_virtual(main)
