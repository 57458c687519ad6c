"""Events and timers of a sharded object, while shards come and go: simulated, with a subscriber that reads all along."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import amino
from amino.dm import DHT, AtLeastOnceRPC, ConsensusRSM, PeriodicCheckpoint, SerializableRPC
from amino.testing.simulation import simulate

AGAIN = AtLeastOnceRPC(timeout_s=30)
CHAINS = {
    "plain": [AGAIN, DHT(shards=2)],
    "checkpointed": [AGAIN, DHT(shards=2), PeriodicCheckpoint(every=1)],
    "replicated": [AGAIN, DHT(shards=2), ConsensusRSM()],
}


class Ticker:
    """Counts per key, tells of each count, and has timers of both kinds."""

    def __init__(self, ticks: bool = False) -> None:
        self.counts: dict[str, int] = {}
        self.fired: dict[str, int] = {}
        self.ticked = 0
        if ticks:
            amino.timer(self.tick, every_s=1.0, name="tick")

    @amino.key
    def add(self, key: str) -> int:
        """Count, and tell."""
        self.counts[key] = self.counts.get(key, 0) + 1
        amino.emit("added", (key, self.counts[key]))
        return self.counts[key]

    @amino.key
    def fire_later(self, key: str, after_s: float) -> None:
        """Have ``fire`` called for the key."""
        amino.timer(self.fire, after_s=after_s, name=f"fire {key}", args=(key,))

    @amino.key
    def fire(self, key: str) -> None:
        """What the timer does: only right where the key is."""
        assert key in self.counts
        self.fired[key] = self.fired.get(key, 0) + 1

    @amino.broadcast
    def later(self, after_s: float, name: str) -> None:
        """Have ``tick`` called once, on each shard, by a timer that belongs to no key."""
        amino.timer(self.tick, after_s=after_s, name=name, args=())

    def tick(self) -> None:
        """What the timer without a key does."""
        self.ticked += 1

    @amino.broadcast
    @amino.readonly
    def fired_all(self) -> dict[str, int]:
        """Return how often each key's timer has fired."""
        return self.fired

    @amino.broadcast
    @amino.readonly
    def timers(self) -> list[str]:
        """Return the names of all timers."""
        return [each.name for each in amino.timers()]

    @amino.broadcast
    @amino.readonly
    def ticks(self) -> int:
        """Return how often ``tick`` ran."""
        return self.ticked


async def gather(events: Any, expected: int, timeout_s: float = 30.0) -> list[Any]:
    """Return the payloads of the next events, so many."""
    found = []
    async with asyncio.timeout(timeout_s):
        while len(found) < expected:
            found.append((await anext(events)).payload)
    return found


def check_stream(found: list[Any], counts: dict[str, int]) -> None:
    """Fail unless every count of every key was told, each once."""
    assert sorted(found) == sorted((key, number) for key, last in counts.items() for number in range(1, last + 1))


@pytest.mark.parametrize("chain", CHAINS)
def test_a_subscriber_gets_every_event_once_while_shards_come_and_go(chain):
    """From two shards to four, to one and to three, with calls all the time; the stream has no gap and no repetition."""

    async def main(cluster):
        connected = cluster.client().cluster
        store = await amino.aio(connected.new)(amino.spec(Ticker, name="ticker", dms=CHAINS[chain]))
        counts: dict[str, int] = {}
        stopped = False

        async def call(number: int) -> None:
            turn = 0
            while not stopped:
                key = f"{number}-{turn % 7}"
                counts[key] = await amino.aio(store.add)(key)
                turn += 1
                await asyncio.sleep(0.02)

        found: list[Any] = []

        async def hear(event: amino.Event) -> None:
            found.append(event.payload)

        async def read() -> None:
            async with connected.subscribe(store, topic="added") as events:
                started.set()
                async for event in events:
                    await hear(event)

        started = asyncio.Event()
        reading = cluster.client().spawn(read(), "read")
        await started.wait()
        callers = [asyncio.ensure_future(call(number)) for number in range(3)]
        for shards in (4, 1, 3):
            await asyncio.sleep(0.5)
            await amino.aio(connected.scale)(store, shards=shards)
        await asyncio.sleep(0.5)
        stopped = True
        await asyncio.gather(*callers)
        total = sum(counts.values())
        await cluster.until(lambda: len(found) >= total, 30.0, "all events arrive")
        await asyncio.sleep(15.0)
        reading.cancel()
        check_stream(found, counts)

    simulate(main, 11)


def test_a_token_goes_on_after_shards_have_come_and_gone_meanwhile():
    """Also for events of a shard that came and went between two subscriptions; none is told twice."""

    async def main(cluster):
        connected = cluster.client().cluster
        store = await amino.aio(connected.new)(amino.spec(Ticker, name="ticker", dms=CHAINS["checkpointed"]))
        counts: dict[str, int] = {}

        async def add(keys: int) -> None:
            for number in range(keys):
                counts[str(number)] = await amino.aio(store.add)(str(number))

        async with connected.subscribe(store) as events:
            await add(8)
            first = await gather(events, 5)
            token = events.token
        await amino.aio(connected.scale)(store, shards=4)
        await add(12)
        await amino.aio(connected.scale)(store, shards=1)
        await add(4)
        async with connected.subscribe(store, after=token) as events:
            rest = await gather(events, sum(counts.values()) - 5)
            check_stream(first + rest, counts)
            token = events.token
        await amino.aio(connected.scale)(store, shards=2)
        async with connected.subscribe(store, after=token) as events:
            counts["0"] = await amino.aio(store.add)("0")
            assert await gather(events, 1) == [("0", counts["0"])]
        async with connected.subscribe(store, after="oldest") as events:
            check_stream(await gather(events, sum(counts.values())), counts)

    simulate(main, 12)


def test_a_token_goes_on_when_an_object_becomes_sharded_and_back():
    """A subscriber follows through changes of the managers, with the token of before."""

    async def main(cluster):
        connected = cluster.client().cluster
        single = [AGAIN, PeriodicCheckpoint(every=1), SerializableRPC()]
        store = await amino.aio(connected.new)(amino.spec(Ticker, name="ticker", dms=single))
        counts = {"a": await amino.aio(store.add)("a")}
        async with connected.subscribe(store, after="oldest") as events:
            found = await gather(events, 1)
            token = events.token
            await amino.aio(connected.apply)(amino.spec(Ticker, name="ticker", dms=CHAINS["checkpointed"]))
            for key in "abcdef":
                counts[key] = await amino.aio(store.add)(key)
            found += await gather(events, 6)
            check_stream(found, counts)
            await amino.aio(connected.apply)(amino.spec(Ticker, name="ticker", dms=single))
            for key in "abc":
                counts[key] = await amino.aio(store.add)(key)
            found += await gather(events, 3)
            check_stream(found, counts)
        async with connected.subscribe(store, after=token) as events:
            assert len(await gather(events, len(found) - 1)) == 9

    simulate(main, 13)


@pytest.mark.parametrize("chain", CHAINS)
def test_a_timer_whose_method_has_a_key_goes_where_the_key_goes(chain):
    """Each fires once, at the shard that has the key then, whether shards were added or removed meanwhile."""

    async def main(cluster):
        connected = cluster.client().cluster
        store = await amino.aio(connected.new)(amino.spec(Ticker, name="ticker", dms=CHAINS[chain]))
        keys = [f"key-{number}" for number in range(24)]
        for place, key in enumerate(keys):
            await amino.aio(store.add)(key)
            await amino.aio(store.fire_later)(key, 20.0 if place % 2 else 60.0)
        await amino.aio(connected.scale)(store, shards=4)
        await asyncio.sleep(25.0)
        assert await amino.aio(store.fired_all)() == dict.fromkeys(keys[1::2], 1)
        await amino.aio(connected.scale)(store, shards=1)
        await asyncio.sleep(60.0)
        assert await amino.aio(store.fired_all)() == dict.fromkeys(keys, 1)
        assert await amino.aio(store.timers)() == []

    simulate(main, 14)


def test_timers_without_a_key_go_to_the_heir_of_a_shard_that_leaves():
    """One that each shard has for itself is there once per shard that is left; others go on at the heir, under a free name."""

    async def main(cluster):
        connected = cluster.client().cluster
        store = await amino.aio(connected.new)(amino.spec(Ticker, name="ticker", dms=CHAINS["checkpointed"]), True)
        assert await amino.aio(store.timers)() == ["tick", "tick"]
        await amino.aio(store.later)(3600.0, "")
        assert sorted(await amino.aio(store.timers)()) == ["tick", "tick", "timer-2", "timer-2"]
        await amino.aio(connected.scale)(store, shards=1)
        assert sorted(await amino.aio(store.timers)()) == ["tick", "timer-2"]
        before = await amino.aio(store.ticks)()
        await asyncio.sleep(10.05)
        assert await amino.aio(store.ticks)() - before in (10, 11)

    simulate(main, 15)
