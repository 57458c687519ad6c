"""Following the history: what is newer than a revision, without asking again and again."""

import asyncio

import pytest

from amino.contracts.services import EventsRequest, MoveRequest
from amino.errors import NoEligibleServer
from amino.oms import event_feed
from amino.oms.service import ranges
from tests.coordination.virtual import run_virtual
from tests.oms.world import World


def test_news_comes_to_those_who_wait():
    """A wait ends with the first event after the revision given, and tells no event twice."""

    async def main(clock):
        async with World(clock) as world:
            await world.add("s1", "s2")
            registry = world.servers["s1"].registry
            ms_id = (await world.create()).microservice
            await world.settled()
            await world.until(lambda: any(b"created" in event.value for event in world.values().get("events", [])))
            known = (await registry.events(EventsRequest())).events
            after = max(event.revision for event in known)
            waiting = asyncio.ensure_future(registry.events(EventsRequest(after, 20.0)))
            await asyncio.sleep(1.0)
            target = world.other_than(world.home(ms_id))
            await registry.move(MoveRequest(microservice=ms_id, server=target.name))
            news = (await waiting).events
            while "moved" not in [event.kind for event in news]:  # elections and others may come before it
                news = (await registry.events(EventsRequest(max(one.revision for one in news), 20.0))).events
            assert all(event.revision > after for event in news)

    run_virtual(main)


def test_no_news_is_told_after_the_wait():
    """Without news the answer is empty, once the time is over; a wait is bounded."""

    async def main(clock):
        async with World(clock) as world:
            await world.add("s1")
            registry = world.servers["s1"].registry
            await asyncio.sleep(5.0)
            after = max(event.revision for event in (await registry.events(EventsRequest())).events)
            began = clock.monotonic()
            assert (await registry.events(EventsRequest(after, 1000.0))).events == ()
            assert clock.monotonic() - began <= event_feed.EVENTS_WAIT_S_MAX + 1.0

    run_virtual(main)


def test_nothing_is_watched_for_nobody():
    """Some time after the last question the watch is closed; the next question opens another."""

    async def main(clock):
        async with World(clock) as world:
            await world.add("s1")
            events = world.servers["s1"].oms.events
            assert "None" in repr(events._feed)
            assert await events.after(0, 0.0) is not None
            assert "WatchedCache" in repr(events._feed)
            await asyncio.sleep(event_feed.IDLE_S + 5.0)
            assert "None" in repr(events._feed)
            assert {event.kind for event in await events.after(0, 1.0)} >= {"elected"}

    run_virtual(main)


def test_elections_and_refusals_are_told():
    """A server that comes to lead slots says so in one event; a creation that no server fits is told, too."""

    async def main(clock):
        async with World(clock) as world:
            await world.add("s1")
            await asyncio.sleep(5.0)
            registry = world.servers["s1"].registry
            elected = [event for event in (await registry.events(EventsRequest())).events if event.kind == "elected"]
            assert 1 <= len(elected) <= 4
            assert elected[0].server == "s1"
            with pytest.raises(NoEligibleServer):
                await registry.move(MoveRequest(microservice=(await world.create()).microservice))
            await asyncio.sleep(2.0)
            refused = [event for event in (await registry.events(EventsRequest())).events if event.kind == "refused"]
            assert [event.text.partition(":")[0] for event in refused] == ["move"]

    run_virtual(main)


def test_slots_are_told_in_few_words():
    """Runs of neighbours are told by their ends."""
    assert ranges([0, 1, 2, 3, 9, 11, 12]) == "0-3, 9, 11-12"
    assert ranges([5]) == "5"
