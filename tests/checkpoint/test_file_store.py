"""The file protocol: what survives faults of the file system, and what an operator is told."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from amino.checkpoint.file_store import FileStore, folder_of
from amino.checkpoint.object_store import ObjectStore
from amino.checkpoint.store import open_store
from amino.errors import AlreadyExists, Invalid, StoreFailed


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


def _raising(code: int) -> Any:
    def fail(*_: Any, **__: Any) -> Any:
        raise OSError(code, os.strerror(code))

    return fail


@pytest.mark.parametrize(
    ("function", "code", "kind", "remedy"),
    [
        ("write", errno.ENOSPC, "full", "free space"),
        ("write", errno.EDQUOT, "full", "quota"),
        ("fsync", errno.EIO, "broken", "check the file system"),
        ("open", errno.EROFS, "denied", "mount it for writing"),
        ("open", errno.EACCES, "denied", "user"),
        ("link", errno.ENOSPC, "full", "free space"),
    ],
)
def test_a_failed_write_leaves_nothing(
    root: Path, monkeypatch: pytest.MonkeyPatch, function: str, code: int, kind: str, remedy: str
) -> None:
    """Whatever the system refuses, the error names value and remedy, and no file stays, not even a partial one."""
    store = FileStore(root)
    with monkeypatch.context() as patch:
        patch.setattr(os, function, _raising(code))
        with pytest.raises(StoreFailed, match=remedy) as failure:
            store.write("a/k", [b"content"])
    assert failure.value.details["kind"] == kind
    assert "a/k" in str(failure.value)
    assert store.list("") == []
    assert list((root / ".partial").iterdir()) == []
    store.write("a/k", [b"content"])


def test_short_writes_are_continued(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A system that takes few bytes at a time still gets them all."""
    store = FileStore(root)
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, bytes(data[:7])))
    store.write("k", [b"0123456789" * 10])
    assert store.read("k") == b"0123456789" * 10


@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOTSUP])
def test_works_without_hard_links(root: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """Where the file system has no hard links, names are still written once."""
    store = FileStore(root)
    monkeypatch.setattr(os, "link", _raising(code))
    store.write("a", [b"1"])
    with pytest.raises(AlreadyExists):
        store.write("a", [b"2"])
    assert store.read("a") == b"1"
    assert list((root / ".partial").iterdir()) == []


def test_a_vanished_root_is_an_error(root: Path) -> None:
    """An unmounted share must not look like an empty store, nor be written to on the disk below it."""
    store = FileStore(root)
    store.write("a/k", [b"1"])
    shutil.rmtree(root)
    for attempt in (
        lambda: store.write("a/l", [b"2"]),
        lambda: store.read("a/k"),
        lambda: store.exists("a/k"),
        lambda: store.delete("a/k"),
        lambda: store.list(""),
    ):
        with pytest.raises(StoreFailed, match="mount it again") as failure:
            attempt()
        assert failure.value.details["kind"] == "gone"
    assert not root.exists()


def test_deleting_leaves_no_folder(root: Path) -> None:
    """The last file of a folder takes the folder with it, up to the root."""
    store = FileStore(root)
    store.write("checkpoints/m/0/1-1-a", [b"1"])
    store.write("checkpoints/n/1-1-a", [b"1"])
    store.delete("checkpoints/m/0/1-1-a")
    assert sorted(path.name for path in (root / "checkpoints").iterdir()) == ["n"]
    store.delete("checkpoints/n/1-1-a")
    assert [path.name for path in root.iterdir()] == [".partial"]


def test_writing_and_deleting_race_in_one_folder(root: Path) -> None:
    """A writer whose folder another one empties and removes at that moment makes it again."""
    store = FileStore(root)
    problems: list[BaseException] = []

    def work(name: str) -> None:
        try:
            for n in range(150):
                store.write(f"m/x/{name}-{n}", [b"1"])
                store.delete(f"m/x/{name}-{n}")
        except BaseException as problem:  # noqa: BLE001 - handed to the test
            problems.append(problem)

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert problems == []
    assert store.list("") == []


def test_sweep_removes_old_partial_files_only(root: Path) -> None:
    """What a crash left in the middle of a write goes when it is old enough, by the store's clock."""
    store = FileStore(root)
    store.write("k", [b"1"])
    old, young = root / ".partial" / "old", root / ".partial" / "young"
    old.write_bytes(b"half")
    young.write_bytes(b"half")
    os.utime(old, (1000, 1000))
    assert store.sweep(60.0) == 1
    assert [path.name for path in (root / ".partial").iterdir()] == ["young"]
    assert store.read("k") == b"1"


def test_urls(tmp_path: Path) -> None:
    """Plain paths and file URLs name the same folder; Windows drives are understood as fsspec does."""
    assert folder_of("file:///shared/amino") == folder_of("/shared/amino") == Path("/shared/amino")
    assert folder_of("file:///shared/with space") == Path("/shared/with space")
    first, second = open_store(str(tmp_path / "s")), open_store(f"file://{tmp_path}/s")
    first.write("k", [b"1"])
    assert second.read("k") == b"1"
    assert first.url == second.url == f"file://{tmp_path}/s"


def test_clusters_share_a_folder(tmp_path: Path) -> None:
    """Two clusters with one url do not see each other's files."""
    one, two = open_store(str(tmp_path), cluster="one"), open_store(str(tmp_path), cluster="two")
    one.write("k", [b"1"])
    assert two.read("k") is None


def test_unusable_urls_say_why(tmp_path: Path) -> None:
    """An empty url, an unknown scheme and a root that cannot be made are refused with the remedy."""
    with pytest.raises(Invalid, match="names no place"):
        open_store("")
    with pytest.raises(Invalid, match="nosuch"):
        open_store("nosuch://bucket")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreFailed, match="cannot open"):
        open_store(str(tmp_path / "file"))


def test_object_store_after_close(tmp_path: Path) -> None:
    """Using a closed store is reported as the bug it is."""
    store = ObjectStore.open(f"memory://{tmp_path.name}", cluster="", options={}, timeout_s=5)
    store.close()
    store.close()
    with pytest.raises(StoreFailed, match="closed"):
        store.read("k")
