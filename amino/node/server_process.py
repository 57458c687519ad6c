"""A server for another program to start: ``python -m amino.node.server_process CONFIG.json [CHILD COMMAND ...]``.

Owns reporting to the program that started it (one JSON object a line on standard output: ``ServerServes``,
``ServerDown``, ``ServerEnded``) and ending with it (its standard input closes). Leaves supervising to ``supervisor``.
Invariant: the process does not outlive its starter, however that ended.
Failure behaviour: a reader that is gone is no error; the exit code is the supervisor's.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import msgspec

from amino.config import ServerConfig
from amino.node.reports import Report, ServerEnded
from amino.node.supervisor import CHILD, Ended, Supervisor, supervise
from amino.telemetry import logs
from amino.telemetry.trace import Telemetry

_encoder = msgspec.json.Encoder()


def main(arguments: Sequence[str]) -> int:
    """Supervise a server; returns the exit code."""
    config = msgspec.json.decode(Path(arguments[0]).read_bytes(), type=ServerConfig)
    logs.configure(Telemetry.disabled(), form=config.log_format, level=config.log_level.upper())
    ended = asyncio.run(_run(config, tuple(arguments[1:]) or CHILD))
    _report(ServerEnded(ended.code, ended.message))
    return ended.code


async def _run(config: ServerConfig, child: Sequence[str]) -> Ended:
    loop = asyncio.get_running_loop()

    def on_start(supervisor: Supervisor) -> None:
        def wait_for_the_end_of_input() -> None:
            while os.read(0, 4096):
                pass
            if not loop.is_closed():
                loop.call_soon_threadsafe(lambda: supervisor.terminate_nowait(drain=False))

        threading.Thread(target=wait_for_the_end_of_input, name="amino-starter", daemon=True).start()

    return await supervise(config, arguments=child, on_report=_report, on_start=on_start)


def _report(report: Report) -> None:
    try:
        os.write(1, _encoder.encode(report) + b"\n")
    except OSError:
        return


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
