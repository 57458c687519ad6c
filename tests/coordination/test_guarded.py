"""The guarded writer: many callers, few transactions, and to each the answer it would have had alone."""

from __future__ import annotations

import asyncio
import random

import pytest

from amino.coordination.guarded import GuardedWriter
from amino.coordination.memory import Fate, MemoryStore
from amino.coordination.memory_etcd import MemoryEtcd
from amino.coordination.store import Delete, Get, Put, absent, unchanged
from amino.errors import Conflict, CoordinationUnavailable, Invalid, Overloaded
from tests.coordination.virtual import run_virtual


def _made(clock, **options):
    etcd = MemoryEtcd(clock)
    store = MemoryStore(etcd, clock=clock)
    return etcd, store, GuardedWriter(store, **options)


def test_concurrent_writes_share_transactions():
    """Hundreds of writes under one guard take a handful of transactions; each caller gets its own reads."""

    async def main(clock):
        etcd, store, writer = _made(clock)
        await store.txn([], [Put("/slot", b"me")])
        guard = unchanged("/slot", etcd.revision)

        async def write(number):
            key = f"/{number}"
            result = await writer.write([guard, absent(key)], [Put(key, str(number).encode()), Get(key)])
            assert result.succeeded
            return result.reads[0][0].value

        values = await asyncio.gather(*(write(number) for number in range(300)))
        assert values == [str(number).encode() for number in range(300)]
        assert writer.transactions <= 6
        await writer.aclose()

    run_virtual(main)


def test_a_second_transaction_begins_only_for_many_writes():
    """While one is under way further writes gather: many small transactions would cost more than waiting."""

    async def main(clock):
        _, store, writer = _made(clock, gather=4)
        store.faults.request_delay_s = lambda: 0.1
        first = asyncio.ensure_future(writer.write([], [Put("/first", b"")]))
        await asyncio.sleep(0.01)
        few = [asyncio.ensure_future(writer.write([], [Put(f"/few/{n}", b"")])) for n in range(3)]
        await asyncio.sleep(0.01)
        assert writer.transactions == 1
        last = asyncio.ensure_future(writer.write([], [Put("/few/3", b"")]))
        await asyncio.sleep(0.01)
        assert writer.transactions == 2
        await asyncio.gather(first, *few, last)
        await writer.aclose()

    run_virtual(main)


def test_one_that_fails_does_not_fail_the_others():
    """If a combined transaction's compares fail, each part is tried alone and hears its own outcome."""

    async def main(clock):
        etcd, store, writer = _made(clock)
        await store.txn([], [Put("/taken", b"")])
        results = await asyncio.gather(
            *(writer.write([absent(key)], [Put(key, b"1")]) for key in ("/a", "/taken", "/b"))
        )
        assert [result.succeeded for result in results] == [True, False, True]
        assert etcd.get("/taken").value == b""
        lease = await store.grant(2)
        await store.revoke(lease)
        outcomes = await asyncio.gather(
            writer.write([], [Put("/c", b"")]), writer.write([], [Put("/d", b"", lease)]), return_exceptions=True
        )
        assert outcomes[0].succeeded
        assert isinstance(outcomes[1], Conflict)
        await writer.aclose()

    run_virtual(main)


def test_writes_that_see_each_other_stay_apart():
    """Two writes guarded by the same revision of one key: exactly one succeeds, although both wait at once."""

    async def main(clock):
        _, store, writer = _made(clock)
        revision = (await store.txn([], [Put("/doc", b"0")])).revision
        results = await asyncio.gather(
            *(writer.write([unchanged("/doc", revision)], [Put("/doc", str(n).encode())]) for n in range(10))
        )
        assert [result.succeeded for result in results].count(True) == 1
        await writer.aclose()

    run_virtual(main)


def test_no_answer_is_unknown_to_all():
    """Without an answer every part is told so, and nothing is repeated behind its back."""

    async def main(clock):
        etcd, store, writer = _made(clock)
        store.faults.fate = lambda _: Fate.LANDS_LATER
        outcomes = await asyncio.gather(
            *(writer.write([absent(key)], [Put(key, b"")]) for key in ("/a", "/b")), return_exceptions=True
        )
        assert [type(outcome) for outcome in outcomes] == [CoordinationUnavailable] * 2
        assert etcd.get("/a") is None
        await asyncio.sleep(10)
        assert etcd.get("/a").mod_revision == etcd.get("/b").mod_revision
        await writer.aclose()

    run_virtual(main)


def test_bounds():
    """A full queue and an impossible write are refused at once; after closing nothing is taken."""

    async def main(clock):
        etcd, _, writer = _made(clock, queue_max=3)
        outcomes = await asyncio.gather(
            *(writer.write([], [Put(f"/{n}", b"")]) for n in range(5)), return_exceptions=True
        )
        assert [type(outcome) for outcome in outcomes[3:]] == [Overloaded] * 2
        assert all(outcome.succeeded for outcome in outcomes[:3])
        with pytest.raises(Invalid):
            await writer.write([], [Put("/a", b""), Put("/a", b"")])
        assert (await writer.write([], [Delete("/", prefix=True)])).succeeded
        assert etcd.list("/")[0] == []
        await writer.aclose()
        with pytest.raises(CoordinationUnavailable):
            await writer.write([], [Put("/a", b"")])

    run_virtual(main)


@pytest.mark.parametrize("seed", range(20))
def test_counters_lose_nothing(seed):
    """Guarded increments through the writer add up, under delays and lost answers."""

    async def main(clock):
        rng = random.Random(seed)
        etcd, store, writer = _made(clock)
        store.faults.request_delay_s = lambda: rng.random() * 0.05
        unknown = 0
        store.faults.fate = lambda writes: Fate.LOST if writes and rng.random() < 0.05 else Fate.ANSWERED

        async def increment():
            nonlocal unknown
            key = f"/{rng.randrange(4)}"
            while True:
                record = etcd.get(key)
                revision, value = (record.mod_revision, int(record.value)) if record else (0, 0)
                try:
                    put = Put(key, str(value + 1).encode())
                    if (await writer.write([unchanged(key, revision)], [put])).succeeded:
                        return
                except CoordinationUnavailable:
                    unknown += 1

        await asyncio.gather(*(increment() for _ in range(100)))
        assert sum(int(record.value) for record in etcd.list("/")[0]) == 100
        await writer.aclose()

    run_virtual(main)


def test_whatever_ends_a_transaction_nobody_waits_for_ever():
    """An error that no store should raise, and the writer's end in the middle, are an unknown outcome to all who wait."""

    class Broken(MemoryStore):
        """A store with a bug."""

        async def txn(self, compares, then, otherwise=()):
            await asyncio.sleep(0.1)
            raise RuntimeError("not what a store raises")

    async def main(clock):
        failures = []
        store = Broken(MemoryEtcd(clock), clock=clock)
        writer = GuardedWriter(store)
        writer._tasks._on_failure = failures.append
        writes = [asyncio.ensure_future(writer.write([], [Put(f"/{n}", b"")])) for n in range(3)]
        async with asyncio.timeout(5):
            outcomes = await asyncio.gather(*writes, return_exceptions=True)
            await writer.aclose()
        assert [type(one) for one in outcomes] == [CoordinationUnavailable] * 3
        assert "RuntimeError" in str(outcomes[0])
        assert [type(one) for one in failures] == [RuntimeError]

    run_virtual(main)
