"""The registry's other services: finding, describing, applications, bundles, cordons, members, housekeeping."""

from __future__ import annotations

import asyncio
import hashlib

import msgspec
import pytest

from amino.contracts.documents import CheckpointEntry, Manifest, Requirement, encode
from amino.contracts.services import (
    AbsentRequest,
    ApplicationRequest,
    ByName,
    CordonRequest,
    CreateRequest,
    DeleteRequest,
    Empty,
    FindRequest,
    LocateRequest,
    PauseRequest,
    PushCodeRequest,
)
from amino.coordination.store import Put
from amino.errors import AlreadyExists, Invalid, NotExecuted, NotFound, PermissionDenied
from amino.ids import SLOT_COUNT, derived_id, slot_of
from amino.oms.events import EVENTS_MAX
from tests.coordination.virtual import run_virtual
from tests.oms.fake_kernel import FakeObject
from tests.oms.world import World, spec


def test_finding_by_everything() -> None:
    """Class, name, label, server, region, state and application each select; pages follow each other in order."""

    async def main(clock):
        async with World(clock) as world:
            await world.add("s1", labels={"region": "eu"})
            await world.add("s2", labels={"region": "us"})
            for n in range(6):
                await world.create(name=f"hits-{n}", labels={"tier": "a" if n % 2 else "b"})
            other = await world.create(cls="shop:Basket", application="shop")
            await asyncio.sleep(0.1)
            registry = world.servers["s2"].registry

            async def ids(**conditions) -> list[str]:
                return [row.id for row in (await registry.find(FindRequest(**conditions))).rows]

            everything = await ids()
            assert everything == sorted(everything)
            assert len(everything) == 7
            assert await ids(cls="shop:Basket") == await ids(cls="Basket") == [other.microservice]
            assert await ids(application="shop") == [other.microservice]
            assert len(await ids(name_prefix="hits-")) == 6
            assert len(await ids(label=(Requirement("tier", "Equal", ("a",)),))) == 3
            assert sorted(await ids(server="s1") + await ids(server="s2")) == everything
            assert await ids(region="eu") == await ids(server="s1")
            assert await ids(state="lost") == []
            assert await ids(state="active") == everything
            page = await registry.find(FindRequest(limit=4))
            assert page.more
            rest = await registry.find(FindRequest(after=page.rows[-1].id))
            assert [row.id for row in (*page.rows, *rest.rows)] == everything
            assert not rest.more
            with pytest.raises(Invalid):
                await registry.find(FindRequest(limit=0))

    run_virtual(main)


def test_describe_says_where_and_why() -> None:
    """The description has record, document, slot leader and the explanation of the placement."""

    async def main(clock):
        async with World(clock) as world:
            await world.add("s1", "s2")
            ms_id = (await world.create(name="hits")).microservice
            description = await world.servers["s2"].registry.describe(ByName(name="hits"))
            assert description.id == ms_id
            assert description.state == "active"
            assert description.slot_leader == world.leader_of(ms_id).name
            assert "fewest replicas (0) among 2 eligible" in description.explanation[0]
            with pytest.raises(NotFound, match="nobody"):
                await world.servers["s1"].registry.describe(ByName(name="nobody"))

    run_virtual(main)


def test_an_application_s_entry_is_made_once() -> None:
    """Many askers get the same entry; redefining the application leaves the running entry alone."""

    async def main(clock):
        async with World(clock) as world:
            await world.add("s1", "s2", "s3")
            registries = [server.registry for server in world.servers.values()]
            request = ApplicationRequest("shop", spec(name="front"), b"\x01x")
            await registries[0].define_application(request)
            entries = await asyncio.gather(*(registries[n % 3].application(ByName(name="shop")) for n in range(12)))
            assert {entry.microservice for entry in entries} == {derived_id("application", "shop")}
            assert entries[0].spec.application == "shop"
            await registries[1].define_application(msgspec.structs.replace(request, arguments=b"\x01y"))
            assert (await registries[2].application(ByName(name="shop"))).groups == entries[0].groups
            with pytest.raises(NotFound, match="amino apply"):
                await registries[0].application(ByName(name="shops"))

    run_virtual(main)


def test_bundles_are_stored_under_their_content() -> None:
    """The digest is checked, small bundles are inline, large ones go to the store, and clusters may refuse them."""

    async def main(clock):
        async with World(clock) as world:
            await world.add("s1")
            registry = world.servers["s1"].registry
            small, large = b"code", b"x" * 100_000

            def request(content: bytes) -> PushCodeRequest:
                return PushCodeRequest(hashlib.sha256(content).hexdigest(), "pickle", content)

            await registry.push_code(request(small))
            await registry.push_code(request(small))
            await registry.push_code(request(large))
            assert world.blobs[hashlib.sha256(large).hexdigest()] == large
            with pytest.raises(Invalid, match="sha256"):
                await registry.push_code(PushCodeRequest("0" * 64, "pickle", small))
            with pytest.raises(Invalid, match="kind"):
                await registry.push_code(msgspec.structs.replace(request(b"z"), kind="tar"))
            cluster = world.servers["s1"].oms.directory.cluster
            denied = msgspec.structs.replace(cluster, allow_bundles=False)
            await world.admin.txn([], [Put(world.keys.cluster, msgspec.msgpack.encode(denied))])
            await world.until(lambda: not world.servers["s1"].oms.directory.cluster.allow_bundles)
            with pytest.raises(PermissionDenied):
                await registry.push_code(request(small))

    run_virtual(main)


def test_large_arguments_go_to_the_store() -> None:
    """Arguments over 64 KiB are kept by URL, not in etcd."""

    async def main(clock):
        async with World(clock) as world:
            await world.add("s1")
            ms_id = world.new_id()
            await world.servers["s1"].registry.create(CreateRequest(ms_id, spec(), b"\x01" + b"x" * 100_000))
            record = (await world.servers["s1"].registry.describe(ByName(microservice=ms_id))).record
            assert record.arguments == b""
            assert record.arguments_url == f"memory://arguments/{ms_id}"

    run_virtual(main)


def test_many_are_described_with_few_reads() -> None:
    """A page at a time, each as it is described alone but for its arguments; a manifest costs no request of its own."""

    async def main(clock):
        async with World(clock) as world:
            await world.add("s1", "s2")
            ids = sorted([(await world.create(durable=True)).microservice for _ in range(60)])
            for place, ms_id in enumerate(ids):
                entries = (CheckpointEntry(1, place, f"checkpoints/{ms_id}/1-{place}-x", "s", 9),)
                await world.admin.txn([], [Put(world.keys.manifest(ms_id, "/"), encode(Manifest(entries)))])
            registry = world.servers["s1"].registry
            before = world.servers["s1"].steps
            page = await registry.find(FindRequest(describe=True, limit=40))
            assert world.servers["s1"].steps - before <= 2
            rest = await registry.find(FindRequest(describe=True, after=page.rows[-1].id))
            assert (len(page.rows), page.more, len(rest.rows), rest.more) == (40, True, 20, False)
            described = (*page.described, *rest.described)
            assert [one.id for one in described] == ids
            alone = await registry.describe(ByName(ids[7]))
            assert described[7] == msgspec.structs.replace(
                alone, record=msgspec.structs.replace(alone.record, arguments=b"")
            )
            assert described[7].checkpoints[0]["sequence"] == 7
            assert (await registry.find(FindRequest())).described == ()

    run_virtual(main)


def test_members_slots_and_cordons_are_told() -> None:
    """Membership has incarnations, cordons, replicas, slots and the pause, and subscribers hear of each change."""

    async def main(clock):
        async with World(clock) as world:
            await world.add("s1", "s2")
            await world.create()
            registry = world.servers["s1"].registry
            heard = []
            stop = registry.subscribe_members(heard.append)
            await registry.cordon(CordonRequest("s2", why="disk"))
            await registry.pause(PauseRequest(paused=True))
            await world.until(lambda: bool(heard) and heard[-1].paused)
            stop()
            assert [server.cordoned for server in heard[-1].servers] == ["", "disk"]
            members = await registry.members(Empty())
            assert members.cluster == "test"
            assert sum(server.replicas for server in members.servers) == 1
            assert sum(server.slots for server in members.servers) == SLOT_COUNT
            slots = (await registry.slots(Empty())).slots
            assert len(slots) == SLOT_COUNT
            assert sum(slot.microservices for slot in slots) == 1
            with pytest.raises(NotFound):
                await registry.cordon(CordonRequest("s9"))
            count = len(heard)
            await registry.cordon(CordonRequest("s2", cordon=False))
            await asyncio.sleep(0.1)
            assert len(heard) == count

    run_virtual(main)


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (CreateRequest("a/b", spec()), "microservice id"),
        (CreateRequest("a", spec(name="a b")), "name 'a b'"),
        (CreateRequest("a", spec(), if_exists="maybe"), "if_exists"),
        (CreateRequest("a", spec(), if_exists="get"), "by its name"),
        (CreateRequest("a", spec(labels={"x": "y" * 300_000})), "the spec takes"),
    ],
)
def test_bad_creations_are_refused_at_once(request_, words) -> None:
    """The error names value and rule; nothing is written."""

    async def main(clock):
        async with World(clock) as world:
            await world.add("s1")
            with pytest.raises(Invalid, match=words):
                await world.servers["s1"].registry.create(request_)
            assert "microservices" not in world.values()

    run_virtual(main)


def test_a_locate_ends_when_the_news_come() -> None:
    """Waiting for something newer than a stale epoch ends at once when it comes, else at the time-out with what is."""

    async def main(clock):
        async with World(clock) as world:
            await world.add("s1", "s2")
            ms_id = (await world.create(durable=True)).microservice
            registry = world.servers["s1"].registry
            began = clock.monotonic()
            found = await registry.locate(LocateRequest(microservice=ms_id, stale={"/": 1}, wait_s=1.5))
            assert found.groups["/"].epoch == 1
            assert clock.monotonic() - began == pytest.approx(1.5, abs=0.01)
            with pytest.raises(NotFound):
                await registry.locate(LocateRequest(microservice="no-such-thing"))

    run_virtual(main)


def test_without_a_leader_an_operation_waits_then_says_so() -> None:
    """NotExecuted (not ready) at the end of the time, nothing done."""

    async def main(clock):
        async with World(clock) as world:
            await world.add("s1")
            server = world.servers["s1"]
            await server.election.resign_all()
            with pytest.raises(NotExecuted, match="no leader"):
                await world.create(timeout_s=1.0)
            with pytest.raises(NotExecuted, match="does not lead"):
                await server.registry.forwarded("create", CreateRequest("m1", spec()))
            with pytest.raises(Invalid, match="not done by slot leaders"):
                await server.registry.forwarded("find", FindRequest())

    run_virtual(main)


def test_rubbish_is_removed() -> None:
    """Tombstones, orphan names, records, manifests and kernel objects go; what is needed stays."""

    async def main(clock):
        async with World(clock) as world:
            await world.add("s1", "s2", "s3")
            kept = (await world.create(name="kept", durable=True)).microservice
            orphan = world.new_id()
            keys = world.keys
            await world.admin.txn(
                [],
                [
                    Put(keys.name("ghost"), orphan.encode()),
                    Put(keys.manifest(orphan, "/"), b"\x80"),
                    Put(keys.tombstone("s9", 3), b"\x80"),
                ],
            )
            lost = world.other_than(world.home(kept), world.leader_of(kept))
            lost.die()
            survivor = world.other_than(lost)
            survivor.kernel.objects[orphan] = FakeObject("1-dead", 1, serving=True)
            survivor.kernel.objects[kept + "0"] = FakeObject("1-dead", 1, serving=True)
            await asyncio.sleep(90)
            await world.settled()
            values = world.values()
            assert "tombstones" not in values
            assert "checkpoints" not in values
            assert [record.key for record in values["names"]] == [keys.name("kept")]
            assert world.home(kept)

    run_virtual(main)


def test_a_replica_that_its_own_server_does_not_have_is_made_again() -> None:
    """Listed but absent in two audits: recovered as after a loss, though the server lives."""

    async def main(clock):
        async with World(clock) as world:
            await world.add("s1", "s2", "s3")
            ms_id = (await world.create(durable=True)).microservice
            world.home(ms_id).kernel.objects.clear()
            await asyncio.sleep(15)
            assert world.document(ms_id).epoch == 1
            await world.settled(120)
            assert world.document(ms_id).epoch == 2

    run_virtual(main)


def test_a_replica_that_its_server_reports_absent_is_made_again_at_once() -> None:
    """The report is checked with the server, twice; then the object is recovered, in a fraction of a second."""

    async def main(clock):
        async with World(clock) as world:
            await world.add("s1", "s2", "s3")
            ms_id = (await world.create(durable=True)).microservice
            home = world.home(ms_id)
            home.kernel.objects.clear()
            replica = world.document(ms_id).replicas[0].id
            began = clock.monotonic()
            await home.registry.report_absent(AbsentRequest(ms_id, "/", replica))
            assert clock.monotonic() - began < 0.5
            assert world.document(ms_id).epoch == 2
            await world.settled()
            await home.registry.report_absent(AbsentRequest(ms_id, "/", replica))
            assert world.document(ms_id).epoch == 2

    run_virtual(main)


def test_a_report_of_a_replica_that_is_there_changes_nothing() -> None:
    """Neither a liar nor a server that cannot be asked makes a living replica go."""

    async def main(clock):
        async with World(clock) as world:
            await world.add("s1", "s2", "s3")
            ms_id = (await world.create(durable=True)).microservice
            home = world.home(ms_id)
            report = AbsentRequest(ms_id, "/", world.document(ms_id).replicas[0].id)
            other = world.other_than(home)
            await other.registry.report_absent(report)
            await other.registry.report_absent(AbsentRequest(world.new_id(), "/", "x"))
            objects, home.kernel.objects = home.kernel.objects, {}
            leader = world.leader_of(ms_id)
            if leader is not home:
                home.hung = True
                await other.registry.report_absent(report)
                home.hung = False
            home.kernel.objects = objects
            assert world.document(ms_id).epoch == 1
            await world.settled()

    run_virtual(main)


def test_a_record_without_a_group_is_removed_when_its_slot_is_gained() -> None:
    """No creation leaves one behind; if there is one it goes, with its name at the next sweep."""

    async def main(clock):
        async with World(clock) as world:
            ms_id = world.new_id()
            await world.admin.txn([], [Put(world.keys.microservice(slot_of(ms_id), ms_id), b"\x80")])
            await world.add("s1")
            await world.until(lambda: "microservices" not in world.values())

    run_virtual(main)


def test_the_history_is_bounded_and_never_in_the_way() -> None:
    """Surplus events are trimmed; with etcd away events are dropped and nothing waits."""

    async def main(clock):
        async with World(clock) as world:
            await world.add("s1")
            events = world.servers["s1"].oms.events
            for n in range(30):
                await world.admin.txn([], [Put(world.keys.event(n * 50 + k), b"\x80") for k in range(50)])
            surplus = len(world.values()["events"]) - EVENTS_MAX
            assert await events.trim() == surplus >= 500
            world.servers["s1"].store.partition()
            for _ in range(1000):
                events.add("noise")
            await asyncio.sleep(5)
            world.servers["s1"].store.heal()
            assert len(world.values()["events"]) == EVENTS_MAX

    run_virtual(main)


def test_names_are_freed_with_their_microservice() -> None:
    """A deleted microservice's name can be given to another at once, and look-ups follow."""

    async def main(clock):
        async with World(clock) as world:
            await world.add("s1", "s2")
            for n in range(3):
                location = await world.create(at=f"s{n % 2 + 1}", name="hits")
                registry = world.servers["s2"].registry
                assert (await registry.locate(LocateRequest(name="hits"))).microservice == location.microservice
                with pytest.raises(AlreadyExists):
                    await world.create(name="hits")
                await registry.delete(DeleteRequest(name="hits"))

    run_virtual(main)
