"""Which checkpoints a fault may damage, and that damage is undone: nothing is touched that has nothing behind it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from amino.checkpoint import format as file_format
from amino.contracts.documents import CheckpointEntry, GroupDocument, Manifest, Phase, ReplicaDocument
from amino.testing.chaos.faults import store
from amino.testing.chaos.faults.store import CorruptSnapshot, damage, victims

NEWEST = CheckpointEntry(1, 2, "checkpoints/a/1-2-x", "", 0, 0.0, log=True)
BEFORE = CheckpointEntry(1, 1, "checkpoints/a/1-1-y", "", 0, 0.0, log=True, log_size=100)
PLACED = GroupDocument(phase=Phase.ACTIVE, replicas=(ReplicaDocument("r1", "s1", 7),))
OWNED = ("a", "/")


def found(
    *entries: CheckpointEntry, document: GroupDocument = PLACED, logged: bool = True, damaged: str = ""
) -> list[str]:
    """Return the urls that may be damaged."""
    manifests = {OWNED: Manifest(entries=entries)}
    chosen = victims({OWNED: document}, manifests, {"s1": 7}, lambda one: one.url != damaged, logged=logged)
    return [one.entry.url for one in chosen]


def test_what_leads_on_may_be_damaged() -> None:
    """The newest checkpoint may be damaged when the one before is intact and its log is known to its end."""
    assert found(NEWEST, BEFORE) == [NEWEST.url]
    assert found(NEWEST) == []
    assert found(NEWEST, msgspec.structs.replace(BEFORE, log_size=-1)) == []
    assert found(NEWEST, BEFORE, damaged=BEFORE.url) == []
    assert found(NEWEST, BEFORE, damaged=NEWEST.url) == [], "damaged twice, it would be whole again"


def test_objects_without_logs_are_others() -> None:
    """Objects that keep no log lose what their newest checkpoint held, so they are chosen only by the fault that says so."""
    plain = [msgspec.structs.replace(one, log=False, log_size=-1) for one in (NEWEST, BEFORE)]
    assert found(*plain) == []
    assert found(*plain, logged=False) == [NEWEST.url]
    assert found(NEWEST, BEFORE, logged=False) == []


def test_only_who_is_at_rest_is_chosen() -> None:
    """A group that is replicated, being lost, or on a server of an earlier incarnation is left alone."""
    replica = PLACED.replicas[0]
    for document in (
        msgspec.structs.replace(PLACED, replicas=(replica, ReplicaDocument("r2", "s1", 7))),
        msgspec.structs.replace(PLACED, phase=Phase.DELETING),
        msgspec.structs.replace(PLACED, replicas=(ReplicaDocument("r1", "s1", 6),)),
    ):
        assert found(NEWEST, BEFORE, document=document) == []


@pytest.mark.parametrize("how", [0, 1, 2])
def test_damage_is_found_and_undone(tmp_path: Path, how: int) -> None:
    """A file that is damaged in any way is not intact, and put back it is what it was."""
    encoded = file_format.encode(b"the state" * 100)
    file = tmp_path / "one"
    whole = b"".join(bytes(part) for part in encoded.parts)
    file.write_bytes(whole)
    put_back = damage(file, how)
    with pytest.raises(file_format.NotIntact):
        file_format.decode(file.read_bytes(), encoded.sha256)
    put_back()
    assert file.read_bytes() == whole
    file.unlink()
    put_back()
    assert not file.exists(), "what was dropped meanwhile stays away"


async def test_who_stands_still_is_not_kept_waiting_by_what_others_publish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files are chosen once what the stopped server has published is settled: its session ends soon."""
    monkeypatch.setattr(store, "_SETTLES_S", 0.0)
    looks = 0

    def entry(name: str, number: int) -> CheckpointEntry:
        file = tmp_path / "amino" / f"{name}-{number}"
        file.parent.mkdir(exist_ok=True)
        encoded = file_format.encode(b"state")
        file.write_bytes(b"".join(bytes(part) for part in encoded.parts))
        return CheckpointEntry(1, number, file.name, encoded.sha256, 0, 0.0)

    class View:
        name = "amino"

        async def servers(self) -> Any:
            return {"s1": (7, None), "s2": (8, None)}

        async def groups(self) -> Any:
            there = {name: GroupDocument(phase=Phase.ACTIVE, replicas=(ReplicaDocument("r", server, number),))
                     for name, server, number in (("a", "s1", 7), ("b", "s2", 8))}  # fmt: skip
            return {(name, "/"): document for name, document in there.items()}

        async def checkpoints(self) -> Any:
            nonlocal looks
            looks += 1
            newest = {"a": 2, "b": 2 + looks}
            return {
                (name, "/"): Manifest(entries=(entry(name, number), entry(name, number - 1)))
                for name, number in newest.items()
            }

    scene: Any = SimpleNamespace(view=View(), cluster=SimpleNamespace(store_folder=tmp_path))
    fault = CorruptSnapshot(scene, "s1")
    fault.hit = "s1"
    chosen = await fault._settled()
    assert [one.entry.url for one in chosen] == ["a-2"]
    assert looks == 2
