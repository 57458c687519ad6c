"""Descriptions beside checkpoints, and what is found in a store without etcd."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from amino.checkpoint import log_format, names
from amino.checkpoint.access import StoreAccess
from amino.checkpoint.collector import UNKNOWN_HORIZON_S, collect, delete_all
from amino.checkpoint.description import Describer, Description, decode_description, encode_description, forget, sketch
from amino.checkpoint.format import NotIntact, encode
from amino.checkpoint.inventory import find_all, read_all
from amino.checkpoint.memory_store import MemoryCheckpointStore
from amino.contracts.documents import (
    CheckpointEntry,
    GroupDocument,
    Manifest,
    MicroserviceRecord,
    MicroserviceSpec,
    ReplicaDocument,
)
from amino.contracts.sharding import Transition
from amino.errors import StoreFailed
from tests.checkpoint.conftest import MS, Scene

RECORD = MicroserviceRecord(MicroserviceSpec("shop:Counter", name="hits"), b"args")
GROUP = GroupDocument(epoch=3, version=4, replicas=(ReplicaDocument("3-a", "s1", 7),), wanted=2, kind="replicated")


class Wall:
    """The store's clock, moved by hand."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def wall() -> Wall:
    return Wall()


@pytest.fixture
def store(wall: Wall) -> MemoryCheckpointStore:
    return MemoryCheckpointStore(wall)


class Known:
    """Implements ``About`` as the test says."""

    def __init__(self, description: Description | None) -> None:
        self.description = description
        self.number = 0
        self.asked = 0

    def revision(self) -> int:
        return self.number

    async def describe(self) -> Description | None:
        self.asked += 1
        return self.description


def _put(store: MemoryCheckpointStore, name: str, snapshot: bytes = b"state", path: str = "/") -> str:
    url = f"checkpoints/{MS}{path.rstrip('/')}/{name}"
    store.write(url, encode(snapshot).parts)
    return url


def _described(store: MemoryCheckpointStore, description: Description, path: str = "/") -> str:
    encoded = encode_description(description)
    key = names.description(MS, path, encoded.sha256)
    store.write(key, encoded.parts)
    return key


def test_a_description_comes_back_as_it_was() -> None:
    """Record, sketches of both documents and the change of shards; a damaged one is told from an intact one."""
    whole = Description(RECORD, sketch(GROUP), GroupDocument(children=("0", "1")), Transition(("0",), ("0", "1"), 5))
    data = b"".join(bytes(part) for part in encode_description(whole).parts)
    assert decode_description(data) == whole
    assert whole.group is not None
    assert whole.group.replicas == ()
    assert whole.group.wanted == 2
    with pytest.raises(NotIntact):
        decode_description(data[:-1])
    bare = b"".join(bytes(part) for part in encode_description(Description(RECORD)).parts)
    assert decode_description(bare) == Description(RECORD)


def test_a_later_description_is_told_from_an_earlier_one() -> None:
    """By the record's generation, then by the change of shards, then by the documents' epochs and versions."""
    first = Description(RECORD, GROUP)
    later = [
        Description(RECORD, GroupDocument(epoch=3, version=5)),
        Description(RECORD, GroupDocument(epoch=4)),
        Description(RECORD, None, GroupDocument(epoch=2)),
        Description(RECORD, None, None, Transition(("0",), ("0", "1"), 2)),
        Description(MicroserviceRecord(RECORD.spec, generation=1)),
    ]
    ordered = [first, *later]
    assert sorted(ordered, key=lambda one: one.order) == ordered


async def test_a_description_is_in_the_store_before_its_checkpoint(scene: Scene) -> None:
    """It is written with the first checkpoint, and again only when it says something else."""
    known = Known(Description(RECORD, GROUP))
    domain_of = scene.checkpoints()._domain.of
    checkpoints = domain_of(MS, "/", "r1", 1, about=known)
    await checkpoints.write(b"one", keep=1)
    (key,) = [each for each in scene.stored() if each.startswith(names.DESCRIPTIONS)]
    assert names.group_of_description(key) == (MS, "/")
    await checkpoints.write(b"two", keep=1)
    assert known.asked == 1
    known.number += 1
    known.description = Description(RECORD, GroupDocument(epoch=3, version=9, kind="replicated", wanted=2))
    await checkpoints.write(b"three", keep=1)
    assert len([each for each in scene.stored() if each.startswith(names.DESCRIPTIONS)]) == 2
    known.number += 1
    known.description = Description(RECORD, GroupDocument(epoch=3, version=10, kind="replicated", wanted=2))
    await checkpoints.write(b"four", keep=1)
    assert known.asked == 3
    assert len([each for each in scene.stored() if each.startswith(names.DESCRIPTIONS)]) == 2


async def test_what_is_gone_is_not_described(store: MemoryCheckpointStore) -> None:
    """Of a microservice that etcd does not know nothing is written."""
    known = Known(None)
    await Describer(StoreAccess(store), asyncio.get_running_loop(), known, MS, "/").keep()
    assert store.list("") == []


async def test_a_description_that_cannot_be_written_fails_its_checkpoint(scene: Scene) -> None:
    """No checkpoint is published that nothing could be brought back from; the next one tries again."""
    checkpoints = scene.checkpoints()._domain.of(MS, "/", "r1", 1, about=Known(Description(RECORD)))
    write = scene.files.write

    def refuse(key: str, parts: Any) -> None:
        if key.startswith(names.DESCRIPTIONS):
            raise StoreFailed("full", kind="full")
        write(key, parts)

    scene.files.write = refuse  # type: ignore[method-assign]
    with pytest.raises(StoreFailed):
        await checkpoints.write(b"one", keep=1)
    assert (await scene.manifest()).entries == ()
    scene.files.write = write  # type: ignore[method-assign]
    assert await checkpoints.write(b"one", keep=1) == 1


def test_finds_checkpoints_of_all_groups(store: MemoryCheckpointStore) -> None:
    """By id and path, newest first, with their logs; names that are not ours are passed over."""
    newest = _put(store, "10-2-ab")
    older = _put(store, "9-30-ab")
    _put(store, "9-29-ab")
    shard = _put(store, "1-1-cd", path="/0")
    store.open_segment(names.log_of(newest)).append(log_format.frame(log_format.seed_of(newest), 1, [b"a", b"b"]))
    store.write(f"checkpoints/{MS}/readme", [b"x"])
    _described(store, Description(RECORD))
    found = find_all(store)
    assert set(found) == {MS}
    groups = read_all(store, found[MS], intact_max=2, seal=())
    assert [one.entry.url for one in groups["/"].checkpoints] == [newest, older]
    assert [one.entry.url for one in groups["/0"].checkpoints] == [shard]
    assert groups["/"].checkpoints[0].logged
    assert groups["/"].checkpoints[0].entry.log
    assert groups["/"].description == Description(RECORD)
    assert not store.exists(names.seal_of(newest))


def test_seals_logs_of_the_groups_it_is_told(store: MemoryCheckpointStore) -> None:
    """Nobody goes on appending to a log that was read; of other groups nothing is changed."""
    here, there = _put(store, "1-1-ab"), _put(store, "1-1-ab", path="/0")
    for url in (here, there):
        store.open_segment(names.log_of(url))
    read_all(store, find_all(store)[MS], intact_max=2, seal=("/",))
    assert store.exists(names.seal_of(here))
    assert not store.exists(names.seal_of(there))


def test_damage_is_a_finding(store: MemoryCheckpointStore) -> None:
    """Damaged and missing files are told, and older ones looked for; a log without a checkpoint and without content is none."""
    intact = _put(store, "1-1-ab")
    store.write(f"checkpoints/{MS}/1-2-ab", [b"AMINOCKP but damaged"])
    gone = f"checkpoints/{MS}/1-3-ab"
    store.open_segment(names.log_of(gone)).append(log_format.frame(log_format.seed_of(gone), 1, [b"a"]))
    store.open_segment(names.log_of(f"checkpoints/{MS}/1-4-ab"))
    key = _described(store, Description(RECORD))
    store.delete(key)
    store.write(key, [b"damaged"])
    (group,) = read_all(store, find_all(store)[MS], intact_max=1, seal=()).values()
    assert [(one.entry.sequence, bool(one.problem), one.logged) for one in group.checkpoints] == [
        (3, True, True),
        (2, True, False),
        (1, False, False),
    ]
    assert group.checkpoints[-1].entry.url == intact
    assert group.description is None
    assert len(group.problems) == 1


async def test_a_deleted_microservice_loses_its_description_first(store: MemoryCheckpointStore) -> None:
    """A deletion that is cut short leaves checkpoints that nothing brings back."""
    _put(store, "1-1-ab")
    _described(store, Description(RECORD))
    deleted: list[str] = []
    delete = store.delete

    def noted(key: str) -> None:
        deleted.append(key)
        delete(key)

    store.delete = noted  # type: ignore[method-assign]
    assert await delete_all(StoreAccess(store), MS) == 2
    assert [key.partition("/")[0] for key in deleted] == ["descriptions", "checkpoints"]


async def test_descriptions_are_collected_when_replaced_or_alone(store: MemoryCheckpointStore, wall: Wall) -> None:
    """The newest one of each group stays while there is a checkpoint; of unknown microservices all stay for days."""
    access = StoreAccess(store)
    url = _put(store, "1-1-ab")
    _described(store, Description(RECORD))
    wall.now += 5000
    newest = _described(store, Description(RECORD, GROUP))
    known = {MS: (Manifest(entries=(CheckpointEntry(1, 1, url, "", 1),)),)}
    assert await collect(access, {}) == 0
    assert await collect(access, known) == 1
    assert [file.key for file in store.list(names.DESCRIPTIONS)] == [newest]
    wall.now += 5000
    assert await collect(access, known) == 0
    store.delete(url)
    assert await collect(access, {}) == 0
    assert await collect(access, {MS: ()}) == 1
    _described(store, Description(RECORD))
    wall.now += UNKNOWN_HORIZON_S
    assert await collect(access, {}) == 1


def test_what_keeps_no_checkpoints_any_more_is_forgotten(store: MemoryCheckpointStore) -> None:
    """After a change to managers without checkpoints nothing must bring old state back."""
    _described(store, Description(RECORD))
    _described(store, Description(RECORD), "/0")
    forget(store, MS)
    forget(store, MS)
    assert store.list("") == []
