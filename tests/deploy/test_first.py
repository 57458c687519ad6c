"""The first process of the image, with a stand-in for ``amino``: what it passes on."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.waiting import until

FIRST = Path(__file__).resolve().parents[2] / "deploy" / "docker" / "first.sh"
STANDS_IN = """#!/bin/sh
echo "$$ $*" >>"$SEEN"
case "$1" in
  server) trap 'echo told >>"$SEEN"; exit 4' TERM; while [ "$HOW" = stay ]; do sleep 0.05; done; exit 3 ;;
  *) exit 7 ;;
esac
"""


@pytest.fixture
def begin(tmp_path: Path):
    """Start it with arguments; what the stand-in saw is in ``seen`` of the folder."""
    stands_in = tmp_path / "amino"
    stands_in.write_text(STANDS_IN)
    stands_in.chmod(0o755)
    started: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str, how: str = "end") -> subprocess.Popen[bytes]:
        kept = {
            **os.environ,
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "SEEN": str(tmp_path / "seen"),
            "HOW": how,
        }
        started.append(subprocess.Popen(["sh", str(FIRST), *arguments], env=kept))
        return started[-1]

    yield start
    for each in started:
        each.kill()
        each.wait()


def test_another_command_takes_its_place(begin, tmp_path):
    """It is the first process itself, and its exit code is the container's."""
    process = begin("describe", "a b")
    assert process.wait(10.0) == 7
    assert (tmp_path / "seen").read_text() == f"{process.pid} describe a b\n"


def test_a_server_is_its_child(begin, tmp_path):
    """Not the first process, whose end would be that of all others; its exit code is the container's."""
    process = begin("server", "--name", "s1")
    assert process.wait(10.0) == 3
    pid, _, arguments = (tmp_path / "seen").read_text().strip().partition(" ")
    assert arguments == "server --name s1"
    assert int(pid) != process.pid


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_server_is_told_to_stop_and_waited_for(begin, tmp_path, sent):
    """SIGTERM reaches it, however the container was told."""
    seen = tmp_path / "seen"
    process = begin("server", how="stay")
    until(lambda: seen.exists() and "server" in seen.read_text(), 10.0, "it was not started")
    process.send_signal(sent)
    assert process.wait(10.0) == 4
    assert seen.read_text().endswith("told\n")


def test_a_server_that_was_killed_is_told_so(begin, tmp_path):
    """The exit code says by which signal, as if it had been the first process."""
    seen = tmp_path / "seen"
    process = begin("server", how="stay")
    until(lambda: seen.exists() and "server" in seen.read_text(), 10.0, "it was not started")
    os.kill(int(seen.read_text().split()[0]), signal.SIGKILL)
    assert process.wait(10.0) == 128 + signal.SIGKILL
