"""What has to wait says why, once it has waited for long."""

from __future__ import annotations

import asyncio

from amino.contracts.documents import Placement, Requirement
from tests.coordination.virtual import run_virtual
from tests.oms.world import World

ON_MARS = Placement(selector=((Requirement("region", "Equal", ("mars",)),),))


def _told(caplog) -> list[str]:
    return [one.getMessage() for one in caplog.records if "has waited for" in one.getMessage()]


def test_who_waits_for_long_is_named_with_the_reason(caplog) -> None:
    """One line while the reason is the same, none for what is placed at once, and another wait counts from its own beginning."""

    async def main(clock):
        async with World(clock) as world:
            await world.add("s1", "s2")
            await world.add("s3", labels={"region": "mars"})
            ms_id = (await world.create(durable=True, placement=ON_MARS)).microservice
            usual = (await world.create(durable=True)).microservice
            world.servers["s3"].die()
            await world.until(lambda: len(world.other_than(world.servers["s3"]).oms.directory.live) == 2)
            await asyncio.sleep(3)  # virtual, as below: nothing is told so soon
            assert not _told(caplog)
            await world.until(lambda: bool(_told(caplog)))
            await asyncio.sleep(30)  # nor is it told again
            (told,) = _told(caplog)
            assert told.startswith(f"{ms_id} has waited for ")
            assert "region" in told
            assert usual not in told
            await world.add("s4", labels={"region": "mars"})
            await world.until(lambda: world.document(ms_id).replicas[0].server == "s4")
            await world.settled()
            world.servers["s4"].die()
            await asyncio.sleep(5)
            assert len(_told(caplog)) == 1
            await world.until(lambda: len(_told(caplog)) == 2)

    run_virtual(main)
