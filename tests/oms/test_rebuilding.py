"""Bringing microservices back into an empty etcd: whole runs, on stores in memory, with what can go wrong."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from amino.aio.clock import RealClock
from amino.checkpoint import log_format, names
from amino.checkpoint.access import StoreAccess
from amino.checkpoint.description import Description, encode_description
from amino.checkpoint.format import encode as encode_file
from amino.checkpoint.identity import identify
from amino.checkpoint.memory_store import MemoryCheckpointStore
from amino.contracts.documents import (
    CheckpointEntry,
    ClusterDocument,
    CodeRecord,
    DmSpec,
    GroupDocument,
    Manifest,
    MicroserviceRecord,
    MicroserviceSpec,
    Phase,
    ReplicaDocument,
    decode,
    encode,
)
from amino.contracts.sharding import Transition
from amino.coordination.keys import Keys
from amino.coordination.memory import MemoryStore
from amino.coordination.memory_etcd import MemoryEtcd
from amino.coordination.store import Delete, Put
from amino.errors import Conflict, CoordinationUnavailable, Invalid
from amino.ids import slot_of
from amino.node.adapters import Chains
from amino.oms.rebuild_machine import UNDESCRIBED
from amino.oms.rebuilding import BACK, FAILED, PLANNED, TAKEN, THERE, Outcome, Rebuilding

KEEPING = (DmSpec("PeriodicCheckpoint"),)
SHARDED = (DmSpec("DHT", {"shards": 3}), DmSpec("PeriodicCheckpoint"))


class World:
    """An empty etcd and a store that an earlier cluster has left."""

    def __init__(self, store: MemoryStore) -> None:
        self.clock = RealClock()
        self.store = store
        self.keys = Keys("test")
        self.files = MemoryCheckpointStore(lambda: 1_000_000.0)
        self.store_id = identify(self.files)

    def stored(
        self, ms_id: str, *names_of: str, path: str = "/", spec: MicroserviceSpec | None = None, **about: Any
    ) -> None:
        """Leave checkpoints of these names, and their description."""
        record = MicroserviceRecord(spec or MicroserviceSpec("shop:Counter", name=f"name-{ms_id}", dms=KEEPING))
        for name in names_of:
            url = f"checkpoints/{ms_id}{path.rstrip('/')}/{name}"
            self.files.write(url, encode_file(f"state of {url}".encode()).parts)
        encoded = encode_description(Description(record, **about))
        self.files.write(names.description(ms_id, path, encoded.sha256), encoded.parts)

    def rebuilding(self, **options: Any) -> Rebuilding:
        return Rebuilding(
            store=self.store,
            keys=self.keys,
            access=StoreAccess(self.files),
            chains=Chains(),
            clock=self.clock,
            **options,
        )

    async def run(self, **options: Any) -> dict[str, Outcome]:
        return {one.id: one for one in await self.rebuilding(**options).run()}

    async def group(self, ms_id: str, path: str = "/") -> GroupDocument | None:
        record = await self.store.get(self.keys.group(slot_of(ms_id), ms_id, path))
        return decode(record.value, GroupDocument) if record is not None else None

    async def manifest(self, ms_id: str, path: str = "/") -> list[int]:
        record = await self.store.get(self.keys.manifest(ms_id, path))
        assert record is not None
        return [entry.sequence for entry in decode(record.value, Manifest).entries]


@pytest_asyncio.fixture
async def world() -> AsyncIterator[World]:
    clock = RealClock()
    store = MemoryStore(MemoryEtcd(clock), clock=clock)
    yield World(store)
    await store.aclose()


async def test_everything_is_written_and_nothing_twice(world: World) -> None:
    """Record, name, document and manifest; a second run leaves them alone."""
    told: list[tuple[int, int]] = []
    world.stored("a1", "1-1-aa", "1-2-aa", "2-3-aa")
    world.stored("b2", "5-9-aa")
    found = await world.run(progress=lambda done, of: told.append((done, of)))
    assert {one.outcome for one in found.values()} == {BACK}
    assert told == [(1, 2), (2, 2)]
    assert found["a1"].checkpoint == "2-3"
    record = await world.store.get(world.keys.microservice(slot_of("a1"), "a1"))
    assert record is not None
    assert decode(record.value, MicroserviceRecord).spec.name == "name-a1"
    name = await world.store.get(world.keys.name("name-a1"))
    assert name is not None
    assert name.value == b"a1"
    document = await world.group("a1")
    assert document is not None
    assert (document.epoch, document.store_id, document.replicas) == (1_000_000, world.store_id, ())
    assert await world.manifest("a1") == [3, 2]
    before = await world.store.list(world.keys.root)
    assert {one.outcome for one in (await world.run()).values()} == {THERE}
    assert await world.store.list(world.keys.root) == before


async def test_each_rebuilding_has_epochs_of_its_own(world: World) -> None:
    """Even if etcd is lost again before there is any new checkpoint: found by simulation (explicit-checkpoint, seed 2)."""
    world.stored("a1", "1-1-aa")
    for number in (1, 2, 3):
        await world.run(dry_run=True)
        await world.run()
        assert (await world.run())["a1"].outcome == THERE
        document = await world.group("a1")
        assert document is not None
        assert document.epoch == number * 1_000_000
        await world.store.txn([], [Delete(world.keys.root, prefix=True)])


async def test_what_never_had_a_checkpoint_is_not_spoken_of(world: World) -> None:
    """A description alone is left by a creation that failed, or a deletion."""
    world.stored("a1")
    assert await world.run() == {}


async def test_a_dry_run_changes_nothing(world: World) -> None:
    """Neither etcd nor the store, where logs are not even sealed."""
    world.stored("a1", "1-1-aa")
    world.files.open_segment("checkpoints/a1/1-1-aa.log")
    before = world.files.list("")
    assert (await world.run(dry_run=True))["a1"].outcome == PLANNED
    assert world.files.list("") == before
    assert await world.store.list(world.keys.root) == ([], 1)
    await world.run()
    assert world.files.exists("checkpoints/a1/1-1-aa.log.sealed")


async def test_what_is_there_is_left_alone(world: World) -> None:
    """A microservice of the same id is not touched; one of the same name keeps it, and the other is reported."""
    world.stored("a1", "1-1-aa")
    world.stored("b2", "1-1-aa", spec=MicroserviceSpec("shop:Counter", name="hits", dms=KEEPING))
    record = MicroserviceRecord(MicroserviceSpec("shop:New"))
    group = GroupDocument(phase=Phase.ACTIVE, epoch=3)
    await world.store.txn(
        [],
        [
            Put(world.keys.microservice(slot_of("a1"), "a1"), encode(record)),
            Put(world.keys.group(slot_of("a1"), "a1", "/"), encode(group)),
            Put(world.keys.name("hits"), b"c3"),
        ],
    )
    found = await world.run()
    assert found["a1"].outcome == THERE
    assert await world.group("a1") == group
    assert found["b2"].outcome == TAKEN
    assert "c3" in found["b2"].why
    assert not found["b2"].is_good
    assert await world.group("b2") is None


async def test_of_two_of_a_name_one_comes_back(world: World) -> None:
    """The other is reported, whichever was written last by then."""
    spec = MicroserviceSpec("shop:Counter", name="hits", dms=KEEPING)
    world.stored("a1", "1-1-aa", spec=spec)
    world.stored("b2", "1-1-aa", spec=spec)
    assert sorted(one.outcome for one in (await world.run()).values()) == [TAKEN, BACK]


async def test_damage_is_told_and_the_one_before_is_taken(world: World) -> None:
    """The newest intact checkpoint; without any the microservice is not written, and the run goes on."""
    world.stored("a1", "1-1-aa")
    world.files.write("checkpoints/a1/1-2-aa", [b"torn"])
    world.stored("b2")
    world.files.write("checkpoints/b2/1-1-aa", [b"torn"])
    world.files.write("checkpoints/c3/1-1-aa", encode_file(b"state").parts)
    found = await world.run()
    assert found["a1"].outcome == BACK
    assert found["a1"].why.startswith("checkpoint 1-2 is damaged (")
    assert await world.manifest("a1") == [1]
    assert found["b2"].outcome == FAILED
    assert found["b2"].why.startswith("none of its 1 checkpoints is intact")
    assert await world.group("b2") is None
    assert found["c3"] == Outcome("c3", FAILED, why=UNDESCRIBED)


async def test_what_its_managers_do_not_keep_is_not_brought_back(world: World) -> None:
    """A microservice that was changed to managers without checkpoints, or has ones that are not known here."""
    world.stored("a1", "1-1-aa", spec=MicroserviceSpec("shop:Counter"))
    world.stored("b2", "1-1-aa", spec=MicroserviceSpec("shop:Counter", dms=(DmSpec("Unheard"),)))
    found = await world.run()
    assert found["a1"].why == "its managers keep no checkpoints any more"
    assert found["b2"].outcome == FAILED
    assert "Unheard" in found["b2"].why


async def test_a_folder_that_is_no_store_is_refused(world: World) -> None:
    """Rather than reported as a cluster without microservices."""
    world.files.delete(names.IDENTITY)
    with pytest.raises(Invalid, match="amino-store-id"):
        await world.run()


async def test_logs_stay_with_their_checkpoints(world: World) -> None:
    """The newest one is open, for whoever restores it to find its end; the older one has its size."""
    world.stored("a1", "1-1-aa", "1-2-aa")
    for name in ("1-1-aa", "1-2-aa"):
        url = f"checkpoints/a1/{name}"
        world.files.open_segment(names.log_of(url)).append(log_format.frame(log_format.seed_of(url), 1, [b"call"]))
    await world.run()
    record = await world.store.get(world.keys.manifest("a1", "/"))
    assert record is not None
    sizes = [(entry.log, entry.log_size) for entry in decode(record.value, Manifest).entries]
    assert sizes == [(True, -1), (True, len(log_format.frame(0, 1, [b"call"])))]


def _sharded(world: World, **about: Any) -> None:
    for shard in "012":
        world.stored(
            "a1", "4-1-aa", path=f"/{shard}", spec=MicroserviceSpec("shop:Map", name="map", dms=SHARDED), **about
        )


async def test_shards_are_written_below_their_root(world: World) -> None:
    """Each with its manifest, and the root once all are there."""
    _sharded(world, shards=Transition(("0", "1"), ("0", "1", "2"), 7))
    found = await world.run()
    assert found["a1"].outcome == BACK
    assert found["a1"].groups == 4
    root = await world.group("a1")
    assert root is not None
    assert (root.phase, root.children) == (Phase.ACTIVE, ("0", "1"))
    for shard in "012":
        assert await world.manifest("a1", f"/{shard}") == [1]


async def test_an_interrupted_run_is_finished_by_the_next(world: World) -> None:
    """After any number of writes: until then the root is lost, and then everything is there once."""
    for writes in range(1, 6):
        inner = MemoryStore(MemoryEtcd(world.clock), clock=world.clock)
        world.store = _Stopping(inner, writes)  # type: ignore[assignment]
        world.files = MemoryCheckpointStore(lambda: 1_000_000.0)
        world.store_id = identify(world.files)
        _sharded(world)
        if writes < 5:
            with pytest.raises(CoordinationUnavailable):
                await world.run()
            root = await world.group("a1")
            assert root is not None
            assert root.phase == Phase.LOST
        world.store = inner
        children = {path: await world.group("a1", path) for path in ("/0", "/1", "/2")}
        assert (await world.run())["a1"].outcome in (BACK, THERE)
        root = await world.group("a1")
        assert root is not None
        assert (root.phase, root.reason) == (Phase.ACTIVE, "")
        for path, before in children.items():
            after = await world.group("a1", path)
            assert after is not None
            assert before in (None, after)
        await inner.aclose()


class _Stopping:
    """Lets so many writes through and then no more, as if the command were ended there."""

    def __init__(self, inner: MemoryStore, writes: int) -> None:
        self._inner = inner
        self._left = writes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def txn(self, *args: Any) -> Any:
        if not self._left:
            raise CoordinationUnavailable("ended")
        self._left -= 1
        return await self._inner.txn(*args)


async def test_code_comes_back_from_the_store(world: World) -> None:
    """A bundle in the store gets its record again; one that was in etcd only has to be pushed again."""
    content = b"PK a folder"
    sha256 = hashlib.sha256(content).hexdigest()
    world.files.write(names.code(sha256), [content])
    spec = MicroserviceSpec("shop:Counter", dms=KEEPING)
    world.stored("a1", "1-1-aa", spec=msgspec.structs.replace(spec, code=sha256))
    world.stored("b2", "1-1-aa", spec=msgspec.structs.replace(spec, code="0" * 64))
    found = await world.run()
    assert found["a1"].why == ""
    record = await world.store.get(world.keys.code(sha256))
    assert record is not None
    assert decode(record.value, CodeRecord).kind == "zip"
    assert found["b2"].outcome == BACK
    assert "push it again" in found["b2"].why


async def test_states_are_looked_up_afterwards(world: World) -> None:
    """What servers have made of the documents meanwhile is what the operator is told."""
    world.stored("a1", "1-1-aa")
    run = world.rebuilding()
    outcomes = await run.run()
    assert await run.servers() == 0
    (seen,) = await run.look(outcomes)
    assert seen.state == "recovering"
    assert not seen.is_good
    lost = GroupDocument(phase=Phase.LOST, reason="torn")
    await world.store.txn([], [Put(world.keys.group(slot_of("a1"), "a1", "/"), encode(lost))])
    (seen,) = await run.look(outcomes)
    assert (seen.state, seen.why) == ("lost", "torn")


async def _restored(world: World) -> None:
    """Leave an etcd from before the newest checkpoints: of a microservice with them, one without any, and one in memory."""
    slot, keys = slot_of, world.keys
    group = GroupDocument(phase=Phase.ACTIVE, epoch=4, constructed=True, replicas=(ReplicaDocument("4-a", "s1", 9),))
    specs = {
        "a1": MicroserviceSpec("shop:Counter", name="name-a1", dms=KEEPING),
        "b2": MicroserviceSpec("shop:Counter", dms=KEEPING),
        "c3": MicroserviceSpec("shop:Counter"),
    }
    old = Manifest(entries=(CheckpointEntry(4, 1, "checkpoints/a1/4-1-aa", "", 1),))
    puts: list[Any] = [
        Put(keys.server("s1"), b"record"),
        Put(keys.beat("s1"), b"beat"),
        Put(keys.cluster, encode(ClusterDocument(hash_seed=7, counts_from=10**18))),
        Put(keys.name("name-a1"), b"a1"),
        Put(keys.manifest("a1", "/"), encode(old)),
    ]
    for ms_id, spec in specs.items():
        puts.append(Put(keys.microservice(slot(ms_id), ms_id), encode(MicroserviceRecord(spec))))
        puts.append(Put(keys.group(slot(ms_id), ms_id, "/"), encode(group)))
    await world.store.txn([], puts)
    world.stored("a1", "5-2-aa")


async def test_an_etcd_from_a_backup_follows_the_store(world: World) -> None:
    """Checkpoints that it does not know count; what the store does not have is lost; all numbers are above those of before."""
    await _restored(world)
    plain = await world.run()
    assert plain["a1"].outcome == THERE
    assert (await world.run(restored=True, dry_run=True))["a1"].outcome == PLANNED
    found = await world.run(restored=True, look_s=0.0)
    assert found["a1"].outcome == BACK
    assert await world.manifest("a1") == [2]
    for ms_id, phase in (("a1", Phase.ACTIVE), ("b2", Phase.LOST), ("c3", Phase.ACTIVE)):
        document = await world.group(ms_id)
        assert document is not None
        assert (document.phase, document.epoch, document.replicas) == (phase, 1_000_000, ())
    assert await world.rebuilding().servers() == 0
    record = await world.store.get(world.keys.cluster)
    assert record is not None
    cluster = decode(record.value, ClusterDocument)
    assert (cluster.hash_seed, cluster.counts_from) == (7, 10**18 + 1)
    assert (await world.run(restored=True, look_s=0.0))["a1"].outcome == BACK


async def test_a_restored_etcd_is_not_touched_while_a_server_runs(world: World) -> None:
    """It would bring microservices back from checkpoints that are not the newest."""
    await _restored(world)
    before = await world.store.list(world.keys.groups_prefix)
    beats = [0]
    listed = world.store.list

    async def beating(prefix: str) -> Any:
        beats[0] += 1
        await world.store.txn([], [Put(world.keys.beat("s1"), b"%d" % beats[0])])
        return await listed(prefix)

    world.store.list = beating  # type: ignore[method-assign, assignment]
    with pytest.raises(Conflict, match="servers run: s1"):
        await world.run(restored=True, look_s=0.0)
    assert (await listed(world.keys.groups_prefix))[0] == before[0]
