"""Unpacking archives that mean harm, and archives that met with an accident."""

from __future__ import annotations

import io
import os
import stat
import threading
import zipfile
from pathlib import Path

import pytest

from amino.code.extraction import unpack
from amino.errors import CodeUnavailable

SHA = "a" * 64


def _zip(files: dict[str, bytes], modes: dict[str, int] | None = None) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = (modes or {}).get(name, 0o100644) << 16
            archive.writestr(entry, content)
    return packed.getvalue()


def test_unpacks_once(tmp_path: Path) -> None:
    """The files are there; a second unpacking uses them."""
    content = _zip({"a/b.py": b"x = 1", "c.py": b""})
    folder = unpack(content, SHA, tmp_path / "cache")
    assert (folder / "a" / "b.py").read_bytes() == b"x = 1"
    before = (folder / "c.py").stat().st_mtime_ns
    assert unpack(content, SHA, tmp_path / "cache") == folder
    assert (folder / "c.py").stat().st_mtime_ns == before


@pytest.mark.parametrize("name", ["../evil.py", "a/../../evil.py", "/evil.py", "a\\evil.py", "C:evil.py", ".."])
def test_entries_stay_inside(tmp_path: Path, name: str) -> None:
    """An entry that would land elsewhere is refused and nothing at all is written."""
    with pytest.raises(CodeUnavailable, match="not a plain file inside"):
        unpack(_zip({"ok.py": b"", name: b"evil"}), SHA, tmp_path / "cache")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_links_are_refused(tmp_path: Path) -> None:
    """A symbolic link in an archive could lead anywhere."""
    with pytest.raises(CodeUnavailable, match="not a plain file"):
        unpack(_zip({"link": b"/etc/passwd"}, {"link": stat.S_IFLNK | 0o777}), SHA, tmp_path / "cache")


def test_bombs_are_stopped(tmp_path: Path) -> None:
    """What is unpacked counts, and nothing stays of a bomb."""
    with pytest.raises(CodeUnavailable, match="more than 100000 bytes"):
        unpack(_zip({"bomb.py": b"0" * 1_000_000}), SHA, tmp_path / "cache", bytes_max=100_000)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("content", [b"", b"no zip at all", _zip({"a.py": b"x" * 1000})[:60]])
def test_garbage_is_refused(tmp_path: Path, content: bytes) -> None:
    """Bytes that are no archive get a clear error."""
    with pytest.raises(CodeUnavailable, match="cannot be unpacked"):
        unpack(content, SHA, tmp_path / "cache")


def test_a_damaged_cache_is_not_used(tmp_path: Path) -> None:
    """A cached folder with other content, fewer or more files is passed over for a fresh one."""
    content = _zip({"a.py": b"x = 1", "b.py": b"y = 1"})
    folder = unpack(content, SHA, tmp_path)
    for damage in (
        lambda: (folder / "a.py").write_bytes(b"x = 2"),
        (folder / "a.py").unlink,
        lambda: ((folder / "a.py").write_bytes(b"x = 1"), (folder / "more.py").write_bytes(b"")),
    ):
        damage()
        fresh = unpack(content, SHA, tmp_path)
        assert fresh != folder
        assert {path.name: path.read_bytes() for path in fresh.iterdir()} == {"a.py": b"x = 1", "b.py": b"y = 1"}


def test_many_at_once_share_one_folder(tmp_path: Path) -> None:
    """Threads that unpack the same bundle at the same time all get a good folder and leave one."""
    content = _zip({f"m{n}.py": b"x" * 1000 for n in range(50)})
    folders: list[Path] = []
    start = threading.Barrier(6)

    def work() -> None:
        start.wait(10)
        folders.append(unpack(content, SHA, tmp_path))

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert set(folders) == {tmp_path / SHA}
    assert [path.name for path in tmp_path.iterdir()] == [SHA]


@pytest.mark.skipif(os.name == "nt", reason="Windows folders have access lists, not modes")
def test_a_cache_that_others_may_write_to_is_refused(tmp_path: Path) -> None:
    """Code is not unpacked where somebody else could replace it."""
    cache = tmp_path / "cache"
    cache.mkdir()
    cache.chmod(0o777)
    with pytest.raises(CodeUnavailable, match="others may write"):
        unpack(_zip({"a.py": b""}), SHA, cache)
