"""``DurableSerializableRPC``: what is acknowledged is there after a loss, what failed is not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import amino
from amino.checkpoint.collector import collect, delete_all
from amino.checkpoint.object_store import ObjectStore
from amino.dm import (
    DHT,
    AtLeastOnceRPC,
    ConsensusRSM,
    DurableSerializableRPC,
    ExplicitCheckpoint,
    OptimisticTransactions,
    PeriodicCheckpoint,
)
from amino.dm.registry import check_chain
from amino.errors import CorruptCheckpoint, Invalid, NotExecuted, OutcomeUnknown, StoreFailed
from tests.dm.durable_world import MS, World


class Ledger:
    """Lines, in the order in which they were written."""

    def __init__(self) -> None:
        self.lines: list[Any] = []

    @amino.inline
    def write(self, line: Any) -> int:
        self.lines.append(line)
        return len(self.lines)

    @amino.inline
    def fail(self, line: Any) -> None:
        self.lines.append(line)
        raise KeyError(line)

    async def write_slowly(self, line: Any) -> int:
        self.lines.append(("begun", line))
        await asyncio.sleep(0)
        self.lines.append(("ended", line))
        return len(self.lines)

    @amino.readonly
    @amino.inline
    def read(self) -> list[Any]:
        return list(self.lines)


class Cheat(Ledger):
    """Answers otherwise each time."""

    count = 0

    @amino.inline
    def write(self, line: Any) -> int:
        type(self).count += 1
        super().write(line)
        return type(self).count


def run(tmp_path: Path, main: Callable[[World], Any], kind: type = Ledger, store: Any = None, **options: Any) -> None:
    """Run ``main`` on a world of one object."""

    async def inside() -> None:
        async with World(tmp_path, kind, DurableSerializableRPC(**options), store=store) as world:
            await main(world)

    asyncio.run(inside())


def test_what_was_acknowledged_comes_back(tmp_path: Path) -> None:
    """State and saved answers are there after two losses in a row; a retry runs nothing twice."""

    async def main(world: World) -> None:
        for n in range(1, 6):
            assert await world.call("write", n, sequence=n) == n
        for _ in range(2):
            await world.lose()
            assert await world.call("read", sequence=90) == [1, 2, 3, 4, 5]
        assert await world.call("write", 5, sequence=5, attempt=1) == 5
        assert await world.call("write", 6, sequence=6) == 6
        await world.lose()
        assert await world.call("read", sequence=91) == [1, 2, 3, 4, 5, 6]

    run(tmp_path, main)


def test_a_creation_is_durable(tmp_path: Path) -> None:
    """An object that was never called comes back as it was made."""

    async def main(world: World) -> None:
        await world.lose()
        assert await world.call("read", sequence=1) == []

    run(tmp_path, main)


def test_a_failed_call_leaves_the_state_before_it(tmp_path: Path) -> None:
    """Whatever it did is undone, in memory and after a loss; a retry gets the error and runs nothing."""

    async def main(world: World) -> None:
        for round_ in range(3):
            await world.call("write", round_, sequence=2 * round_ + 1)
            for attempt in (0, 1):
                with pytest.raises(KeyError):
                    await world.call("fail", "no", sequence=2 * round_ + 2, attempt=attempt)
        assert await world.call("read", sequence=90) == [0, 1, 2]
        assert await world.call("write", 2, sequence=5, attempt=1) == 3
        await world.lose()
        assert await world.call("read", sequence=91) == [0, 1, 2]
        with pytest.raises(KeyError):
            await world.call("fail", "no", sequence=6, attempt=1)
        assert await world.call("read", sequence=92) == [0, 1, 2]

    run(tmp_path, main)


def test_calls_run_one_at_a_time_and_share_syncs(tmp_path: Path) -> None:
    """Async methods do not overlap; calls that come together are synced together."""

    async def main(world: World) -> None:
        await asyncio.gather(*(world.call("write_slowly", n, sequence=n) for n in range(1, 41)))
        lines = world.target.instance.lines
        assert [word for word, _ in lines] == ["begun", "ended"] * 40
        log = world.target.context.checkpoints._log
        assert log is not None
        assert log.records == 40
        assert log._frames <= 10
        await world.lose()
        assert world.target.instance.lines == lines

    run(tmp_path, main, group_commit_s=1.0)


def test_new_segments_begin_and_old_ones_go(tmp_path: Path) -> None:
    """Every third call begins a segment with a checkpoint; only ``keep`` of them stay."""

    async def main(world: World) -> None:
        for n in range(1, 21):
            await world.call("write", n, sequence=n)
        await world.access._idle.wait(5.0)
        files = [file.key for file in world.files.inner.list("checkpoints/")]
        assert len([key for key in files if not key.endswith((".log", ".sealed"))]) == 2
        assert len([key for key in files if key.endswith(".log")]) == 2
        await world.lose()
        assert await world.call("read", sequence=90) == list(range(1, 21))

    run(tmp_path, main, snapshot_every=3)


def newest(world: World, suffix: str = "", back: int = 0) -> str:
    """Return the name of a checkpoint (or its log), counted back from the newest."""
    keys = [file.key for file in world.files.inner.list("checkpoints/") if not file.key.endswith((".log", ".sealed"))]
    keys.sort(key=lambda key: int(key.rpartition("/")[2].split("-")[1]))
    return keys[-1 - back] + suffix


def test_a_damaged_checkpoint_is_bridged_by_the_log_before_it(tmp_path: Path) -> None:
    """The one before, its log and the newest log lead to the same state, also after the next checkpoint."""

    async def main(world: World) -> None:
        for n in range(1, 9):
            await world.call("write", n, sequence=n)
        world.files.damage(newest(world), b"rubbish")
        for n in range(9, 12):
            await world.lose()
            assert await world.call("read", sequence=80 + n) == list(range(1, n))
            await world.call("write", n, sequence=n)

    run(tmp_path, main, snapshot_every=3)


@pytest.mark.parametrize("spoil", ["flip", "cut in the middle", "lost"])
def test_damage_to_what_was_acknowledged_is_reported(tmp_path: Path, spoil: str) -> None:
    """A log that is damaged where it was synced is never cut short silently."""

    async def main(world: World) -> None:
        for n in range(1, 6):
            await world.call("write", n, sequence=n)
        name = newest(world, ".log")
        content = world.files.inner.read(name)
        assert content is not None
        middle = len(content) - 40 if spoil == "flip" else len(content) // 2
        if spoil == "flip":
            world.files.damage(name, content[:middle] + bytes([content[middle] ^ 4]) + content[middle + 1 :])
        elif spoil == "lost":
            world.files.delete(name)
        else:
            world.files.damage(name, content[: middle - 9] + content[middle:])
        with pytest.raises(CorruptCheckpoint, match="acknowledged"):
            await world.lose()

    run(tmp_path, main)


def test_a_write_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    """Half a frame at the end was never acknowledged; the next loss reads no more of that log either."""

    async def main(world: World) -> None:
        for n in range(1, 4):
            await world.call("write", n, sequence=n)
        name = newest(world, ".log")
        content = world.files.inner.read(name)
        assert content is not None
        world.files.damage(name, content + b"AMLF\x99\x00\x00\x00half")
        await world.lose()
        assert await world.call("write", 4, sequence=4) == 4
        await world.lose()
        assert await world.call("read", sequence=90) == [1, 2, 3, 4]

    run(tmp_path, main)


def test_a_fenced_writer_never_acknowledges(tmp_path: Path) -> None:
    """Who was replaced finds the seal after its sync: unknown, and refused from then on; the successor lacks that call."""

    async def main(world: World) -> None:
        await world.call("write", 1, sequence=1)
        lost = await world.lose()
        with pytest.raises(OutcomeUnknown, match="sealed"):
            await world.call("write", 2, sequence=2, target=lost)
        for method, arguments in (("write", [3]), ("read", [])):
            with pytest.raises(NotExecuted) as refused:
                await world.call(method, *arguments, sequence=3, target=lost)
            assert refused.value.reason == "fenced"
        assert await world.call("read", sequence=90) == [1]
        assert await world.call("write", 9, sequence=4) == 2
        await world.lose()
        assert await world.call("read", sequence=91) == [1, 9]

    run(tmp_path, main)


def test_a_seal_set_by_mistake_only_costs_a_segment(tmp_path: Path) -> None:
    """A server that was to recover and came too late seals our log: the call is unknown, its retry is answered."""

    async def main(world: World) -> None:
        await world.call("write", 1, sequence=1)
        world.files.write(newest(world, ".log.sealed"), [b"sealed"])
        with pytest.raises(OutcomeUnknown):
            await world.call("write", 2, sequence=2)
        assert await world.call("write", 2, sequence=2, attempt=1) == 2
        await world.lose()
        assert await world.call("read", sequence=90) == [1, 2]

    run(tmp_path, main)


def test_a_full_disk_fails_calls_and_loses_nothing(tmp_path: Path) -> None:
    """The call that ran keeps its effect in memory; none is answered, reads included, until a checkpoint holds it."""

    async def main(world: World) -> None:
        await world.call("write", 1, sequence=1)
        world.files.full = True
        with pytest.raises(StoreFailed, match="kept in memory"):
            await world.call("write", 2, sequence=2)
        for method, arguments in (("write", [3]), ("read", [])):
            with pytest.raises(StoreFailed, match="was not run"):
                await world.call(method, *arguments, sequence=3)
        world.files.full = False
        assert await world.call("read", sequence=4) == [1, 2]
        assert await world.call("write", 2, sequence=2, attempt=1) == 2
        await world.lose()
        assert await world.call("read", sequence=90) == [1, 2]

    run(tmp_path, main)


def test_a_store_that_is_full_for_a_checkpoint_only_lengthens_the_log(tmp_path: Path) -> None:
    """While the log can be written, a checkpoint that is due and fails is no reason to fail a call."""

    async def main(world: World) -> None:
        world.files.full_for = "checkpoint"
        for n in range(1, 8):
            await world.call("write", n, sequence=n)
        assert "checkpoint-failed" in world.target.context.events
        await world.lose()
        assert await world.call("read", sequence=90) == list(range(1, 8))

    run(tmp_path, main, snapshot_every=3)


def test_a_class_that_is_not_deterministic_is_reported(tmp_path: Path) -> None:
    """An outcome that differs when the log is run again is no state to go on with."""

    async def main(world: World) -> None:
        await world.call("write", 1, sequence=1)
        with pytest.raises(CorruptCheckpoint, match="not deterministic"):
            await world.lose()

    run(tmp_path, main, kind=Cheat)


def test_undoing_a_call_of_such_a_class_is_unknown_and_goes_on(tmp_path: Path) -> None:
    """What the undoing led to is checkpointed before anything else is answered."""

    async def main(world: World) -> None:
        await world.call("write", 1, sequence=1)
        with pytest.raises(OutcomeUnknown, match="could not be undone"):
            await world.call("fail", 2, sequence=2)
        assert await world.call("read", sequence=3) == [1]
        await world.lose()
        assert await world.call("read", sequence=90) == [1]

    run(tmp_path, main, kind=Cheat)


def test_two_managers_that_keep_checkpoints_are_refused() -> None:
    """The object can come back from one's only; the reason is that of the declarations."""
    with pytest.raises(Invalid, match="PeriodicCheckpoint and DurableSerializableRPC cannot stand in one chain"):
        check_chain([PeriodicCheckpoint(), DurableSerializableRPC()])


def test_a_store_that_cannot_do_it_is_refused(tmp_path: Path) -> None:
    """Nothing is created where nothing could be made durable, and the error says which stores can."""
    store = ObjectStore.open(f"memory://{tmp_path.name}", cluster="c1", options={}, timeout_s=5)

    async def inside() -> None:
        world = World(tmp_path, Ledger, DurableSerializableRPC(), store=store)
        with pytest.raises(Invalid, match=r"only file:// and s3:// can"):
            await world.__aenter__()
        assert store.list("") == []
        await world.__aexit__()

    asyncio.run(inside())


def test_files_of_logs_are_collected_with_their_checkpoints(tmp_path: Path) -> None:
    """What a manifest names stays, its log and seal too; logs that nothing names go."""

    async def main(world: World) -> None:
        for n in range(1, 6):
            await world.call("write", n, sequence=n)
        world.files.inner.open_segment(f"checkpoints/{MS}/1-99-orphan.log").close()
        await world.lose()
        manifests = {MS: (await world.manifest(),)}
        assert await collect(world.access, manifests, horizon_s=0.0) == 1
        assert await world.call("read", sequence=90) == [1, 2, 3, 4, 5]
        await world.lose()
        assert await world.call("read", sequence=91) == [1, 2, 3, 4, 5]
        assert await delete_all(world.access, MS) > 2
        assert world.files.inner.list("") == []

    run(tmp_path, main)


def test_a_move_carries_what_no_log_holds(tmp_path: Path) -> None:
    """An object moved with an effect that could not be made durable is checkpointed before it answers again."""

    async def main(world: World) -> None:
        await world.call("write", 1, sequence=1)
        world.files.full = True
        with pytest.raises(StoreFailed):
            await world.call("write", 2, sequence=2)
        snapshot = world.target.snapshot_sealed()
        await world.place()
        world.target = world.shell()
        world.target.restore_sealed(snapshot)
        with pytest.raises(StoreFailed):
            await world.call("read", sequence=3)
        world.files.full = False
        assert await world.call("write", 2, sequence=2, attempt=1) == 2
        await world.lose()
        assert await world.call("read", sequence=4) == [1, 2]

    run(tmp_path, main)


@pytest.mark.parametrize(
    ("chain", "reason"),
    [
        ([DurableSerializableRPC(), ConsensusRSM()], "the others would not follow"),
        ([PeriodicCheckpoint(), ConsensusRSM()], "each of them would write"),
        ([ConsensusRSM(), DurableSerializableRPC()], "the others would not follow"),
        ([ConsensusRSM(), ExplicitCheckpoint()], "the others would not follow"),
        ([ConsensusRSM(), PeriodicCheckpoint(rollback_on_error=True)], "the others would not follow"),
        ([ConsensusRSM(), PeriodicCheckpoint()], ""),
        ([OptimisticTransactions(), DurableSerializableRPC()], ""),
        ([DHT(), DurableSerializableRPC()], ""),
    ],
    ids=lambda each: each.replace(" ", "-") if isinstance(each, str) else "-".join(type(one).__name__ for one in each),
)
def test_chains_with_replicas(chain: list[Any], reason: str) -> None:
    """What one replica does alone is refused with the reason; the rest combines."""
    if reason:
        with pytest.raises(Invalid, match=reason):
            check_chain([AtLeastOnceRPC(), *chain])
    else:
        check_chain([AtLeastOnceRPC(), *chain])


@pytest.mark.parametrize("log", [True, False], ids=["another-log", "a-checkpoint"])
def test_a_change_of_managers_that_was_given_up_loses_nothing(tmp_path: Path, log: bool) -> None:
    """Whoever publishes a checkpoint over our log seals it first: we notice, and go on from a checkpoint of our own."""

    async def main(world: World) -> None:
        await world.call("write", 1, sequence=1)
        other = world.checkpoints()
        snapshot = world.target.snapshot_sealed()
        if log:
            await (await other.begin_log(snapshot, 2, 0.0)).aclose()
        else:
            await other.write(snapshot, 1)
        await world.access._idle.wait(5.0)
        with pytest.raises(OutcomeUnknown, match="sealed"):
            await world.call("write", 2, sequence=2)
        assert await world.call("write", 2, sequence=2, attempt=1) == 2
        assert await world.call("write", 3, sequence=3) == 3
        await world.lose()
        assert await world.call("read", sequence=90) == [1, 2, 3]

    run(tmp_path, main)
