"""A slot leader that the other servers do not reach, though etcd does, leaves leading to those that reach each other.

Seen in the matrix of chaos: a group of two whose primary's server led its slot, too, and was cut off from all other servers took
no writes until the cut was undone: that leader could have nobody make a replica.
"""

from __future__ import annotations

from typing import Any

import msgspec

from amino.contracts.documents import DmSpec, GroupDocument, encode
from amino.coordination.store import Put
from amino.ids import slot_of
from tests.coordination.virtual import run_virtual
from tests.oms.world import World

PAIR = (DmSpec("Replicated", {"replicas": 2, "min_in_sync": 1}),)


async def stuck(world: World, ms_id: str) -> None:
    """Report for the primary that it can neither commit nor leave anybody out; both replicas are in sync."""
    document = world.document(ms_id)
    report = msgspec.structs.replace(
        document,
        replicas=tuple(msgspec.structs.replace(one, confirmed=True) for one in document.replicas),
        in_sync=tuple(one.id for one in document.replicas),
        report=f"{document.epoch} stuck: nobody answers; reaches none",
        version=document.version + 1,
    )
    await world.admin.txn([], [Put(world.keys.group(slot_of(ms_id), ms_id, "/"), encode(report))])


def led(world: World, name: str) -> frozenset[int]:
    """Return the slots that a server leads."""
    return world.servers[name].election.led


def test_a_leader_that_is_cut_off_hands_over() -> None:
    """Silence makes it ask all; as most are silent it gives all slots up, others lead them, and it leads again when the cut ends."""

    async def main(clock: Any) -> None:
        async with World(clock) as world:
            await world.add("s1", "s2", "s3", "s4", "s5")
            others = ("s2", "s3", "s4", "s5")
            world.cut_off = {world.servers["s1"]}
            await world.create(at="s2", ms_id=world.id_led_by("s2"))
            assert not any("statistics" in call for server in world.servers.values() for call in server.trace)
            assert led(world, "s1")  # nobody has met silence
            world.servers["s1"].oms.reach.doubt()
            await world.until(lambda: not led(world, "s1") and sum(len(led(world, one)) for one in others) == 64, 2)
            trace = world.servers["s1"].trace
            await world.until(
                lambda: led(world, "s1") or sum("statistics" in call for call in trace) > 30 * len(others)
            )
            assert not led(world, "s1")  # all the while it has asked again, each second
            assert any(record.key for record in world.values()["events"] if b"stands-aside" in record.value)
            world.cut_off = set()
            await world.until(lambda: sorted(len(led(world, one)) for one in ("s1", *others)) == [12, 13, 13, 13, 13])

    run_virtual(main)


def test_where_nobody_reaches_anybody_slots_are_led_all_the_same() -> None:
    """All stand aside, and step in after a second: what needs etcd alone goes on."""

    async def main(clock: Any) -> None:
        async with World(clock) as world:
            await world.add("s1", "s2", "s3")
            world.cut_off = set(world.servers.values())
            for server in world.servers.values():
                server.oms.reach.doubt()
            await world.until(lambda: all(server.oms.reach.aside() for server in world.servers.values()), 1)
            await world.until(lambda: sum(len(led(world, one)) for one in world.servers) == 64, 3)

    run_virtual(main)


def test_who_takes_over_is_decided_where_most_are() -> None:
    """The leader is cut off together with a stuck primary: its successor sees that the other replica answers, and lets that one go."""

    async def main(clock: Any) -> None:
        async with World(clock) as world:
            await world.add("s1", "s2", "s3", "s4", "s5")
            ms_id, before = "", GroupDocument()
            while not ms_id or before.replicas[0].server != "s1":
                ms_id = (await world.create(dms=PAIR, ms_id=world.id_led_by("s1"))).microservice
                before = world.document(ms_id)
            await world.until(lambda: len(world.document(ms_id).replicas) == 2)
            primary, other = world.document(ms_id).replicas
            world.cut_off = {world.servers["s1"]}
            await stuck(world, ms_id)
            await world.until(lambda: world.document(ms_id).primary == other.id, 3)
            document = world.document(ms_id)
            assert primary not in document.replicas
            assert not any(one.doubted for one in document.replicas)
            assert slot_of(ms_id) not in led(world, "s1")

    run_virtual(main)
