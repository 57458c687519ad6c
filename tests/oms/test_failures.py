"""What goes wrong around a slot leader: poison, stale lists, lost and late writes, bad stores, pauses, failed moves."""

from __future__ import annotations

import asyncio

import pytest

from amino.contracts.documents import DmSpec
from amino.contracts.services import (
    ByName,
    ClearDeathsRequest,
    CordonRequest,
    DeleteRequest,
    DrainRequest,
    EventsRequest,
    MoveRequest,
    PauseRequest,
)
from amino.coordination.memory import Fate
from amino.errors import (
    Conflict,
    Invalid,
    NoEligibleServer,
    NotExecuted,
    NotFound,
    OutcomeUnknown,
    Quarantined,
    StateLost,
    StoreFailed,
)
from amino.ids import slot_of
from tests.coordination.virtual import run_virtual
from tests.oms.fake_kernel import disk_full_at, kills, unloadable_at
from tests.oms.world import World


def test_a_stale_member_list_costs_no_live_server_anything() -> None:
    """A leader that believes a live server gone neither takes its objects nor stops it, and comes to know better."""

    async def main(clock):
        async with World(clock) as world:
            await world.add("s1", "s2", "s3")
            ids = [(await world.create(durable=True)).microservice for _ in range(30)]
            victim = world.servers["s3"]
            mine = [ms_id for ms_id in ids if world.home(ms_id) is victim]
            assert mine
            key = world.keys.server("s3")
            record = world.etcd.get(key)
            for name in ("s1", "s2"):
                world.servers[name].oms.directory._server_changed(key, None, record)
            await asyncio.sleep(40)  # virtual; includes a periodic listing
            assert victim.alive
            assert "fence" not in victim.kernel.commands
            assert all(world.home(ms_id) is victim and world.document(ms_id).epoch == 1 for ms_id in mine)
            await world.settled()

    run_virtual(main)


def test_a_server_without_tombstone_is_told_to_stop_first() -> None:
    """A lease that ended early leaves a process alive: it is fenced before its objects are made anew."""

    async def main(clock):
        async with World(clock) as world:
            await world.add("s1", "s2", "s3")
            ms_id = (await world.create(durable=True)).microservice
            home = world.home(ms_id)
            await world.admin.revoke(home.lease)  # its keys go while the process lives on
            await world.until(lambda: not home.alive)
            await world.elected()
            await world.settled()
            assert home.kernel.commands[-1] == "fence"
            assert world.home(ms_id) is not home

    run_virtual(main)


def test_every_loss_is_told_once_whoever_led_the_slot_of_its_name() -> None:
    """The history has each lost server, also one that led the slot of its own name, which is then told by its successor."""

    async def main(clock):
        async with World(clock) as world:
            await world.add("s1", "s2", "s3", "s4")
            own = [each for each in world.servers.values() if slot_of(each.name) in each.oms.reconciler.led]
            others = [each for each in world.servers.values() if each not in own]
            assert own
            assert others
            lost = [own[0], others[0]]
            for victim in lost:
                victim.die()
                await world.until(lambda victim=victim: victim.name not in world.other_than(*lost).oms.directory.live)
                await world.elected()
            await asyncio.sleep(10)  # virtual
            events = (await world.other_than(*lost).registry.events(EventsRequest())).events
            told = [event.server for event in events if event.kind == "server-lost"]
            assert told == [victim.name for victim in lost]

    run_virtual(main)


@pytest.mark.parametrize("fate", [Fate.LOST, Fate.ANSWER_LOST, Fate.LANDS_LATER])
@pytest.mark.parametrize("later_s", [0.6, 3.0])
@pytest.mark.parametrize("name", ["create", "delete", "move", "recover"])
def test_writes_of_unknown_outcome_are_settled(fate, later_s, name) -> None:
    """Whichever write of the leader times out, lands late or is lost, the operation ends rightly, then and later."""

    async def main(clock):
        for nth in range(1, 6):
            async with World(clock) as world:
                await world.add("s1", "s2", "s3", "s4")
                ms_id = world.id_led_by("s1")
                if name != "create":
                    await world.create(at="s2", ms_id=ms_id, durable=True)
                await asyncio.sleep(0.2)
                leader = world.servers["s1"]
                writes = 0

                def choose(write: bool, nth=nth) -> Fate:
                    nonlocal writes
                    writes += write
                    return fate if write and writes == nth else Fate.ANSWERED

                leader.store.faults.fate = choose
                leader.store.faults.land_later_s = lambda: later_s
                if name == "create":
                    await world.create(at="s2", ms_id=ms_id, durable=True, name="hits")
                elif name == "delete":
                    await world.servers["s2"].registry.delete(DeleteRequest(microservice=ms_id))
                elif name == "move":
                    await world.servers["s2"].registry.move(MoveRequest(microservice=ms_id))
                elif world.home(ms_id) is leader:
                    continue
                else:
                    world.home(ms_id).die()
                await asyncio.sleep(10)  # virtual: whatever was to land late has landed
                await world.settled()
                if name == "delete":
                    assert not {"microservices", "groups", "names"} & set(world.values())
                else:
                    assert world.home(ms_id)

    run_virtual(main)


def test_poison_is_quarantined_after_three_processes() -> None:
    """An object whose restore kills its process takes three servers with it, then is left alone until released."""

    async def main(clock):
        async with World(clock) as world:
            await world.add("s1", "s2", "s3", "s4", "s5")
            ms_id = (await world.create(durable=True)).microservice
            other = (await world.create(durable=True)).microservice
            world.behaviour["shop:Counter"] = lambda server, request: (
                kills(server, request) if request.microservice == ms_id else None
            )
            world.home(ms_id).die(suspects=((ms_id, "add"),))
            await world.until(lambda: world.document(ms_id).phase == "quarantined")
            assert world.document(ms_id).deaths["__restore__"] == 3
            assert sum(server.alive for server in world.servers.values()) == 1
            survivor = world.other_than()
            with pytest.raises(Quarantined, match="amino release"):
                await world.locate(ms_id)
            await world.settled()
            assert world.home(other) is survivor
            world.behaviour.clear()
            await survivor.registry.release(ByName(microservice=ms_id))
            await world.settled()
            assert world.home(ms_id) is survivor
            with pytest.raises(Conflict, match="not quarantined"):
                await survivor.registry.release(ByName(microservice=ms_id))

    run_virtual(main)


def test_only_deaths_in_a_row_count() -> None:
    """A suspected method that completes at the new replica clears its count; suspects of others do not count."""

    async def main(clock):
        async with World(clock) as world:
            await world.add("s1", "s2", "s3", "s4")
            ms_id = (await world.create(durable=True)).microservice
            for _ in range(2):
                world.home(ms_id).die(suspects=((ms_id, "add"), ("somebody-else", "add")))
                await world.until(lambda: not world.problems())
            assert world.document(ms_id).deaths == {"add": 2}
            replica = world.document(ms_id).replicas[0].id
            request = ClearDeathsRequest(ms_id, "/", replica, ("add",))
            await world.other_than().registry.clear_deaths(request)
            assert world.document(ms_id).deaths == {}

    run_virtual(main)


def test_a_constructor_that_kills_is_quarantined_too() -> None:
    """Creation of poison ends with Quarantined after three processes, not in a loop."""

    async def main(clock):
        async with World(clock) as world:
            await world.add("s1", "s2", "s3", "s4", "s5")
            world.behaviour["shop:Bomb"] = kills
            ms_id = world.id_led_by("s5")
            world.servers["s5"].record = world.servers["s5"].record  # s5 asks; it may be a victim as well
            with pytest.raises(Quarantined):
                await world.create(at="s5", ms_id=ms_id, cls="shop:Bomb", placement=_not("s5"))
            assert world.servers["s5"].alive

    run_virtual(main)


def _not(name: str):
    from amino.contracts.documents import Placement, Requirement

    return Placement(selector=((Requirement("host", "NotIn", (name,)),),))


def test_nothing_is_recovered_while_paused() -> None:
    """A paused cluster leaves lost objects alone, still creates what is asked for, and recovers at resume."""

    async def main(clock):
        async with World(clock) as world:
            await world.add("s1", "s2", "s3")
            ms_id = (await world.create(durable=True)).microservice
            home = world.home(ms_id)
            asked = world.other_than(home).registry
            await asked.pause(PauseRequest(paused=True))
            await asyncio.sleep(0.1)
            home.die()
            await world.elected()
            await asyncio.sleep(20)
            assert world.document(ms_id).epoch == 1
            await world.create(at=world.other_than(home).name)
            await asked.pause(PauseRequest(paused=False))
            await world.settled()
            assert world.document(ms_id).epoch == 2

    run_virtual(main)


def test_a_corrupt_checkpoint_is_reported_and_restore_says_how_it_went() -> None:
    """No intact checkpoint: StateLost with the reason; restore then constructs anew and says so."""

    async def main(clock):
        async with World(clock) as world:
            await world.add("s1", "s2", "s3")
            ms_id = (await world.create(durable=True)).microservice
            world.corrupt.add(ms_id)
            home = world.home(ms_id)
            home.die()
            await world.until(lambda: world.document(ms_id).phase == "lost")
            asked = world.other_than(home).registry
            with pytest.raises(StateLost, match="checksum"):
                await world.locate(ms_id)
            restored = await asked.restore(ByName(microservice=ms_id))
            assert restored.restored_from == "construct"
            with pytest.raises(Conflict, match="not lost"):
                await asked.restore(ByName(microservice=ms_id))
            await world.settled()

    run_virtual(main)


def test_a_store_that_fails_at_one_server_sends_the_object_to_another() -> None:
    """Recovery goes to a server whose store works; with none it keeps trying until one does."""

    async def main(clock):
        async with World(clock) as world:
            await world.add("s1", "s2", "s3")
            ms_id = (await world.create(durable=True)).microservice
            home = world.home(ms_id)
            others = [server.name for server in world.servers.values() if server is not home]
            world.behaviour["shop:Counter"] = disk_full_at(*others)
            home.die()
            await asyncio.sleep(30)
            assert world.document(ms_id).phase == "active"
            world.behaviour["shop:Counter"] = disk_full_at(others[0])
            await world.settled()
            assert world.home(ms_id).name == others[1]

    run_virtual(main)


def test_creation_with_a_full_disk_says_so() -> None:
    """StoreFailed reaches the creator when no server can store the first checkpoint; nothing is left."""

    async def main(clock):
        async with World(clock) as world:
            await world.add("s1", "s2")
            world.behaviour["shop:Counter"] = disk_full_at("s1", "s2")
            with pytest.raises(StoreFailed, match="disk full"):
                await world.create(durable=True, name="hits")
            await world.settled()
            assert "names" not in world.values()

    run_virtual(main)


def test_a_busy_object_that_cannot_be_sealed_stays() -> None:
    """A failed transfer is aborted: the source resumes at a new epoch, the state stays, the caller hears why."""

    async def main(clock):
        async with World(clock) as world:
            await world.add("s1", "s2", "s3")
            ms_id = (await world.create()).microservice
            home = world.home(ms_id)
            home.kernel.objects[ms_id].value = 9
            world.busy.add(ms_id)
            with pytest.raises(NotExecuted, match="calls still run"):
                await world.servers["s1"].registry.move(MoveRequest(microservice=ms_id))
            await world.settled()
            assert world.home(ms_id) is home
            assert home.kernel.objects[ms_id].value == 9
            assert world.document(ms_id).epoch == 2

    run_virtual(main)


def test_a_manager_may_keep_it_in_place() -> None:
    """A move is refused with the manager's reason, and drain reports it as left."""

    async def main(clock):
        async with World(clock) as world:
            await world.add("s1", "s2", "s3")
            ms_id = (await world.create(dms=(DmSpec("KeepInPlace"),))).microservice
            home = world.home(ms_id)
            with pytest.raises(Invalid, match="KeepInPlace says so"):
                await world.servers["s1"].registry.move(MoveRequest(microservice=ms_id))
            reply = await world.servers["s1"].registry.drain(DrainRequest(home.name, timeout_s=5))
            assert reply.moved == 0
            assert ms_id in reply.left[0]

    run_virtual(main)


def test_drain_empties_a_server_and_keeps_it_empty() -> None:
    """Everything moves off, new objects go elsewhere, its slots go to others; uncordoned it takes part again."""

    async def main(clock):
        async with World(clock) as world:
            await world.add("s1", "s2", "s3")
            ids = [(await world.create()).microservice for _ in range(30)]
            there = [ms_id for ms_id in ids if world.home(ms_id).name == "s2"]
            reply = await world.servers["s1"].registry.drain(DrainRequest("s2"))
            assert reply.moved == len(there) > 0
            assert not reply.left
            assert not world.servers["s2"].kernel.objects
            for _ in range(10):
                assert world.home((await world.create()).microservice).name != "s2"
            await world.servers["s1"].registry.cordon(CordonRequest("s2", cordon=False))
            await world.until(lambda: not world.servers["s1"].oms.directory.cluster.cordoned)
            assert world.home((await world.create()).microservice).name == "s2"
            await world.settled()

    run_virtual(main)


def test_a_move_to_a_server_that_cannot_have_it_is_refused() -> None:
    """The refusal names the server and the reason; nothing changes."""

    async def main(clock):
        async with World(clock) as world:
            await world.add("s1", "s2", "s3")
            ms_id = (await world.create(placement=_not("s2"))).microservice
            with pytest.raises(NoEligibleServer, match="match no term"):
                await world.servers["s1"].registry.move(MoveRequest(microservice=ms_id, server="s2"))
            with pytest.raises(NotFound, match=r"no live server 's9' .* live are s1, s2, s3"):
                await world.servers["s1"].registry.move(MoveRequest(microservice=ms_id, server="s9"))
            assert world.document(ms_id).epoch == 1

    run_virtual(main)


def test_a_move_to_a_server_that_turns_out_unable_to_have_it_is_refused_alike() -> None:
    """Whether the server was asked before makes no difference: it is not eligible, and the refusal says why."""

    async def main(clock):
        async with World(clock) as world:
            await world.add("s1", "s2", "s3")
            world.behaviour["shop:Rare"] = unloadable_at("s2")
            ms_id = (await world.create(cls="shop:Rare", placement=_not("s2"))).microservice
            world.behaviour["shop:Rare"] = unloadable_at("s1", "s3")
            for _ in range(2):
                target = "s1" if world.home(ms_id).name == "s3" else "s3"
                with pytest.raises(NoEligibleServer, match=f"No module named 'shop' at {target}"):
                    await world.servers["s2"].registry.move(MoveRequest(microservice=ms_id, server=target))
            await world.settled()
            assert world.home(ms_id).name != target

    run_virtual(main)


def test_a_hung_constructor_does_not_block_deletion() -> None:
    """While a constructor hangs, its creator hears that it goes on, and the microservice can be deleted."""

    async def main(clock):
        async with World(clock) as world:
            await world.add("s1", "s2")
            world.behaviour["shop:Slow"] = lambda server, request: asyncio.Event().wait()
            ms_id = world.new_id()
            with pytest.raises(OutcomeUnknown, match="goes on"):
                await world.create(ms_id=ms_id, cls="shop:Slow", timeout_s=2.0)
            await world.servers["s2"].registry.delete(DeleteRequest(microservice=ms_id, timeout_s=1.0))
            await world.settled()
            assert not set(world.values()) & {"microservices", "groups"}

    run_virtual(main)


def test_recovery_waits_for_a_server_that_can_load_it() -> None:
    """With no eligible server left the object waits, and comes back when one joins."""

    async def main(clock):
        async with World(clock) as world:
            await world.add("s1", "s2", "s3")
            world.behaviour["shop:Rare"] = unloadable_at("s1", "s2")
            ms_id = (await world.create(cls="shop:Rare", durable=True)).microservice
            world.servers["s3"].die()
            await world.elected()
            await asyncio.sleep(5)
            assert world.document(ms_id).phase == "active"
            with pytest.raises(NotExecuted, match="being placed"):
                await world.locate(ms_id, wait_s=0.5)
            await world.add("s4")
            await world.settled()
            assert world.home(ms_id).name == "s4"
            assert slot_of(ms_id) in range(64)

    run_virtual(main)
