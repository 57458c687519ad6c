"""Checkpoints of a group: written, published by guarded writes, found again, under faults of both stores."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from amino.contracts.documents import Manifest, Phase, decode
from amino.coordination.memory import Fate, MemoryStore
from amino.coordination.store import Delete
from amino.errors import CorruptCheckpoint, NotExecuted, StoreFailed
from tests.checkpoint.conftest import MS, Scene

Threaded = Callable[[Callable[[], Any]], asyncio.Future[Any]]


def _memory(scene: Scene) -> MemoryStore:
    assert isinstance(scene.store, MemoryStore)
    return scene.store


async def test_writes_and_finds_again(scene: Scene) -> None:
    """The newest checkpoint is the last one written, with its sequence."""
    checkpoints = scene.checkpoints()
    assert await checkpoints.newest() is None
    assert await checkpoints.write(b"one", keep=2) == 1
    assert await checkpoints.write(b"two", keep=2) == 2
    assert await checkpoints.newest() == (b"two", 2)
    assert await scene.checkpoints().newest() == (b"two", 2)


async def test_works_in_a_plain_thread(scene: Scene, in_thread: Threaded) -> None:
    """A blocking caller writes and reads on its own thread, driven in one step."""
    checkpoints = scene.checkpoints()
    assert await in_thread(lambda: checkpoints.write(b"one", keep=1)) == 1
    assert await in_thread(checkpoints.newest) == (b"one", 1)
    assert await in_thread(lambda: scene_write(checkpoints)) == 2


async def scene_write(checkpoints: Any) -> int:
    """Write from a coroutine of the test."""
    return await checkpoints.write(b"two", keep=1)


async def test_keeps_as_many_as_asked(scene: Scene) -> None:
    """Older files go once the newer one is published; the manifest never names a file that is gone."""
    checkpoints = scene.checkpoints()
    for n in range(5):
        await checkpoints.write(b"%d" % n, keep=2)
    await scene.settle_deletions()
    manifest = await scene.manifest()
    assert [entry.sequence for entry in manifest.entries] == [5, 4]
    assert scene.stored() == {entry.url for entry in manifest.entries}


async def test_sequence_goes_on_in_the_next_epoch(scene: Scene) -> None:
    """A new placement continues the sequence and keeps the older epoch's checkpoint as its predecessor."""
    await scene.checkpoints().write(b"old", keep=2)
    await scene.join("s2")
    await scene.place("s2", 2, replica="r2")
    new = scene.checkpoints("s2", 2, "r2")
    assert await new.newest() == (b"old", 1)
    assert await new.write(b"new", keep=2) == 2
    assert [(entry.epoch, entry.sequence) for entry in (await scene.manifest()).entries] == [(2, 2), (1, 1)]


async def test_an_edit_of_the_document_is_no_obstacle(scene: Scene) -> None:
    """When the document changed but still places us at this epoch, the write is repeated with its new revision."""
    checkpoints = scene.checkpoints()
    for n in range(1, 4):
        await scene.touch_document()
        assert await checkpoints.write(b"x", keep=1) == n


async def _moved(scene: Scene) -> None:
    await scene.join("s2")
    await scene.place("s2", 2)


async def _lost(scene: Scene) -> None:
    await scene.store.txn([], [Delete(scene.keys.server("s1"))])


async def _reborn(scene: Scene) -> None:
    session = scene.sessions["s1"]
    await scene.join("s1")
    scene.sessions["s1"] = session


async def _deleting(scene: Scene) -> None:
    await scene.place("s1", 1, phase=Phase.DELETING)


async def _deleted(scene: Scene) -> None:
    await scene.store.txn([], [Delete(scene.group_key)])


@pytest.mark.parametrize("happen", [_moved, _lost, _reborn, _deleting, _deleted])
@pytest.mark.parametrize("knows", [False, True])
async def test_nobody_publishes_after_losing_the_placement(scene: Scene, happen: Any, knows: bool) -> None:
    """Moved, lost, restarted, deleting or deleted: the write is refused as fenced and leaves no file of its own."""
    checkpoints = scene.checkpoints()
    if knows:
        await checkpoints.write(b"before", keep=2)
    before = await scene.manifest()
    await happen(scene)
    with pytest.raises(NotExecuted) as refused:
        await checkpoints.write(b"late", keep=2)
    assert refused.value.reason == "fenced"
    await scene.settle_deletions()
    assert await scene.manifest() == before
    assert scene.stored() == {entry.url for entry in before.entries}


async def test_the_session_must_be_valid(scene: Scene) -> None:
    """Without a valid session nothing is even stored."""
    checkpoints = scene.checkpoints()
    scene.sessions["s1"].is_valid = False
    with pytest.raises(NotExecuted) as refused:
        await checkpoints.write(b"x", keep=1)
    assert refused.value.reason == "fenced"
    assert scene.stored() == set()


@pytest.mark.parametrize("fate", [Fate.ANSWER_LOST, Fate.LANDS_LATER, Fate.LOST])
async def test_an_unknown_publication_is_settled(scene: Scene, fate: Fate) -> None:
    """Done without an answer, done late, or never done: the write ends with the checkpoint published exactly once."""
    checkpoints = scene.checkpoints()
    await checkpoints.write(b"first", keep=3)
    fates = [fate]
    memory = _memory(scene)
    memory.faults.fate = lambda writes: fates.pop() if writes and fates else Fate.ANSWERED
    memory.faults.land_later_s = lambda: 0.06
    assert await checkpoints.write(b"second", keep=3) == 2
    assert await checkpoints.write(b"third", keep=3) == 3
    manifest = await scene.manifest()
    assert [entry.sequence for entry in manifest.entries] == [3, 2, 1]
    assert len({entry.url for entry in manifest.entries}) == 3
    assert await checkpoints.newest() == (b"third", 3)


async def test_a_publication_that_stays_unknown_says_so(scene: Scene) -> None:
    """When etcd stays away, the caller learns that the outcome is unknown; whatever landed, the next write follows it."""
    checkpoints = scene.checkpoints(publish_timeout_s=0.3)
    await checkpoints.write(b"first", keep=3)
    memory = _memory(scene)
    memory.faults.fate = lambda writes: Fate.ANSWER_LOST if writes else Fate.ANSWERED
    with pytest.raises(StoreFailed, match="unknown") as failure:
        await checkpoints.write(b"second", keep=3)
    assert failure.value.details["kind"] == "unknown"
    memory.faults.fate = lambda _: Fate.ANSWERED
    assert await checkpoints.write(b"third", keep=3) == 3
    assert [entry.sequence for entry in (await scene.manifest()).entries] == [3, 2, 1]


async def test_fenced_after_an_unknown_publication_that_landed(scene: Scene) -> None:
    """If the lost answer hid a success, that success is reported although the placement is gone since."""
    checkpoints = scene.checkpoints()
    await checkpoints.write(b"first", keep=2)
    memory = _memory(scene)
    tries = 0

    def fate(writes: bool) -> Fate:
        nonlocal tries
        tries += writes
        return Fate.ANSWER_LOST if writes and tries == 1 else Fate.ANSWERED

    memory.faults.fate = fate
    writing = asyncio.ensure_future(checkpoints.write(b"second", keep=2))
    async for batch in scene.store.watch(scene.keys.manifest(MS, "/"), 1):
        if any(len(decode(event.record.value, Manifest).entries) == 2 for event in batch.events):
            break
    await scene.join("s2")
    await scene.place("s2", 2, "r2")
    assert await writing == 2
    assert await scene.checkpoints("s2", 2, "r2").newest() == (b"second", 2)


async def test_a_full_store_keeps_the_one_before(scene: Scene) -> None:
    """A refused write fails the call, leaves the previous checkpoint current, and works again once there is space."""
    checkpoints = scene.checkpoints()
    await checkpoints.write(b"one", keep=1)
    scene.files.full = True
    with pytest.raises(StoreFailed, match="No space"):
        await checkpoints.write(b"two", keep=1)
    assert await checkpoints.newest() == (b"one", 1)
    scene.files.full = False
    assert await checkpoints.write(b"three", keep=1) == 2


@pytest.mark.parametrize("damage", [b"", b"garbage", b"AMINOCKP"])
async def test_a_damaged_file_gives_way_to_the_one_before(scene: Scene, damage: bytes) -> None:
    """Restoring passes over a damaged file with an event; the next write drops it and its file."""
    checkpoints = scene.checkpoints()
    await checkpoints.write(b"one", keep=2)
    await checkpoints.write(b"two", keep=2)
    bad = (await scene.manifest()).entries[0].url
    scene.files.damage(bad, damage)
    restored = scene.checkpoints()
    assert await restored.newest() == (b"one", 1)
    assert [kind for kind, _ in scene.events] == ["checkpoint-damaged"]
    assert await restored.write(b"three", keep=2) == 3
    await scene.settle_deletions()
    assert [entry.sequence for entry in (await scene.manifest()).entries] == [3, 1]
    assert bad not in scene.stored()


async def test_torn_and_bit_flipped(scene: Scene) -> None:
    """A torn write and a flipped bit are both noticed; the intact one below them is restored."""
    checkpoints = scene.checkpoints()
    for state in (b"one" * 50, b"two" * 50):
        await checkpoints.write(state, keep=3)
    scene.files.torn = 1
    await checkpoints.write(b"three" * 50, keep=3)
    second = (await scene.manifest()).entries[1].url
    content = bytearray(scene.files.inner.read(second) or b"")
    content[-5] ^= 4
    scene.files.damage(second, bytes(content))
    assert await scene.checkpoints().newest() == (b"one" * 50, 1)


async def test_lost_unsynced_bytes(scene: Scene) -> None:
    """A device that lied about syncing costs its last checkpoint at power loss, noticed, and none before."""
    checkpoints = scene.checkpoints()
    await checkpoints.write(b"one", keep=2)
    scene.files.lies = True
    await checkpoints.write(b"two", keep=2)
    assert len(scene.files.power_loss()) == 1
    assert await scene.checkpoints().newest() == (b"one", 1)
    assert "missing" in str(scene.events)


async def test_none_intact(scene: Scene) -> None:
    """When nothing intact is left the error says so; nothing is restored, also when asked twice."""
    checkpoints = scene.checkpoints()
    await checkpoints.write(b"one", keep=2)
    await checkpoints.write(b"two", keep=2)
    for entry in (await scene.manifest()).entries:
        scene.files.damage(entry.url, b"?")
    for asked in (checkpoints, checkpoints, scene.checkpoints()):
        with pytest.raises(CorruptCheckpoint, match="none of the 2 checkpoints"):
            await asked.newest()


async def test_asked_twice_answers_twice(scene: Scene) -> None:
    """Finding the newest needs no change in between."""
    checkpoints = scene.checkpoints()
    await checkpoints.write(b"one", keep=1)
    assert await checkpoints.newest() == await checkpoints.newest() == (b"one", 1)


async def test_an_unreachable_store_is_no_damage(scene: Scene) -> None:
    """A store that cannot be read must not make an older state be restored."""
    checkpoints = scene.checkpoints()
    await checkpoints.write(b"one", keep=2)
    await checkpoints.write(b"two", keep=2)
    scene.files.unreachable = True
    with pytest.raises(StoreFailed) as failure:
        await scene.checkpoints().newest()
    assert not isinstance(failure.value, CorruptCheckpoint)
    scene.files.unreachable = False
    assert await scene.checkpoints().newest() == (b"two", 2)


async def test_concurrent_writes_are_published_in_order(scene: Scene, in_thread: Threaded) -> None:
    """Writes from the loop and from threads at once get distinct sequences and all are published."""
    checkpoints = scene.checkpoints()
    futures = [in_thread(lambda n=n: checkpoints.write(b"t%d" % n, keep=20)) for n in range(5)]
    tasks = [asyncio.ensure_future(checkpoints.write(b"l%d" % n, keep=20)) for n in range(5)]
    sequences = await asyncio.gather(*futures, *tasks)
    assert sorted(sequences) == list(range(1, 11))
    assert [entry.sequence for entry in (await scene.manifest()).entries] == list(range(10, 0, -1))


async def test_a_cancelled_write_leaves_the_next_one_free(scene: Scene) -> None:
    """Cancelling a write that waits for the store gives up its turn; the previous checkpoint stays current."""
    checkpoints = scene.checkpoints()
    await checkpoints.write(b"one", keep=2)
    scene.files.gate.clear()
    scene.files.entered.clear()
    writing = asyncio.ensure_future(checkpoints.write(b"two", keep=2))
    await asyncio.to_thread(scene.files.entered.wait, 10)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    scene.files.gate.set()
    assert await checkpoints.newest() == (b"one", 1)
    assert await checkpoints.write(b"three", keep=2) == 2


async def test_representation(scene: Scene) -> None:
    """Its repr names microservice, replica and epoch."""
    assert repr(scene.checkpoints()) == f"ReplicaCheckpoints({MS}/ of r1, epoch 1)"
