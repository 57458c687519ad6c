"""Power loss right after each of a thousand acknowledgements, on a disk that drops or garbles what was not synced."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from amino.checkpoint import file_store
from amino.dm import DurableSerializableRPC
from amino.errors import CorruptCheckpoint
from tests.acceptance.figures import Figures
from tests.checkpoint.disk import Disk
from tests.dm.durable_world import World
from tests.dm.test_durable_serializable import Ledger

ROUNDS = 1_000


async def _missing(folder: Path, disk: Disk, rounds: int) -> int:
    """Lose the power ``rounds`` times, each right after an acknowledgement; return how many of the acknowledged writes were missing then."""
    chosen = random.Random(3)
    missing = 0
    async with World(folder, Ledger, DurableSerializableRPC(snapshot_every=5, group_commit_s=1.0)) as world:
        acknowledged: list[int] = []
        sequence = 0
        for _ in range(rounds):
            several = chosen.choice([1, 1, 1, 1, 6])
            numbers = range(sequence + 1, sequence + 1 + several)
            sequence += several
            await asyncio.gather(*(world.call("write", n, sequence=n, floor=numbers[0]) for n in numbers))
            acknowledged += numbers
            if chosen.random() < 0.2:  # a call that has run and is not acknowledged yet
                sequence += 1
                begun = asyncio.create_task(world.call("write", sequence, sequence=sequence, floor=sequence))
                for _ in range(chosen.randrange(12)):
                    await asyncio.sleep(0)
                begun.cancel()
                await asyncio.gather(begun, return_exceptions=True)
            await world.stop()
            disk.lose_power(chosen)
            try:
                await world.lose()
            except CorruptCheckpoint:
                return missing + len(acknowledged)
            lines = world.target.instance.lines
            assert len(set(lines)) == len(lines)
            missing += len(set(acknowledged) - set(lines))
    return missing


@pytest.mark.timeout(300)
def test_nothing_acknowledged_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever else the disk did not keep, it has every acknowledged write, each once."""
    with monkeypatch.context() as patch:
        missing = asyncio.run(_missing(tmp_path, Disk(tmp_path, patch, really=False), ROUNDS))
    told = f"power lost right after each of {ROUNDS} acknowledgements"
    Figures("DurableSerializableRPC").note("acknowledged writes missing", missing, "writes", at_most=0, note=told)


@pytest.mark.parametrize("omitted", ["content", "folder"])
def test_the_same_fails_without_the_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, omitted: str) -> None:
    """The test above notices when appends, or the folder of a new segment, are not synced."""
    with monkeypatch.context() as patch:
        disk = Disk(tmp_path, patch, really=False)
        if omitted == "content":
            patch.setattr(file_store, "_sync_content", lambda _: None)
        else:
            patch.setattr(file_store.FileStore, "_sync_from", lambda *_: None)
        assert asyncio.run(_missing(tmp_path, disk, 50)) > 0
