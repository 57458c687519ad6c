"""Every write of a slot leader proves what it was decided on; one without an answer is settled by a write."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from amino.contracts.documents import GroupDocument, MicroserviceRecord, ReplicaDocument
from amino.contracts.services import DeleteRequest, LocateRequest, MoveRequest
from amino.coordination.memory import Fate
from amino.coordination.store import Delete, Put
from amino.errors import Conflict, CoordinationUnavailable, NotExecuted, StateLost
from amino.ids import slot_of
from amino.oms import group_machine as machine
from amino.oms.directory import Found
from tests.coordination.virtual import run_virtual
from tests.oms.world import World, spec


async def _led(world: World):
    """Return an id led by s1, its document as found, and s1's writes."""
    await world.add("s1", "s2", "s3")
    ms_id = world.id_led_by("s1")
    await world.create(ms_id=ms_id)
    server = world.servers["s1"]
    found = server.oms.directory.group(ms_id)
    assert found is not None
    return ms_id, found, server.oms.leader.writes


def _at(world: World, name: str, incarnation: int = 0) -> ReplicaDocument:
    return ReplicaDocument("9-new", name, incarnation or world.servers[name].incarnation)


def test_nothing_is_taken_from_a_live_server() -> None:
    """A write because of a loss fails while the incarnation is there, wherever it would place the replica."""

    async def main(clock):
        async with World(clock) as world:
            ms_id, found, writes = await _led(world)
            lost = found.document.replicas[0]
            document = machine.placed(found.document, _at(world, "s2"), "")
            other = next(name for name in world.servers if name != lost.server)
            for placing in (None, _at(world, other)):
                with pytest.raises(Conflict):
                    await writes.replace(ms_id, "/", found, document, lost=lost, placing=placing)
            assert world.document(ms_id) == found.document

    run_virtual(main)


def test_nothing_is_given_to_a_server_that_is_gone() -> None:
    """Placing and creating compare the target's incarnation."""

    async def main(clock):
        async with World(clock) as world:
            ms_id, found, writes = await _led(world)
            gone = _at(world, "s2", 1)
            with pytest.raises(Conflict):
                await writes.replace(ms_id, "/", found, machine.placed(found.document, gone, ""), placing=gone)
            fresh = world.id_led_by("s1")
            document = machine.placed(GroupDocument(), gone, "", first=True)
            assert await writes.begin(fresh, MicroserviceRecord(spec()), document) is None
            assert world.document(fresh) is None

    run_virtual(main)


def test_a_former_leader_writes_nothing() -> None:
    """Once the slot's key is another creation every write of the old leader fails, though it knows of nothing."""

    async def main(clock):
        async with World(clock) as world:
            ms_id, found, writes = await _led(world)
            world.servers["s1"].store.faults.watch_delay_s = lambda: 1000.0
            slot = world.keys.slot(slot_of(ms_id))
            value = world.etcd.get(slot).value
            await world.admin.txn([], [Delete(slot)])
            await world.admin.txn([], [Put(slot, value)])
            with pytest.raises(Conflict):
                await writes.replace(ms_id, "/", found, machine.deleting(found.document))
            with pytest.raises(Conflict):
                await writes.purge(ms_id, found, None)
            with pytest.raises(NotExecuted, match="another leader"):
                await writes.check_leadership(ms_id)
            fresh = next(one for one in iter(world.new_id, None) if slot_of(one) == slot_of(ms_id))
            document = machine.placed(GroupDocument(), _at(world, "s2"), "", first=True)
            assert await writes.begin(fresh, MicroserviceRecord(spec()), document) is None
            assert world.document(ms_id) == found.document

    run_virtual(main)


def test_a_settled_write_never_lands_later() -> None:
    """A write that timed out and lands later finds the document settled by another write, and does nothing."""

    async def main(clock):
        async with World(clock) as world:
            ms_id, found, writes = await _led(world)
            faults = world.servers["s1"].store.faults
            faults.land_later_s = lambda: 5.0
            faults.fate = lambda write: Fate.LANDS_LATER if write else Fate.ANSWERED
            with pytest.raises(CoordinationUnavailable):
                await writes.replace(ms_id, "/", found, machine.deleting(found.document))
            faults.fate = lambda write: Fate.ANSWERED
            settled = await writes.settle(ms_id)
            assert settled is not None
            assert settled.document.phase == "active"
            await asyncio.sleep(10)
            assert world.document(ms_id) == settled.document

    run_virtual(main)


def test_own_writes_are_seen_before_the_watch_tells() -> None:
    """The directory never shows a group older than this server's last write, and takes what is newer."""

    async def main(clock):
        async with World(clock) as world:
            ms_id, found, writes = await _led(world)
            server = world.servers["s1"]
            directory = server.oms.directory
            server.store.faults.watch_delay_s = lambda: 3.0
            marked = machine.forgiven(found.document, ())
            written = await writes.replace(ms_id, "/", found, marked)
            assert directory.group(ms_id) == written
            directory.learn(ms_id, "/", found.document, found.revision)
            assert directory.group(ms_id) == written
            await asyncio.sleep(10)
            assert directory.group(ms_id) == written
            later = world.etcd.revision + 1000
            directory.learn(ms_id, "/", None, later)
            assert directory.group(ms_id) is None
            assert ms_id not in directory.ids()
            newer = Found(written.document, later + 1)
            directory.learn(ms_id, "/", *newer)
            assert directory.group(ms_id) == newer
            assert ms_id in directory.hosted(newer.document.replicas[0].server, newer.document.replicas[0].incarnation)

    run_virtual(main)


def test_an_own_write_learned_late_does_not_bring_back_what_was_deleted() -> None:
    """The answer to a write may come after the watch has told of the deletion that followed: the deletion stands."""

    async def main(clock):
        async with World(clock) as world:
            ms_id, found, writes = await _led(world)
            directory = world.servers["s1"].oms.directory
            written = await writes.replace(ms_id, "/", found, machine.deleting(found.document))
            await world.servers["s1"].registry.delete(DeleteRequest(microservice=ms_id))
            await asyncio.sleep(1)
            assert directory.ids() == []
            directory.learn(ms_id, "/", written.document, written.revision)
            assert directory.group(ms_id) is None
            assert directory.ids() == []

    run_virtual(main)


def test_a_final_answer_is_never_an_old_one() -> None:
    """Who has not heard yet that somebody restored a lost object does not tell a caller that it is lost."""

    async def main(clock):
        async with World(clock) as world:
            ms_id, found, writes = await _led(world)
            lost = msgspec.structs.replace(found.document, phase="lost", reason="it was")
            written = await writes.replace(ms_id, "/", found, lost)
            await asyncio.sleep(1)
            other = world.servers["s2"]
            with pytest.raises(StateLost):
                await other.registry.locate(LocateRequest(microservice=ms_id, wait_s=1.0))
            other.store.faults.watch_delay_s = lambda: 5.0
            await writes.replace(ms_id, "/", written, msgspec.structs.replace(lost, phase="active", reason=""))
            location = await other.registry.locate(LocateRequest(microservice=ms_id, wait_s=1.0))
            assert location.microservice == ms_id

    run_virtual(main)


def test_an_event_that_the_watch_lost_does_not_keep_callers_waiting() -> None:
    """Seed 5703 of two-phase: a server told callers for 15 s that an object was being placed, which had long been there."""

    async def main(clock):
        async with World(clock) as world:
            ms_id, found, _ = await _led(world)
            here = found.document.replicas[0]
            target, asked = (name for name in world.servers if name != here.server)
            other = world.servers[asked]
            other.store.faults.lose_event = lambda event: True
            await world.servers[target].registry.move(MoveRequest(microservice=ms_id, server=target))
            await asyncio.sleep(0.1)
            other.store.faults.lose_event = lambda event: False
            request = LocateRequest(
                microservice=ms_id,
                stale={"/": found.document.epoch},
                stale_incarnation=(here.server, here.incarnation),
                wait_s=0.5,
            )
            answers = [(await other.registry.locate(request)).groups["/"].replicas[0].server for _ in range(2)]
            assert answers == [here.server, target]

    run_virtual(main)


def test_a_server_that_came_a_moment_ago_is_found() -> None:
    """A move to it is not refused because the slot's leader has not heard of it yet."""

    async def main(clock):
        async with World(clock) as world:
            ms_id, _, _ = await _led(world)
            leader = world.servers["s1"]
            leader.store.faults.watch_delay_s = lambda: 0.5
            await world.add("s9")
            assert leader.oms.directory.server("s9") is None
            location = await leader.registry.move(MoveRequest(microservice=ms_id, server="s9"))
            assert [replica.server for replica in location.groups["/"].replicas] == ["s9"]

    run_virtual(main)


def test_a_successor_looks_at_its_new_slots_at_once() -> None:
    """When the leader of an object's slot dies with the server that has it, recovery waits for the election only."""

    async def main(clock):
        async with World(clock) as world:
            await world.add("s1", "s2", "s3", "s4")
            ms_id = world.id_led_by("s1")
            await world.create(at="s2", ms_id=ms_id, durable=True)
            home = world.home(ms_id)
            began = clock.monotonic()
            world.servers["s1"].die()
            home.die()
            request = LocateRequest(
                microservice=ms_id, stale={"/": 1}, stale_incarnation=(home.name, home.incarnation), wait_s=10.0
            )
            found = await world.other_than().registry.locate(request)
            assert found.groups["/"].epoch == 2
            assert clock.monotonic() - began < 0.5

    run_virtual(main)
