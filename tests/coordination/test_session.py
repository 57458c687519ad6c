"""Sessions: claiming, renewing, fencing oneself, and proving death; on the memory store in virtual time."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import timeit

import pytest

from amino.aio.clock import RealClock
from amino.aio.mode import drive
from amino.coordination.deadline import LocalDeadline, SharedDeadline
from amino.coordination.ending import end_silent, prove_dead
from amino.coordination.keys import Keys
from amino.coordination.memory import Fate, MemoryStore
from amino.coordination.memory_etcd import MemoryEtcd
from amino.coordination.session import SessionHolder, SessionView
from amino.coordination.session_machine import Timing
from amino.coordination.store import Delete, Put, created_at
from amino.errors import AlreadyExists, CoordinationUnavailable, Invalid, SessionLost
from tests.coordination.virtual import run_virtual

KEYS = Keys("test")
TIMING = Timing.of_ttl(3)


class Holder:
    """A session of server ``s1`` with its word and what it reported."""

    def __init__(self, etcd, clock, name="s1"):
        self.store = MemoryStore(etcd, clock=clock, name=name, request_timeout_s=TIMING.request_timeout_s)
        self.word = LocalDeadline()
        self.view = SessionView(self.word, clock)
        self.lost = []
        self.session = SessionHolder(
            self.store, KEYS, name, self.word, clock=clock, timing=TIMING, on_lost=self.lost.append
        )


def test_a_session_stays_valid():
    """The key appears under the lease, its create revision is the incarnation, and validity is renewed for ever."""

    async def main(clock):
        etcd = MemoryEtcd(clock)
        holder = Holder(etcd, clock)
        assert not holder.view.valid()
        incarnation = await holder.session.start(b"record")
        record = etcd.get(KEYS.server("s1"))
        assert (record.value, record.create_revision, record.lease) == (b"record", incarnation, holder.session.lease)
        for _ in range(1000):
            await asyncio.sleep(0.37)
            assert 0.5 < holder.view.remaining_s() <= 2.7
        assert holder.lost == []
        await holder.session.update_record(b"other")
        assert etcd.get(KEYS.server("s1")).value == b"other"
        assert etcd.get(KEYS.server("s1")).create_revision == incarnation
        await holder.session.aclose()
        assert not holder.view.valid()

    run_virtual(main)


def test_round_trips_that_keep_it_are_told():
    """Each beat and each keepalive is told with its seconds and whether it was answered."""

    async def main(clock):
        etcd = MemoryEtcd(clock)
        holder = Holder(etcd, clock)
        told = []
        holder.session._on_round_trip = lambda duration_s, renewed: told.append((duration_s, renewed))
        await holder.session.start(b"record")
        await asyncio.sleep(3)
        assert len(told) >= 4
        assert all(renewed and 0.0 <= duration_s <= TIMING.request_timeout_s for duration_s, renewed in told)
        told.clear()
        holder.store.partition()
        await asyncio.sleep(3)
        assert told
        assert not any(renewed for _, renewed in told)
        await holder.session.aclose()

    run_virtual(main)


def test_validity_runs_out_before_others_end_the_session():
    """Cut off from etcd, validity ends before another server ends the session; it never comes back for this incarnation."""

    async def main(clock):
        etcd = MemoryEtcd(clock)
        holder, other = Holder(etcd, clock), Holder(etcd, clock, "s2")
        await holder.session.start(b"")
        await other.session.start(b"")
        await asyncio.sleep(1)
        holder.store.partition()
        cut_at = clock.monotonic()
        while etcd.get(KEYS.server("s1")) is not None:
            was_valid = holder.view.valid()
            await asyncio.sleep(0.01)
        assert not was_valid
        assert clock.monotonic() - cut_at <= TIMING.ttl_s + 0.2
        assert etcd.get(KEYS.beat("s1")) is None
        assert etcd.leases == (other.session.lease,)
        assert holder.lost == []
        holder.store.heal()
        await asyncio.sleep(2)
        assert len(holder.lost) == 1
        assert holder.session.lost
        assert not holder.view.valid()
        with pytest.raises(SessionLost):
            await holder.session.update_record(b"")
        assert other.lost == []
        await holder.session.aclose()
        await other.session.aclose()

    run_virtual(main)


def test_who_is_alone_comes_back_as_who_it_was():
    """Nobody else ends a session whose holder was cut off for a while: it goes on, as the same incarnation."""

    async def main(clock):
        etcd = MemoryEtcd(clock)
        holder = Holder(etcd, clock)
        await holder.session.start(b"")
        holder.store.partition()
        await asyncio.sleep(20)
        assert not holder.view.valid()
        holder.store.heal()
        assert await holder.view.wait_valid(2.0)
        assert holder.lost == []
        await holder.session.aclose()

    run_virtual(main)


def test_what_etcd_thinks_of_leases_ends_no_session():
    """Whoever leads etcd and whatever its clock: a session that beats is kept, and no peer is silent when etcd pauses."""

    async def main(clock):
        etcd = MemoryEtcd(clock)
        holders = [Holder(etcd, clock, f"s{number}") for number in range(3)]
        for holder in holders:
            await holder.session.start(b"")
        for pause_s in (0.5, 1.2, 2.4, 3.1, 30.0):
            etcd.stop_serving()
            await asyncio.sleep(pause_s)
            etcd.resume_serving()
            await asyncio.sleep(2.0)
            assert all(holder.view.valid() for holder in holders)
        assert [holder.lost for holder in holders] == [[], [], []]
        for holder in holders:
            await holder.session.aclose()

    run_virtual(main)


def test_a_beat_that_comes_at_the_last_moment_wins():
    """Who judges compares the beat it judged by: one that came meanwhile keeps the session."""

    async def main(clock):
        etcd = MemoryEtcd(clock)
        holder = Holder(etcd, clock)
        incarnation = await holder.session.start(b"")
        judged = etcd.get(KEYS.beat("s1")).mod_revision
        await asyncio.sleep(0.6)
        other = MemoryStore(etcd, clock=clock, name="other")
        assert not await end_silent(other, KEYS, "s1", judged)
        delays = iter([0.0, 0.0, 0.0, 0.6])
        other.faults.request_delay_s = lambda: next(delays, 0.0)
        assert not await end_silent(other, KEYS, "s1", etcd.get(KEYS.beat("s1")).mod_revision)
        assert etcd.get(KEYS.server("s1")).create_revision == incarnation
        assert holder.lost == []
        await holder.session.aclose()

    run_virtual(main)


def test_a_judge_that_is_no_member_any_more_ends_nobody():
    """A server that thaws after it was replaced judges by what it saw before: its word counts for nothing."""

    async def main(clock):
        etcd = MemoryEtcd(clock)
        holder = Holder(etcd, clock)
        await holder.session.start(b"")
        await holder.session.aclose()
        judged = etcd.get(KEYS.beat("s1")).mod_revision
        other = MemoryStore(etcd, clock=clock, name="other")
        assert not await end_silent(other, KEYS, "s1", judged, [created_at(KEYS.server("s2"), 1)])
        assert await end_silent(other, KEYS, "s1", judged)
        assert etcd.get(KEYS.server("s1")) is None

    run_virtual(main)


def test_a_silent_holder_of_the_name_is_waited_out():
    """Who starts under the name of a server that vanished, with nobody else there to notice, has it after its TTL."""

    async def main(clock):
        etcd = MemoryEtcd(clock)
        first, second = Holder(etcd, clock), Holder(etcd, clock)
        await first.session.start(b"")
        await first.session.aclose()
        begun = clock.monotonic()
        await second.session.start(b"")
        assert TIMING.ttl_s <= clock.monotonic() - begun <= TIMING.ttl_s + 0.5
        await second.session.aclose()

    run_virtual(main)


def test_a_short_outage_changes_nothing():
    """Validity lapses while etcd is away and resumes with the same incarnation if the lease outlived the outage."""

    async def main(clock):
        etcd = MemoryEtcd(clock)
        holder = Holder(etcd, clock)
        await holder.session.start(b"")
        etcd.stop_serving()
        await asyncio.sleep(30)
        assert not holder.view.valid()
        assert not await holder.view.wait_valid(0.5)
        etcd.resume_serving()
        assert await holder.view.wait_valid(2.0)
        assert holder.lost == []
        await holder.session.aclose()

    run_virtual(main)


def test_a_lying_keepalive_proves_nothing():
    """etcd 3.4 answers OK for a revoked lease: the next beat notices, validity does not advance."""

    async def main(clock):
        etcd = MemoryEtcd(clock)
        holder = Holder(etcd, clock)
        await holder.session.start(b"")
        holder.store.faults.keepalive_lies = True
        deadline = holder.word.read()
        etcd.revoke(holder.session.lease)
        await asyncio.sleep(1)
        assert len(holder.lost) == 1
        assert holder.word.read() == 0.0
        assert deadline > 0
        await holder.session.aclose()

    run_virtual(main)


def test_a_name_is_claimed_once():
    """A live name is refused at once, naming it; the loser keeps no lease; waiting for the end of the old one works."""

    async def main(clock):
        etcd = MemoryEtcd(clock)
        first, second, third = (Holder(etcd, clock) for _ in range(3))
        await first.session.start(b"")
        begun = clock.monotonic()
        with pytest.raises(AlreadyExists, match="'s1' is taken"):
            await second.session.start(b"")
        assert clock.monotonic() - begun < 1
        assert etcd.leases == (first.session.lease,)
        await first.session.aclose()
        incarnation = await third.session.start(b"")
        assert incarnation > first.session.incarnation
        assert third.view.valid()
        await third.session.aclose()

    run_virtual(main)


def test_an_unanswered_claim_is_recognised():
    """A claim that landed although its answer was lost is our own, not another holder."""

    async def main(clock):
        etcd = MemoryEtcd(clock)
        holder = Holder(etcd, clock)
        fates = iter([Fate.ANSWERED, Fate.ANSWER_LOST])
        holder.store.faults.fate = lambda _: next(fates, Fate.ANSWERED)
        incarnation = await holder.session.start(b"")
        assert etcd.get(KEYS.server("s1")).create_revision == incarnation
        await holder.session.aclose()

    run_virtual(main)


def test_no_etcd_no_session():
    """Without etcd the start fails in time, and leaves nothing behind."""

    async def main(clock):
        etcd = MemoryEtcd(clock)
        holder = Holder(etcd, clock)
        etcd.stop_serving()
        begun = clock.monotonic()
        with pytest.raises(CoordinationUnavailable):
            await holder.session.start(b"", timeout_s=5)
        assert clock.monotonic() - begun < 7
        etcd.resume_serving()
        assert etcd.leases == ()

    run_virtual(main)


async def _with_slots(etcd, clock):
    """Start a session that leads slots 1 and 2, beside a slot of another server."""
    holder = Holder(etcd, clock)
    await holder.session.start(b"")
    other = await holder.store.grant(60)
    lease = holder.session.lease
    await holder.store.txn(
        [], [Put(KEYS.slot(1), b"", lease), Put(KEYS.slot(2), b"", lease), Put(KEYS.slot(3), b"", other)]
    )
    return holder


def test_death_is_proven_in_one_transaction():
    """Server key, own slot keys and tombstone change at one revision; others' slots stay; the lease is revoked."""

    async def main(clock):
        etcd = MemoryEtcd(clock)
        holder = await _with_slots(etcd, clock)
        incarnation, revision = holder.session.incarnation, etcd.revision
        await holder.session.tombstone_and_revoke(b"suspects")
        batch = etcd.events_from("/", revision + 1)
        assert {event.record.mod_revision for event in batch.events} == {revision + 1}
        assert {event.record.key for event in batch.events} == {
            KEYS.server("s1"),
            KEYS.beat("s1"),
            KEYS.slot(1),
            KEYS.slot(2),
            KEYS.tombstone("s1", incarnation),
        }
        assert etcd.get(KEYS.tombstone("s1", incarnation)).value == b"suspects"
        assert holder.session.lease not in etcd.leases
        assert etcd.get(KEYS.slot(3)) is not None
        await holder.session.tombstone_and_revoke(b"suspects")
        assert holder.lost == []

    run_virtual(main)


def test_a_late_proof_harms_nobody():
    """If the name has a new incarnation, only the tombstone of the old one is put."""

    async def main(clock):
        etcd = MemoryEtcd(clock)
        first, second = Holder(etcd, clock), Holder(etcd, clock)
        old = await first.session.start(b"")
        await first.session.aclose()
        new = await second.session.start(b"")
        assert await prove_dead(first.store, KEYS, "s1", old, b"", clock=clock) == 0
        assert etcd.get(KEYS.server("s1")).create_revision == new
        assert etcd.get(KEYS.tombstone("s1", old)) is not None
        await second.session.aclose()

    run_virtual(main)


def test_a_slot_that_changes_hands_meanwhile_is_spared():
    """A slot resigned and claimed by another between reading and writing is not deleted."""

    async def main(clock):
        etcd = MemoryEtcd(clock)
        holder = await _with_slots(etcd, clock)
        incarnation, lease = holder.session.incarnation, holder.session.lease
        writer = MemoryStore(etcd, clock=clock, name="other")
        delays = iter([0.0, 0.0, 0.5])
        holder.store.faults.request_delay_s = lambda: next(delays, 0.0)
        await holder.session.aclose()
        proof = asyncio.ensure_future(prove_dead(holder.store, KEYS, "s1", incarnation, b"", clock=clock))
        await asyncio.sleep(0.2)
        await writer.txn([created_at(KEYS.slot(2), etcd.get(KEYS.slot(2)).create_revision)], [Delete(KEYS.slot(2))])
        await writer.txn([], [Put(KEYS.slot(2), b"new leader")])
        assert await proof == lease
        assert etcd.get(KEYS.slot(1)) is None
        assert etcd.get(KEYS.slot(2)).value == b"new leader"

    run_virtual(main)


def test_a_proven_dead_holder_is_replaced_at_once():
    """If a tombstone exists for the present holder, the name is free without waiting."""

    async def main(clock):
        etcd = MemoryEtcd(clock)
        first, second = Holder(etcd, clock), Holder(etcd, clock)
        old = await first.session.start(b"")
        await first.session.aclose()
        await first.store.txn([], [Put(KEYS.tombstone("s1", old), b"")])
        begun = clock.monotonic()
        await second.session.start(b"")
        assert clock.monotonic() - begun < 0.5
        await second.session.aclose()

    run_virtual(main)


def test_a_word_is_shared_between_processes(tmp_path):
    """What one process publishes another reads, of the same file; a missing file is Invalid."""
    path = tmp_path / "word"
    word = SharedDeadline.create(path)
    assert word.read() == 0.0
    word.publish(123.25)
    script = f"from amino.coordination.deadline import SharedDeadline; print(SharedDeadline.open({str(path)!r}).read())"
    output = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert output.stdout.strip() == "123.25"
    reader = SharedDeadline.open(path)
    word.publish(5e9)
    assert reader.read() == 5e9
    with pytest.raises(TypeError):
        reader.publish(1.0)
    with pytest.raises(FileExistsError):
        SharedDeadline.create(path)
    reader.close()
    word.close()
    word.close()
    with pytest.raises(Invalid):
        SharedDeadline.open(tmp_path / "none")


def test_a_view_is_cheap_and_works_in_threads(tmp_path):
    """``valid`` costs well below a microsecond; ``wait_valid`` blocks in a plain thread."""
    word = SharedDeadline.create(tmp_path / "word")
    clock = RealClock()
    view = SessionView(word, clock, 7)
    assert not drive(view.wait_valid(0.02))
    word.publish(clock.boottime() + 1000)
    assert drive(view.wait_valid(0))
    assert min(timeit.repeat(view.valid, number=10_000, repeat=5)) / 10_000 < 2e-6  # generous: machines differ
    word.close()
