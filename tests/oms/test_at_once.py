"""Creations that take one write: where the leader itself makes what runs nobody's code."""

from __future__ import annotations

import asyncio

import pytest

from amino.coordination.memory import Fate
from amino.errors import AlreadyExists, AminoError
from tests.coordination.virtual import run_virtual
from tests.oms.world import World

PLAIN = "shop:Plain"


def test_one_write_makes_it_and_it_serves() -> None:
    """The leader's own kernel makes it; record, name and confirmed document have one revision."""

    async def main(clock):
        async with World(clock) as world:
            await world.add("s1", "s2")
            location = await world.create(ms_id=world.id_led_by("s2"), cls=PLAIN, name="hits")
            assert location.created
            assert location.groups["/"].replicas[0].server == "s2"
            assert world.servers["s2"].kernel.commands == ["make"]
            kept = world.values()
            assert len({kept[kind][0].mod_revision for kind in ("microservices", "names", "groups")}) == 1
            assert not world.problems()

    run_virtual(main)


def test_what_is_refused_leaves_nothing() -> None:
    """A name that is taken is told as ever, and the object made for it is gone; the id repeated finds its own."""

    async def main(clock):
        async with World(clock) as world:
            await world.add("s1", "s2")
            mine = world.id_led_by("s1")
            await world.create(ms_id=mine, cls=PLAIN, name="hits")
            with pytest.raises(AlreadyExists, match="taken"):
                await world.create(ms_id=world.id_led_by("s2"), cls=PLAIN, name="hits")
            got = await world.create(ms_id=world.id_led_by("s2"), cls=PLAIN, name="hits", if_exists="get")
            again = await world.create(ms_id=mine, cls=PLAIN, name="hits")
            assert got.microservice == again.microservice == mine
            assert not world.problems()
            assert len(world.values()["groups"]) == 1

    run_virtual(main)


@pytest.mark.parametrize("fate", [Fate.LOST, Fate.LANDS_LATER, Fate.ANSWER_LOST])
def test_a_write_of_unknown_outcome_is_settled(fate) -> None:
    """Whether the lost write had landed or not, there is one object, and it serves."""

    async def main(clock):
        async with World(clock) as world:
            await world.add("s1", "s2")
            fates = [fate]
            world.servers["s1"].store.faults.fate = lambda writes: fates.pop() if writes and fates else Fate.ANSWERED
            location = await world.create(ms_id=world.id_led_by("s1"), cls=PLAIN, name="hits")
            assert not fates
            await asyncio.sleep(10.0)  # by then a write that lands later has
            assert location.groups["/"].replicas[0].server == "s1"
            assert not world.problems()

    run_virtual(main)


def test_racing_creations_of_a_name_make_one() -> None:
    """Through several leaders at once; the losers leave nothing."""

    async def main(clock):
        async with World(clock) as world:
            await world.add("s1", "s2")
            ids = [world.id_led_by(name) for name in ("s1", "s2") * 4]
            results = await asyncio.gather(
                *(world.create(ms_id=ms_id, cls=PLAIN, name="hits") for ms_id in ids), return_exceptions=True
            )
            assert sum(not isinstance(result, AminoError) for result in results) == 1
            await world.settled()
            assert len(world.values()["groups"]) == 1

    run_virtual(main)


def test_load_still_decides_where() -> None:
    """A leader that has clearly more than others gives it away, in two writes."""

    async def main(clock):
        async with World(clock) as world:
            await world.add("s1", "s2")
            for _ in range(6):
                await world.create(ms_id=world.id_led_by("s1"), cls=PLAIN)
            made = [len(server.kernel.objects) for server in world.servers.values()]
            assert made == [3, 3]

    run_virtual(main)
