"""Bends the wall clock of a server's processes: whatever Python asks of it there is answered by so much more, or less.

Owns answering ``time.time`` and ``time.time_ns``. Leaves by how much to ``clocks``, which writes it into a file that is mapped here.
Python imports this before anything else of a process that finds its folder on ``PYTHONPATH``; nothing of Amino is known here.
Invariants: monotonic clocks, and the clocks of files and of the system, are as they are; so is what gRPC is told, which hands
points in time to a part of it that is written in C and asks the system; without its file nothing is changed.
Failure behaviour: a file that is missing or cannot be mapped leaves the clock as it is.
"""

from __future__ import annotations

import mmap
import os
import struct
import sys
import time

FOLDER, SERVER = "AMINO_CHAOS_CLOCKS", "AMINO_CHAOS_SERVER"
_NUMBER = struct.Struct("<d")


def _server() -> str:
    """Return the name of this server; a kernel process has it from its supervisor."""
    if SERVER not in os.environ:
        files = [one for one in sys.orig_argv if one.endswith(".json")]
        if "amino.node.server_process" in sys.orig_argv and files:
            os.environ[SERVER] = os.path.basename(files[-1]).removesuffix(".json")
    return os.environ.get(SERVER, "")


def _mapped(path: str) -> mmap.mmap:
    descriptor = os.open(path, os.O_RDWR)
    try:
        return mmap.mmap(descriptor, _NUMBER.size)
    finally:
        os.close(descriptor)


def bend(folder: str, server: str) -> None:
    """Have the wall clock of this process answer with what ``<server>.ahead`` holds added, and note the last answer.

    Raises:
        OSError: there is no such file.
    """
    ahead = _mapped(os.path.join(folder, f"{server}.ahead"))
    role = "kernel" if "amino.node.child" in sys.orig_argv else "supervisor"
    told = _mapped(os.path.join(folder, f"{server}.{role}"))
    real, real_ns, caller = time.time, time.time_ns, sys._getframe  # noqa: SLF001 - there is no other way to know who asks

    def bent() -> float:
        if caller(1).f_globals.get("__name__", "").startswith("grpc."):
            return real()
        now = real() + _NUMBER.unpack_from(ahead)[0]
        _NUMBER.pack_into(told, 0, now)
        return float(now)

    def bent_ns() -> int:
        return real_ns() + int(_NUMBER.unpack_from(ahead)[0] * 1e9)

    time.time, time.time_ns = bent, bent_ns


if FOLDER in os.environ and _server():
    try:
        bend(os.environ[FOLDER], _server())
    except (OSError, ValueError):
        sys.stderr.write("this process's wall clock cannot be bent\n")
