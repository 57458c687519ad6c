"""Cordons at once: placement never uses one that it has not heard of, and a cordoned server hands its slots over."""

from __future__ import annotations

from amino.contracts.services import CordonRequest, DrainRequest, MoveRequest
from tests.coordination.virtual import run_virtual
from tests.oms.world import World


def _deaf(server) -> None:
    """Let the server not hear of changes of the cluster document by itself any more."""
    server.oms.directory._cluster._apply = lambda batch: None


def test_a_creation_right_after_a_cordon_goes_elsewhere():
    """Also where the slot's leader has not heard of the cordon, whether it makes the object itself or another does."""

    async def main(clock):
        async with World(clock) as world:
            await world.add("s1", "s2", "s3")
            for server in world.servers.values():
                _deaf(server)
            ids = [world.id_led_by(name) for name in ["s2", *["s3"] * 20]]
            await world.servers["s1"].registry.cordon(CordonRequest("s2"))
            made = [await world.create(at="s1", ms_id=ms_id) for ms_id in ids]
            assert "s2" not in {world.home(one.microservice).name for one in made}
            await world.settled()

    run_virtual(main)


def test_a_move_right_after_a_cordon_goes_elsewhere():
    """A leader that has not heard of the cordon learns of it when its write is refused, and decides again."""

    async def main(clock):
        async with World(clock) as world:
            await world.add("s1", "s2", "s3")
            ms_id = (await world.create()).microservice
            first = world.home(ms_id)
            wanted = min(name for name in world.servers if name != first.name)
            for server in world.servers.values():
                _deaf(server)
            await first.registry.cordon(CordonRequest(wanted))
            await first.registry.move(MoveRequest(microservice=ms_id))
            assert world.home(ms_id).name not in (first.name, wanted)
            await world.settled()

    run_virtual(main)


def test_a_cordoned_server_hands_its_slots_over():
    """Others lead all slots soon, and nothing fails meanwhile; opened, it leads its share again."""

    async def main(clock):
        async with World(clock) as world:
            await world.add("s1", "s2", "s3")
            led = world.servers["s2"].oms.reconciler.led
            assert len(led) > 20
            await world.servers["s1"].registry.cordon(CordonRequest("s2"))
            await world.until(lambda: not led, timeout_s=2.0)
            await world.elected()
            counts = sorted(len(server.oms.reconciler.led) for server in world.servers.values())
            assert counts == [0, 32, 32]
            await world.create()
            await world.servers["s1"].registry.cordon(CordonRequest("s2", cordon=False))
            await world.until(lambda: len(led) > 20, timeout_s=30.0)
            await world.settled()

    run_virtual(main)


def test_when_all_are_cordoned_they_lead_on():
    """Somebody has to: cordons of all servers are cordons of none, for slots."""

    async def main(clock):
        async with World(clock) as world:
            await world.add("s1", "s2")
            for name in ("s1", "s2"):
                await world.servers["s1"].registry.cordon(CordonRequest(name))
            await world.until(lambda: len(world.servers["s2"].oms.directory.cluster.cordoned) == 2)
            await world.elected()

    run_virtual(main)


def test_a_drain_keeps_the_reason_of_a_cordon_that_its_server_has_not_heard_of():
    """A server that shuts down right after an operator's cordon does not make it its own, to lift when it starts again."""

    async def main(clock):
        async with World(clock) as world:
            await world.add("s1", "s2")
            _deaf(world.servers["s2"])
            await world.servers["s1"].registry.cordon(CordonRequest("s2", why="new disk"))
            await world.servers["s2"].registry.drain(DrainRequest("s2", why="shutting down"))
            await world.until(lambda: world.servers["s1"].oms.directory.cluster.cordoned == {"s2": "new disk"})
            await world.servers["s1"].registry.drain(DrainRequest("s1", why="shutting down"))
            await world.until(lambda: world.servers["s1"].oms.directory.cluster.cordoned.get("s1") == "shutting down")

    run_virtual(main)
