"""A name that is given away again: no server sticks to its former holder."""

from __future__ import annotations

from amino.contracts.services import ByName, DeleteRequest
from tests.coordination.virtual import run_virtual
from tests.oms.world import World


def test_a_name_leads_to_its_new_holder_through_any_server() -> None:
    """A server that knew the deleted holder of a name describes and deletes the new one, at once."""

    async def main(clock):
        async with World(clock) as world:
            await world.add("s1", "s2", "s3")
            registries = [server.registry for server in world.servers.values()]
            first = await world.create(name="hits")
            for registry in registries:
                assert (await registry.describe(ByName(name="hits"))).id == first.microservice
            await registries[0].delete(DeleteRequest(name="hits"))
            second = await world.create(name="hits")
            for registry in registries:
                assert (await registry.describe(ByName(name="hits"))).id == second.microservice
            await registries[2].delete(DeleteRequest(name="hits"))

    run_virtual(main)
