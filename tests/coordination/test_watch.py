"""The watched cache stays true: through compaction, lost and doubled events, partitions and stale answers."""

from __future__ import annotations

import asyncio
import random

import pytest

from amino.coordination.memory import Faults, MemoryStore
from amino.coordination.memory_etcd import MemoryEtcd
from amino.coordination.store import Delete, Put
from amino.coordination.watch import WatchedCache
from amino.errors import CoordinationUnavailable
from tests.coordination.virtual import run_virtual


class Setup:
    """One cache under ``/p/`` with a log of its changes, and a writer that no fault touches."""

    def __init__(self, clock, *, faults=None, **options):
        self.etcd = MemoryEtcd(clock)
        self.writer = MemoryStore(self.etcd, clock=clock, name="writer")
        self.store = MemoryStore(self.etcd, clock=clock, name="reader", faults=faults)
        self.log = []
        self.cache = WatchedCache(self.store, "/p/", self._changed, clock=clock, random=random.Random(1), **options)

    def _changed(self, key, new, old):
        self.log.append((key, new.value if new else None, old.value if old else None))

    async def put(self, name, value=b""):
        return (await self.writer.txn([], [Put(f"/p/{name}", value)])).revision

    async def delete(self, name):
        return (await self.writer.txn([], [Delete(f"/p/{name}")])).revision

    def true(self):
        """Whether cache and etcd agree."""
        return dict(self.cache.items()) == {record.key: record for record in self.etcd.list("/p/")[0]}


def test_follows_changes():
    """The first listing and each later change are reported once, with the record before."""

    async def main(clock):
        setup = Setup(clock)
        await setup.put("a", b"1")
        await setup.cache.start()
        await setup.put("a", b"2")
        await setup.put("b", b"1")
        revision = await setup.delete("a")
        await setup.cache.wait_revision(revision, 5)
        assert setup.log == [
            ("/p/a", b"1", None),
            ("/p/a", b"2", b"1"),
            ("/p/b", b"1", None),
            ("/p/a", None, b"2"),
        ]
        assert (len(setup.cache), "/p/b" in setup.cache, "/p/a" in setup.cache) == (1, True, False)
        await setup.cache.aclose()

    run_virtual(main)


def test_start_fails_honestly():
    """Without an answer the start raises, starts nothing, and can be repeated."""

    async def main(clock):
        setup = Setup(clock)
        setup.store.partition()
        with pytest.raises(CoordinationUnavailable):
            await setup.cache.start()
        setup.store.heal()
        await setup.cache.start()
        await setup.cache.aclose()

    run_virtual(main)


def test_lost_events_are_repaired():
    """Events that the watch swallows are found by the next listing, and reported as changes."""

    async def main(clock):
        setup = Setup(clock, faults=Faults(lose_event=lambda _: True), relist_every_s=30)
        await setup.put("gone", b"1")
        await setup.put("changed", b"1")
        await setup.cache.start()
        await setup.delete("gone")
        await setup.put("changed", b"2")
        await setup.put("new", b"1")
        await setup.cache.wait_for(setup.true, 40)
        assert sorted(setup.log[2:]) == sorted(
            [("/p/gone", None, b"1"), ("/p/changed", b"2", b"1"), ("/p/new", b"1", None)]
        )
        assert setup.cache.repairs == 3
        await setup.cache.aclose()

    run_virtual(main)


def test_doubled_events_are_dropped():
    """An event that comes twice is reported once, also a put that comes again after the key was deleted."""

    async def main(clock):
        setup = Setup(clock, faults=Faults(duplicate_event=lambda _: True))
        await setup.cache.start()
        setup.store.partition()  # so that all of it comes in one batch
        await setup.put("a", b"1")
        revision = await setup.delete("a")
        setup.store.heal()
        await setup.cache.wait_revision(revision, 5)
        assert setup.log == [("/p/a", b"1", None), ("/p/a", None, b"1")]
        await setup.cache.aclose()

    run_virtual(main)


def test_survives_compaction():
    """Cut off while history is compacted, it lists again and reports the difference."""

    async def main(clock):
        setup = Setup(clock)
        await setup.put("a", b"1")
        await setup.cache.start()
        setup.store.partition()
        await setup.delete("a")
        for number in range(5):
            revision = await setup.put("b", str(number).encode())
        setup.etcd.compact(revision)
        setup.store.heal()
        await setup.cache.wait_for(setup.true, 10)
        assert setup.log == [("/p/a", b"1", None), ("/p/b", b"4", None), ("/p/a", None, b"1")]
        assert setup.cache.reopenings >= 1
        await setup.cache.aclose()

    run_virtual(main)


def test_a_silent_watch_is_reopened():
    """A watch that shows no life is opened again; nothing is lost meanwhile."""

    async def main(clock):
        setup = Setup(clock, stall_s=6)
        await setup.cache.start()
        setup.store.partition()
        await asyncio.sleep(20)
        await setup.put("a", b"1")
        assert setup.log == []
        assert setup.cache.reopenings >= 1
        setup.store.heal()
        await setup.cache.wait_for(setup.true, 10)
        assert setup.log == [("/p/a", b"1", None)]
        await setup.cache.aclose()

    run_virtual(main)


def test_an_old_listing_changes_nothing_newer():
    """A listing that was read before later events arrives after them: neither deletions nor changes are undone."""

    async def main(clock):
        faults = Faults()
        setup = Setup(clock, faults=faults)
        await setup.put("deleted", b"1")
        await setup.put("changed", b"1")
        await setup.cache.start()
        faults.answer_delay_s = lambda: 1.0
        setup.cache.relist_soon()
        await asyncio.sleep(0.5)
        await setup.delete("deleted")
        await setup.put("changed", b"2")
        await setup.put("new", b"1")
        await setup.cache.wait_for(lambda: setup.cache.relists == 2, 10)
        assert setup.true()
        assert len(setup.log) == 5
        await setup.cache.aclose()

    run_virtual(main)


def test_values_are_decoded_once_and_late():
    """``decoded`` calls the decoder on first use, once per record, and again after a change."""

    async def main(clock):
        calls = []

        def decode(record):
            calls.append(record.value)
            return int(record.value)

        setup = Setup(clock, decode=decode)
        await setup.put("a", b"1")
        await setup.cache.start()
        assert calls == []
        assert [setup.cache.decoded("/p/a") for _ in range(3)] == [1, 1, 1]
        assert setup.cache.decoded("/p/x") is None
        await setup.cache.wait_revision(await setup.put("a", b"2"), 5)
        assert setup.cache.decoded("/p/a") == 2
        assert calls == [b"1", b"2"]
        await setup.cache.aclose()

    run_virtual(main)


def test_waiting_has_an_end():
    """``wait_for`` and ``wait_revision`` raise TimeoutError in time."""

    async def main(clock):
        setup = Setup(clock)
        await setup.cache.start()
        begun = clock.monotonic()
        with pytest.raises(TimeoutError):
            await setup.cache.wait_for(lambda: False, 2)
        with pytest.raises(TimeoutError):
            await setup.cache.wait_revision(10**9, 2)
        assert clock.monotonic() - begun == pytest.approx(4, abs=0.01)
        await setup.cache.aclose()

    run_virtual(main)


@pytest.mark.parametrize("seed", range(30))
def test_under_random_faults(seed):
    """Whatever the network does, the log of changes is a true history per key and the cache is right in the end."""

    async def main(clock):
        rng = random.Random(seed)
        faults = Faults(
            request_delay_s=lambda: rng.random() * 0.2,
            answer_delay_s=lambda: rng.choice([0, 0, rng.random() * 2]),
            watch_delay_s=lambda: rng.random() * 0.3,
            lose_event=lambda _: rng.random() < 0.02,
            duplicate_event=lambda _: rng.random() < 0.1,
        )
        setup = Setup(clock, faults=faults, relist_every_s=10)
        while True:
            try:
                await setup.cache.start()
                break
            except CoordinationUnavailable:
                continue
        for number in range(400):
            name = f"k{rng.randrange(6)}"
            await (setup.delete(name) if rng.random() < 0.3 else setup.put(name, str(number).encode()))
            await asyncio.sleep(rng.random() * 0.2)
            if rng.random() < 0.02:
                setup.etcd.compact(setup.etcd.revision)
            if rng.random() < 0.02:
                setup.store.partition()
            elif rng.random() < 0.2:
                setup.store.heal()
        setup.store.heal()
        await setup.cache.wait_for(setup.true, 60)
        known: dict[str, bytes | None] = {}
        for key, new, old in setup.log:
            assert known.get(key) == old
            assert new != old
            if new is not None and old is not None:
                assert int(new) > int(old)
            known[key] = new
        await setup.cache.aclose()

    run_virtual(main)
