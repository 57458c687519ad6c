"""A server that joined a moment ago: nothing is refused because the one that decides has not heard of it yet."""

from __future__ import annotations

import pytest

from amino.contracts.documents import Placement, Requirement
from amino.contracts.services import MoveRequest
from amino.errors import NoEligibleServer
from tests.coordination.virtual import run_virtual
from tests.oms.world import Server, World

ON_MARS = Placement(selector=((Requirement("region", "Equal", ("mars",)),),))


def test_a_creation_that_only_a_newcomer_may_have_is_not_refused():
    """The leader looks in etcd before it says that no server may have it, and says so where it is so."""

    async def main(clock):
        async with World(clock) as world:
            await world.add("s1")
            world.servers["s1"].oms.directory.servers_cache._apply = lambda batch: None
            with pytest.raises(NoEligibleServer, match="s1"):
                await world.create(placement=ON_MARS)
            world.servers["s2"] = await Server(world, "s2", 2, labels={"region": "mars"}).start()
            made = await world.create(placement=ON_MARS)
            assert world.home(made.microservice).name == "s2"

    run_virtual(main)


def test_a_move_to_the_only_other_server_that_came_just_now():
    """The same for a move without a target."""

    async def main(clock):
        async with World(clock) as world:
            await world.add("s1")
            made = await world.create()
            world.servers["s1"].oms.directory.servers_cache._apply = lambda batch: None
            world.servers["s2"] = await Server(world, "s2", 2).start()
            await world.servers["s1"].registry.move(MoveRequest(microservice=made.microservice))
            assert world.home(made.microservice).name == "s2"

    run_virtual(main)
