"""Finding processes of a server from outside."""

from __future__ import annotations

import subprocess
import sys

import pytest

from amino.testing.chaos.clusters.port import supervisor_of
from tests.waiting import until

FORKS = "import os, signal; print(os.fork(), flush=True); signal.pause()"
STARTS = "import signal, subprocess, sys; print(subprocess.Popen(sys.argv[2:]).pid, flush=True); signal.pause()"
WAITS = "import signal; signal.pause()"


@pytest.mark.skipif(sys.platform == "win32", reason="nothing forks there")
@pytest.mark.parametrize(("program", "found"), [(FORKS, False), (STARTS, True)], ids=["forked", "started"])
def test_what_a_first_process_has_just_forked_is_no_supervisor(program: str, found: bool) -> None:
    """Until it runs another program it has the first one's command, with ``server`` in it: taken for one, it would be waited for."""
    first = subprocess.Popen(
        [sys.executable, "-c", program, "server", sys.executable, "-c", WAITS, "server", "--name", "s1"],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert first.stdout is not None
        child = next(number for line in first.stdout if (number := int(line)))
        if found:  # a process that has just begun to run another program has no command at all for a moment
            until(lambda: supervisor_of(first.pid) == child, 30.0)
        else:
            assert supervisor_of(first.pid) == 0
    finally:
        subprocess.run(["pkill", "-KILL", "-s", str(first.pid)], check=False)
        first.communicate()
