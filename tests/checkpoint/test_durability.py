"""What survives: a model of power loss at every system call, and kill -9 at hundreds of random moments."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from amino.checkpoint import format as file_format
from amino.checkpoint.file_store import FileStore
from tests.acceptance.figures import Figures
from tests.checkpoint.disk import Disk


def test_power_loss_after_a_write_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once a write has returned, file, name and all new folders on the way are synced; no name precedes its content."""
    with monkeypatch.context() as patch:
        disk = Disk(tmp_path, patch)
        store = FileStore(tmp_path / "store", "c1")
        for n in range(5):
            for key in (f"checkpoints/m{n % 2}/0/1-{n}-a", f"checkpoints/m{n % 2}/1-{n}-a", f"top{n}"):
                store.write(key, [b"one", b"two"])
                assert disk.survives(tmp_path / "store" / "c1" / key), key
                if n == 2:
                    store.delete(key)
    assert disk.violations == []


def test_folders_made_by_another_process_are_synced_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that another server made and may not have synced, even under a name we knew, is not relied upon."""
    with monkeypatch.context() as patch:
        disk = Disk(tmp_path, patch)
        store = FileStore(tmp_path / "store")
        store.write("m/a", [b"1"])
        store.delete("m/a")
        os.mkdir(tmp_path / "store" / "m")
        store.write("m/b", [b"2"])
        assert disk.survives(tmp_path / "store" / "m" / "b")


@pytest.mark.parametrize("omitted", ["file", "folder", "parent"])
def test_the_model_finds_a_missing_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, omitted: str) -> None:
    """The model itself is not blind: leaving out any one kind of sync is noticed."""
    with monkeypatch.context() as patch:
        disk = Disk(tmp_path, patch)
        store = FileStore(tmp_path / "store")
        counted = os.fsync
        if omitted == "file":
            patch.setattr(os, "fsync", lambda fd: None if os.path.isfile(disk._open[fd]) else counted(fd))
        elif omitted == "folder":
            patch.setattr(store, "_sync_from", lambda _: None)
        else:
            patch.setattr(store, "_sync_from", store._sync_folder)
        store.write("m/x/k", [b"1"])
        assert disk.violations or not disk.survives(tmp_path / "store" / "m" / "x" / "k")


WRITER = """
import os, sys
from pathlib import Path
from amino.checkpoint.file_store import FileStore
from amino.checkpoint import format as file_format

def write_until_killed(root, start):
    store = FileStore(root)
    n = start
    while True:
        n += 1
        encoded = file_format.encode(b"%d " % n * (n * 7919 % 20000))
        store.write(f"m/{n % 3}/{n}", encoded.parts)
        os.write(1, f"acknowledged {n} {encoded.sha256}\\n".encode())
        if n % 5 == 4:
            store.delete(f"m/{n % 3}/{n}")
            os.write(1, f"deleted {n}\\n".encode())

for line in sys.stdin:
    child = os.fork()
    if child == 0:
        write_until_killed(Path(sys.argv[1]), int(line))
    os.write(1, f"started {child}\\n".encode())
    os.waitpid(child, 0)
    os.write(1, b"ended\\n")
"""


def test_kill_at_200_random_moments(tmp_path: Path) -> None:
    """Whenever the writer is killed, what it acknowledged is there, whole, and whatever has a name is whole."""
    chosen = random.Random(20)
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert writer.stdin is not None
    assert writer.stdout is not None
    acknowledged: dict[int, str] = {}
    deleted: set[int] = set()
    try:
        for number in range(200):
            writer.stdin.write(b"%d\n" % (number * 1_000_000))
            writer.stdin.flush()
            child, lines_left = 0, chosen.randrange(1, 6)
            for line in writer.stdout:
                words = line.split()
                if words[0] == b"ended":
                    break
                if words[0] == b"started":
                    child = int(words[1])
                elif words[0] == b"acknowledged":
                    acknowledged[int(words[1])] = words[2].decode()
                else:
                    deleted.add(int(words[1]))
                lines_left -= 1
                if child and lines_left <= 0:
                    threading.Event().wait(chosen.uniform(0, 0.002))  # a random moment is what this is about
                    os.kill(child, signal.SIGKILL)
                    child, lines_left = 0, sys.maxsize
    finally:
        writer.stdin.close()
        writer.wait(10)
        writer.stdout.close()
    store = FileStore(tmp_path)
    there = {int(file.key.rpartition("/")[2]): file.key for file in store.list("")}
    assert len(acknowledged) > 200
    missing = set(acknowledged) - set(there)
    assert all(n % 5 == 4 for n in missing)  # deleted, or being deleted when killed
    assert not deleted & set(there)
    for n, key in there.items():
        content = store.read(key)
        assert content is not None
        sha256 = acknowledged.get(n) or content[28:60].hex()
        assert file_format.decode(content, sha256) == b"%d " % n * (n * 7919 % 20000)
    store.sweep(0.0)
    assert list((tmp_path / ".partial").iterdir()) == []
    told = f"200 kills while one is written, {len(acknowledged)} acknowledged"
    Figures("checkpoints").note("acknowledged files missing or broken", 0, "files", at_most=0, note=told)
