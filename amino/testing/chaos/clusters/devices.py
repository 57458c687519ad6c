"""Client processes that are devices of one cluster, to be killed and started again.

Owns starting and ending them. Leaves what they do to ``device_client``, which they run, and signals to faults.
Invariants: each ends with this process, whatever becomes of it; a device that is started again is reached where it was.
Failure behaviour: one that does not come up is ``ClusterUnavailable`` with the end of what it said.
"""

from __future__ import annotations

import selectors
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from amino.errors import ClusterUnavailable
from amino.node.child_process import python_environment
from amino.testing.chaos.clusters import device_client
from amino.testing.chaos.clusters.device_client import SERVES, Task
from amino.testing.chaos.clusters.port import is_gone

START_S = LEAVE_S = 60.0
_END_S = 10.0
_TOLD_BYTES = 400


class Devices:
    """The device processes. All methods block.

    Args:
        tasks: by the device's name. folder: for what they say.
    """

    def __init__(self, tasks: Mapping[str, Task], folder: Path) -> None:
        self._tasks = dict(tasks)
        self._folder = folder
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def __repr__(self) -> str:
        return f"Devices({', '.join(self._tasks)})"

    def pid(self, name: str) -> int:
        """Return the id of a device's process, 0 if there is none."""
        process = self._running.get(name)
        return process.pid if process is not None and not is_gone(process.pid) else 0

    def log(self, name: str) -> Path:
        """Return the file with what a device says."""
        return self._folder / f"{name}.log"

    def revive(self, names: Sequence[str]) -> None:
        """Start those that do not run, and wait until they serve. Idempotent.

        Raises:
            ClusterUnavailable: one of them does not, in ``START_S`` seconds.
        """
        started = [name for name in names if not self.pid(name)]
        for name in started:
            self._end(name)
            self._start(name)
        for name in started:
            self._await_serving(name)

    def _start(self, name: str) -> None:
        task = msgspec.json.encode(self._tasks[name]).decode()
        with self.log(name).open("ab") as log:
            self._running[name] = subprocess.Popen(
                [sys.executable, "-P", device_client.__file__, task],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=python_environment(), bufsize=0,
            )  # fmt: skip

    def _await_serving(self, name: str) -> None:
        stdout = self._running[name].stdout
        assert stdout is not None
        with selectors.DefaultSelector() as ready:
            ready.register(stdout, selectors.EVENT_READ)
            if ready.select(START_S) and stdout.readline() == SERVES:
                return
        told = self.log(name).read_bytes()[-_TOLD_BYTES:].decode(errors="replace")
        raise ClusterUnavailable(f"device {name} did not come up; its log ends: {told}")

    def _end(self, name: str) -> None:
        process = self._running.pop(name, None)
        if process is not None:
            process.kill()
            process.wait(_END_S)
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    stream.close()

    def leave(self, name: str) -> None:
        """Have a device leave in order (SIGTERM), and wait until its process has ended.

        Raises:
            ClusterUnavailable: it has not in ``LEAVE_S`` seconds.
        """
        process = self._running.get(name)
        if process is None:
            return
        process.terminate()
        try:
            process.wait(LEAVE_S)
        except subprocess.TimeoutExpired:
            raise ClusterUnavailable(f"device {name} has not left after {LEAVE_S:g} s") from None

    def close(self) -> None:
        """End all at once. Idempotent."""
        for name in list(self._running):
            self._end(name)
