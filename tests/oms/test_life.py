"""A microservice's life on three simulated servers: create, find, lose, recover, move, delete."""

from __future__ import annotations

import asyncio

import pytest

from amino.contracts.services import ByName, DeleteRequest, EventsRequest, LocateRequest, MoveRequest
from amino.errors import AlreadyExists, ConstructionFailed, NoEligibleServer, NotFound, StateLost
from tests.coordination.virtual import run_virtual
from tests.oms.fake_kernel import raises, unloadable_at
from tests.oms.world import World


def test_a_created_microservice_is_found_from_every_server() -> None:
    """Created through one server, it is located through all, serving at one place."""

    async def main(clock):
        async with World(clock) as world:
            await world.add("s1", "s2", "s3")
            location = await world.create(name="hits")
            assert location.created
            assert location.methods == {"add": 0}
            for name in world.servers:
                request = LocateRequest(name="hits", wait_s=1.0)
                found = await world.servers[name].registry.locate(request)
                assert found.groups == location.groups
            assert world.home(location.microservice).name == location.groups["/"].replicas[0].server
            await world.settled()

    run_virtual(main)


def test_fifty_racing_clients_make_one() -> None:
    """get_or_create from fifty clients at once makes one microservice and all get it."""

    async def main(clock):
        async with World(clock) as world:
            await world.add("s1", "s2", "s3")
            names = list(world.servers)
            results = await asyncio.gather(
                *(world.create(at=names[n % 3], name="hits", if_exists="get") for n in range(50))
            )
            assert len({one.microservice for one in results}) == 1
            assert sum(one.created for one in results) == 1
            await world.settled()

    run_virtual(main)


def test_a_taken_name_is_refused_with_its_holder() -> None:
    """AlreadyExists names the holder, and nothing is left of the refused creation."""

    async def main(clock):
        async with World(clock) as world:
            await world.add("s1", "s2")
            first = await world.create(name="hits")
            with pytest.raises(AlreadyExists, match=first.microservice):
                await world.create(name="hits", at="s2")
            await world.settled()
            assert len(world.values()["microservices"]) == 1

    run_virtual(main)


def test_the_same_creation_twice_makes_one() -> None:
    """A retried creation finds what the first try made; another content under that id is refused."""

    async def main(clock):
        async with World(clock) as world:
            await world.add("s1", "s2")
            ms_id = world.new_id()
            first, second = await asyncio.gather(world.create(ms_id=ms_id), world.create(ms_id=ms_id, at="s2"))
            assert first == second
            with pytest.raises(AlreadyExists):
                await world.create(ms_id=ms_id, cls="shop:Other")

    run_virtual(main)


def test_a_constructor_that_raises_leaves_nothing() -> None:
    """ConstructionFailed reaches the caller; no key and no object remain, and the name is free again."""

    async def main(clock):
        async with World(clock) as world:
            await world.add("s1", "s2")
            world.behaviour["shop:Bad"] = raises
            with pytest.raises(ConstructionFailed, match="ValueError"):
                await world.create(cls="shop:Bad", name="hits")
            assert not {"microservices", "groups", "names"} & set(world.values())
            await world.create(name="hits")

    run_virtual(main)


def test_servers_that_cannot_load_the_class_are_passed_over() -> None:
    """Creation ends at the one server that can load it; describe says why not at the others."""

    async def main(clock):
        async with World(clock) as world:
            await world.add("s1", "s2", "s3")
            world.behaviour["shop:Rare"] = unloadable_at("s1", "s2")
            locations = [await world.create(cls="shop:Rare") for _ in range(6)]
            assert {one.groups["/"].replicas[0].server for one in locations} == {"s3"}
            passed_over = next(one.microservice for one in locations if one.groups["/"].epoch > 1)
            description = await world.servers["s1"].registry.describe(ByName(microservice=passed_over))
            assert "No module named 'shop'" in "\n".join(description.explanation)
            world.behaviour["shop:Rare"] = unloadable_at("s1", "s2", "s3")
            with pytest.raises(NoEligibleServer, match="s3"):
                await world.create(cls="shop:Rare")
            await world.settled()

    run_virtual(main)


def test_deleting_leaves_no_trace() -> None:
    """After delete nothing of the microservice is left in etcd, in kernels or in the checkpoint store."""

    async def main(clock):
        async with World(clock) as world:
            await world.add("s1", "s2", "s3")
            location = await world.create(name="hits", durable=True)
            home = world.home(location.microservice)
            await world.servers["s2"].registry.delete(DeleteRequest(name="hits"))
            assert set(world.values()) <= {"servers", "beats", "slots", "events"}
            assert home.kernel.destroyed == [location.microservice]
            assert not world.checkpoints
            with pytest.raises(NotFound):
                await world.servers["s3"].registry.locate(LocateRequest(name="hits"))
            with pytest.raises(NotFound):
                await world.servers["s1"].registry.delete(DeleteRequest(name="hits"))
            await world.settled()

    run_virtual(main)


def test_a_lost_server_s_durable_microservice_comes_back_elsewhere() -> None:
    """After a crash it is restored from its checkpoint at another server, at the next epoch, within milliseconds."""

    async def main(clock):
        async with World(clock) as world:
            await world.add("s1", "s2", "s3")
            location = await world.create(durable=True)
            ms_id = location.microservice
            home = world.home(ms_id)
            world.checkpoints[ms_id] = 41
            began = clock.monotonic()
            home.die()
            stale = LocateRequest(
                microservice=ms_id, stale={"/": 1}, stale_incarnation=(home.name, home.incarnation), wait_s=5.0
            )
            found = await world.other_than(home).registry.locate(stale)
            assert clock.monotonic() - began < 0.7
            assert found.groups["/"].epoch == 2
            assert world.home(ms_id).kernel.objects[ms_id].value == 41
            await world.settled()

    run_virtual(main)


def test_state_kept_in_memory_only_is_reported_lost() -> None:
    """Without checkpoints and with on_loss=fail calls learn of the loss and the remedy; restore constructs anew."""

    async def main(clock):
        async with World(clock) as world:
            await world.add("s1", "s2", "s3")
            ms_id = (await world.create()).microservice
            home = world.home(ms_id)
            home.die()
            await world.until(lambda: world.document(ms_id).phase == "lost")
            with pytest.raises(StateLost, match="amino restore"):
                await world.locate(ms_id)
            restored = await world.other_than(home).registry.restore(ByName(microservice=ms_id))
            assert restored.restored_from == "construct"
            await world.settled()

    run_virtual(main)


def test_a_stateless_service_is_made_again() -> None:
    """With on_loss=recreate the constructor runs again at another server."""

    async def main(clock):
        async with World(clock) as world:
            await world.add("s1", "s2", "s3")
            ms_id = (await world.create(on_loss="recreate")).microservice
            home = world.home(ms_id)
            home.die()
            await world.until(lambda: world.document(ms_id).epoch == 2)
            await world.settled()
            assert world.home(ms_id) is not home

    run_virtual(main)


def test_a_move_keeps_the_state() -> None:
    """The object's number goes with it to the server asked for; the source holds nothing after."""

    async def main(clock):
        async with World(clock) as world:
            await world.add("s1", "s2", "s3")
            ms_id = (await world.create()).microservice
            source = world.home(ms_id)
            source.kernel.objects[ms_id].value = 7
            target = world.other_than(source)
            location = await world.servers["s1"].registry.move(MoveRequest(microservice=ms_id, server=target.name))
            assert location.groups["/"].replicas[0].server == target.name
            assert target.kernel.objects[ms_id].value == 7
            assert ms_id not in source.kernel.objects
            await world.settled()
            await world.until(lambda: any(b"moved" in event.value for event in world.values().get("events", [])))
            events = (await world.servers["s1"].registry.events(EventsRequest())).events
            assert {"server-joined", "created", "moved"} <= {event.kind for event in events}

    run_virtual(main)
