"""A client process that is a device, for tests that kill it: ``DeviceProcess`` here, and the program that it runs.

Owns starting, telling, breaking and ending such a process. Leaves what it should do to tests.
Invariant: the process ends with ``end`` or with this process.
Failure behaviour: what the program prints on its way to an error is in the assertion.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).resolve().parents[1]
ANSWER_S = 60.0


class DeviceProcess:
    """A device in a process of its own; a context manager.

    Args:
        name: of the device. options: further fields of ``amino.Device``.
    """

    def __init__(self, name: str, addresses: Sequence[str], etcd: Sequence[str], **options: Any) -> None:
        self.name = name
        fields = {"name": name, "etcd": ",".join(etcd), "session_ttl_s": 2, **options}
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.device_process",
                json.dumps({"addresses": list(addresses), "device": fields}),
            ],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.incarnation = 0

    def __enter__(self) -> Self:
        self.wait_serving()
        return self

    def __exit__(self, *exc: object) -> None:
        self.end()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def wait_serving(self) -> None:
        """Wait until it serves."""
        self.incarnation = self._answer()["serves"]

    def ask(self, **command: Any) -> Any:
        """Have it do something (see ``_do``); returns the result."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        answer = self._answer()
        assert "error" not in answer, answer["error"]
        return answer["result"]

    def kill(self) -> None:
        """SIGKILL it."""
        self._process.kill()
        self._process.wait(ANSWER_S)

    def freeze(self) -> None:
        """SIGSTOP it, and wait until it has stopped."""
        self._process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED)

    def thaw(self) -> None:
        """SIGCONT it."""
        self._process.send_signal(signal.SIGCONT)

    def terminate(self) -> int:
        """SIGTERM it, and wait until it has left; returns its exit code."""
        self._process.terminate()
        return self._process.wait(ANSWER_S)

    def close(self) -> int:
        """Have it leave its ``with`` block, and wait until it has ended; returns its exit code."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        return self._process.wait(ANSWER_S)

    def end(self) -> None:
        """End it, whatever it is doing. Idempotent."""
        self._process.kill()
        self._process.wait(ANSWER_S)
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None and not stream.closed:
                stream.close()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        late = threading.Timer(ANSWER_S, self._process.kill)
        late.start()
        try:
            line = self._process.stdout.readline()
        finally:
            late.cancel()
            late.join()
        assert line, f"device {self.name} ended without an answer, or took longer than {ANSWER_S} s"
        return json.loads(line)


def main() -> None:
    """Be a device until stdin ends; do what it says meanwhile."""
    import amino

    logging.basicConfig(level=os.environ.get("AMINO_TEST_LOG", "ERROR"))
    options = json.loads(sys.argv[1])
    with amino.connect(*options["addresses"], device=amino.Device(**options["device"])) as cluster:
        assert cluster.device is not None
        _say(serves=cluster.device.incarnation)
        for line in sys.stdin:
            try:
                _say(result=_do(cluster, **json.loads(line)))
            except amino.AminoError as error:
                _say(error=f"{type(error).__name__}: {error}")


def _do(cluster: Any, do: str, target: str = "", method: str = "", args: Sequence[Any] = (), times: int = 1) -> Any:
    """``call`` a method of a microservice, ``times`` in a row, and return the answers; ``leave``; tell the ``incarnation``."""
    if do == "call":
        found = getattr(cluster.get(target), method)
        return [found(*args) for _ in range(times)]
    if do == "leave":
        return cluster.device.leave()
    return cluster.device.incarnation


def _say(**what: Any) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
