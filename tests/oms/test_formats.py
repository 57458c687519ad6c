"""Documents that two releases share: versions by what is used, fields of a later release kept, later versions left alone."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from amino.contracts.documents import (
    FORMAT_READ,
    ClusterDocument,
    DmSpec,
    GroupDocument,
    MicroserviceRecord,
    MicroserviceSpec,
    Move,
    ReplicaDocument,
    decode,
    encode,
    format_of,
)
from amino.contracts.formats import Formats, is_later
from amino.contracts.services import MoveRequest, PauseRequest
from amino.coordination.store import Put
from amino.errors import Invalid, NotExecuted
from amino.ids import ROOT, slot_of
from tests.coordination.virtual import run_virtual
from tests.oms.world import World

REPLICAS = (ReplicaDocument("1-a", "s1", 3, confirmed=True), ReplicaDocument("1-b", "s2", 4, source="join"))
REPLICATED = (DmSpec("Replicated", {"replicas": 2, "min_in_sync": 1}),)


class FirstGroup(msgspec.Struct, frozen=True, omit_defaults=True):
    """A group document of the release before groups had kinds: it has fields of the first version only."""

    phase: str = "creating"
    epoch: int = 1
    replicas: tuple[ReplicaDocument, ...] = ()
    rest: bytes = msgspec.field(default=b"", name="_rest_")
    format: int = 1


FIRST = Formats(1, {})


def _stored(document: msgspec.Struct) -> dict:
    return msgspec.msgpack.decode(encode(document))


def test_what_is_encoded_is_decoded():
    """Every field comes back, whatever version the document takes."""
    for document in (
        GroupDocument(replicas=REPLICAS, move=Move("1-a", REPLICAS[1]), methods={"add": 1}),
        GroupDocument(kind="shards", wanted=3, children=("a", "b"), coordinator={"DHT": b"x"}),
        MicroserviceRecord(MicroserviceSpec("shop:Cart", dms=(DmSpec("DHT", {"shards": 3}),)), generation=2),
    ):
        assert decode(encode(document), type(document)) == document


def test_a_document_takes_the_lowest_version_that_can_hold_it():
    """A plain group can be acted on by the first release; one with a kind, or a second spec, says that it cannot."""
    plain = GroupDocument(replicas=REPLICAS[:1], phase="active")
    assert (format_of(plain), "format" in _stored(plain)) == (1, False)
    replicated = msgspec.structs.replace(plain, kind="replicated")
    assert (format_of(replicated), _stored(replicated)["format"]) == (2, 2)
    again = msgspec.structs.replace(decode(encode(replicated), GroupDocument), kind="")
    assert "format" not in _stored(again)
    assert _stored(MicroserviceRecord(MicroserviceSpec("shop:Cart"), generation=1))["format"] == 2


def test_an_older_release_refuses_what_it_would_spoil():
    """The first release cannot read a replicated group, so it cannot write one back without its kind."""
    with pytest.raises(Invalid, match="format version 2; this release reads up to 1: upgrade this server") as refused:
        FIRST.decode(encode(GroupDocument(kind="replicated")), FirstGroup, "groups/1/x/")
    assert is_later(refused.value)
    with pytest.raises(Invalid, match="not a GroupDocument") as broken:
        decode(b"\xc1", GroupDocument)
    assert not is_later(broken.value)


def test_an_older_release_keeps_what_it_may_ignore():
    """Fields that it does not know are there again after it has rewritten the document, in replicas as well."""
    value = encode(GroupDocument(replicas=REPLICAS, explanation={"1-a": "the only one"}, deaths={"add": 2}))
    seen = FIRST.decode(value, FirstGroup)
    assert msgspec.msgpack.decode(seen.rest) == {"explanation": {"1-a": "the only one"}, "deaths": {"add": 2}}
    rewritten = FIRST.encode(msgspec.structs.replace(seen, epoch=7))
    assert decode(rewritten, GroupDocument) == GroupDocument(
        epoch=7, replicas=REPLICAS, explanation={"1-a": "the only one"}, deaths={"add": 2}
    )


def test_fields_of_the_next_release_survive_at_every_depth():
    """In the group, in a replica and in the target of a move; what is taken out goes with its fields."""
    stored = _stored(GroupDocument(replicas=REPLICAS, move=Move("1-a", REPLICAS[1])))
    stored["colour"] = ["red"]
    stored["replicas"][1]["weight"] = 3
    stored["move"]["target"]["weight"] = 4
    found = decode(msgspec.msgpack.encode(stored), GroupDocument)
    assert decode(encode(found), GroupDocument) == found
    fewer = msgspec.structs.replace(found, replicas=found.replicas[1:], epoch=2)
    after = _stored(fewer)
    assert after["colour"] == ["red"]
    assert [one.get("weight") for one in after["replicas"]] == [3]
    assert after["move"]["target"]["weight"] == 4
    assert "_rest_" not in str(after)


class NextReplica(msgspec.Struct, frozen=True):
    """A replica as a release writes it that stores its defaults, too."""

    id: str
    server: str
    incarnation: int
    rest: bytes = msgspec.field(default=b"", name="_rest_")
    news: str = "news"


def test_a_release_that_stores_defaults_keeps_nothing_of_its_own_book_keeping():
    """An empty ``rest`` is not stored as such, and not needed to read the document."""
    next_release = Formats(FORMAT_READ, {})
    value = next_release.encode(NextReplica("1-a", "s1", 3))
    assert msgspec.msgpack.decode(value) == {"id": "1-a", "server": "s1", "incarnation": 3, "news": "news"}
    assert next_release.decode(value, NextReplica) == NextReplica("1-a", "s1", 3)
    assert next_release.decode(encode(decode(value, ReplicaDocument)), NextReplica) == NextReplica("1-a", "s1", 3)


def _put(world: World, ms_id: str, stored: dict) -> None:
    key = world.keys.group(slot_of(ms_id), ms_id, ROOT)
    world.etcd.txn([], [Put(key, msgspec.msgpack.encode(stored))], [])


def test_a_failover_by_this_release_keeps_fields_of_the_next():
    """A document that a later server wrote is rewritten by this one: new replica, next epoch, and the field still there."""

    async def main(clock):
        async with World(clock) as world:
            await world.add("s1", "s2", "s3")
            ms_id = (await world.create(durable=True)).microservice
            stored = _stored(world.document(ms_id))
            _put(world, ms_id, {**stored, "of_the_next": {"a": 1}})
            home = world.home(ms_id)
            home.die()
            await world.until(lambda: world.document(ms_id).epoch > 1 and world.document(ms_id).replicas[0].confirmed)
            assert _stored(world.document(ms_id))["of_the_next"] == {"a": 1}
            await world.other_than().registry.move(MoveRequest(microservice=ms_id))
            assert _stored(world.document(ms_id))["of_the_next"] == {"a": 1}
            await world.settled()

    run_virtual(main)


def test_the_cluster_document_keeps_them_too():
    """A pause by this release leaves a later setting as it is."""

    async def main(clock):
        async with World(clock) as world:
            await world.add("s1")
            value = msgspec.msgpack.encode({**_stored(ClusterDocument(hash_seed=4)), "quota": 9})
            world.etcd.txn([], [Put(world.keys.cluster, value)], [])
            await world.servers["s1"].registry.pause(PauseRequest(paused=True))
            kept = msgspec.msgpack.decode(world.etcd.get(world.keys.cluster).value)
            assert kept == {"paused": True, "hash_seed": 4, "quota": 9}

    run_virtual(main)


def test_a_document_of_a_later_version_is_left_to_later_servers():
    """It is not changed, deleted or shown as gone; who asks for it is sent on; everything else goes on."""

    async def main(clock):
        async with World(clock) as world:
            await world.add("s1", "s2")
            ms_id = (await world.create(name="later", durable=True)).microservice
            home = world.home(ms_id)
            stored = {**_stored(world.document(ms_id)), "format": FORMAT_READ + 1}
            _put(world, ms_id, stored)
            key = world.keys.group(slot_of(ms_id), ms_id, ROOT)
            revision = world.etcd.get(key).mod_revision
            registry = world.servers["s1"].registry
            await world.until(lambda: world.servers["s1"].oms.directory.group(ms_id) is None)
            with pytest.raises(NotExecuted, match="upgrade this server") as refused:
                await world.locate(ms_id, at="s1")
            assert refused.value.reason == "older-release"
            with pytest.raises(NotExecuted, match="upgrade this server"):
                await registry.move(MoveRequest(microservice=ms_id, timeout_s=1.0))
            await world.servers[home.name].oms._housekeeping.sweep()
            home.die()
            await asyncio.sleep(100.0)
            other = (await world.create(at=world.other_than().name)).microservice
            assert world.home(other).alive
            assert world.etcd.get(key).mod_revision == revision

    run_virtual(main)


def test_slots_are_led_by_the_latest_release_and_old_servers_get_no_new_kinds_of_group():
    """During a rolling upgrade no older leader meets a group it cannot act on; with the last upgrade all lead again."""

    async def main(clock):
        async with World(clock) as world:
            await world.add("old1", "old2", format_read=FORMAT_READ - 1)
            assert {len(server.oms.reconciler.led) for server in world.servers.values()} == {32}
            await world.add("new1", "new2")
            await world.until(lambda: not world.servers["old1"].oms.reconciler.led)
            await world.until(lambda: not world.servers["old2"].oms.reconciler.led)
            await world.elected()
            ms_id = (await world.create(at="old1", dms=REPLICATED)).microservice
            await world.until(lambda: len(world.document(ms_id).replicas) == 2)
            assert {one.server for one in world.document(ms_id).replicas} == {"new1", "new2"}
            plain = [(await world.create(at="old1")).microservice for _ in range(8)]
            assert {world.home(one).name for one in plain} & {"old1", "old2"}
            for name in ("new1", "new2"):
                world.servers[name].die()
            await world.until(lambda: bool(world.servers["old1"].oms.reconciler.led))
            await world.elected()

    run_virtual(main)
