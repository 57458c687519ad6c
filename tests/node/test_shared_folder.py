"""The folder that a supervisor shares with its kernel processes, and what is left of those of killed supervisors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from amino.node.shared_folder import shared_folder

_HOLD = """
import sys
from pathlib import Path
from amino.node.shared_folder import shared_folder
with shared_folder(Path(sys.argv[1])) as folder:
    (folder / "board-1").write_bytes(b"x")
    print(folder, flush=True)
    sys.stdin.read()
"""


def holder(where: Path) -> tuple[subprocess.Popen[str], Path]:
    """Start a process that has such a folder until its standard input ends; returns it, and the folder."""
    command = [sys.executable, "-c", _HOLD, str(where)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_what_a_killed_supervisor_leaves_goes_with_the_next_one(tmp_path: Path) -> None:
    """Memory is not used up by supervisors that are killed again and again; those that live keep theirs."""
    killed, left = holder(tmp_path)
    alive, kept = holder(tmp_path)
    killed.kill()
    killed.communicate()
    assert (left / "board-1").exists()
    with shared_folder(tmp_path) as mine:
        assert set(tmp_path.iterdir()) == {kept, mine}
        assert (kept / "board-1").exists()
    alive.communicate("")
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_ours_is_left(tmp_path: Path) -> None:
    """A folder without the file that says whose it is may be anything."""
    other = tmp_path / "amino-other"
    other.mkdir()
    with shared_folder(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == [other]


def test_without_such_a_place_it_is_a_temporary_folder(tmp_path: Path) -> None:
    """Memory is a matter of speed only."""
    with shared_folder(tmp_path / "missing") as folder:
        assert folder.is_dir()
    assert not folder.exists()
