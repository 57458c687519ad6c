"""Which store this is, and whether others see the same one."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest

from amino.checkpoint.file_store import FileStore
from amino.checkpoint.identity import announce, identify, prove_shared
from amino.contracts.documents import ServerRecord
from amino.errors import StoreFailed


def _record(name: str, store_id: str, pid: int = 1) -> ServerRecord:
    return ServerRecord(name, "127.0.0.1:1", store_id=store_id, pid=pid, started_at=1234.5)


def test_one_identity_for_all(tmp_path: Path) -> None:
    """Servers that open a new store at the same moment agree on its identity."""
    found: list[str] = []
    start = threading.Barrier(8)

    def work() -> None:
        store = FileStore(tmp_path / "s")
        start.wait(10)
        found.append(identify(store))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(found) == 8
    assert len(set(found)) == 1
    assert identify(FileStore(tmp_path / "other")) != found[0]


def test_a_damaged_marker_is_an_error(tmp_path: Path) -> None:
    """Something else under the marker's name is not overwritten."""
    store = FileStore(tmp_path)
    store.write("amino-store-id", [b"?"])
    with pytest.raises(StoreFailed, match="does not identify"):
        identify(store)


def test_sharing_is_proved_by_a_marker(tmp_path: Path) -> None:
    """A server that sees another one's marker shares its store; one with a copy of the folder does not."""
    store = FileStore(tmp_path / "s")
    store_id = identify(store)
    shutil.copytree(tmp_path / "s", tmp_path / "copy")
    first, second = _record("s1", store_id), _record("s2", store_id)
    prove_shared(store, store_id, [])
    announce(store, first)
    prove_shared(store, store_id, [first, second])
    copy = FileStore(tmp_path / "copy")
    assert identify(copy) == store_id
    with pytest.raises(StoreFailed, match=r"s1.*copy or a stale mount") as failure:
        prove_shared(copy, store_id, [first])
    assert failure.value.details["kind"] == "not-shared"
    prove_shared(copy, store_id, [_record("s3", "another store")])


def test_a_marker_of_an_earlier_run_proves_nothing(tmp_path: Path) -> None:
    """Each run leaves its own marker and removes its predecessors', so that a copy made before it lacks it."""
    store = FileStore(tmp_path / "s")
    store_id = identify(store)
    announce(store, _record("s1", store_id, pid=1))
    copy_root = tmp_path / "copy"
    shutil.copytree(tmp_path / "s", copy_root)
    later = _record("s1", store_id, pid=2)
    announce(store, later)
    announce(store, later)
    assert len(store.list("members/s1/")) == 1
    prove_shared(store, store_id, [later])
    with pytest.raises(StoreFailed, match="copy"):
        prove_shared(FileStore(copy_root), store_id, [later])
