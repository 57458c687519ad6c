"""Ends what a development cluster leaves behind when the program that ran it is killed: etcd, and its temporary folder.

Owns waiting for the end of its standard input, which the program holds open. Leaves the orderly end to ``DevCluster``,
which says ``done`` first. Run as a file, so that it starts in milliseconds: nothing of Amino is imported.
Invariant: only processes whose command line names the cluster's folder are ended.
Failure behaviour: what has ended by itself meanwhile is no error.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
import time

import psutil

SERVERS_END_WITHIN_S = 5.0  # supervisors notice by themselves, and bury their servers while etcd is still there


def main(folder: str, remove: str) -> None:
    """Wait for the program's end; then, unless it said ``done``, end what is left in ``folder``."""
    if b"done" in sys.stdin.buffer.read():
        return
    patience = time.monotonic() + SERVERS_END_WITHIN_S
    while _processes(folder, "server_process") and time.monotonic() < patience:
        time.sleep(0.05)
    for process in _processes(folder):
        with contextlib.suppress(psutil.Error):
            process.kill()
    if remove == "remove":
        shutil.rmtree(folder, ignore_errors=True)


def _processes(folder: str, also: str = "") -> list[psutil.Process]:
    me = psutil.Process().pid
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = process.info["cmdline"] or []
        named = any(folder in argument for argument in line) and any(also in argument for argument in line)
        if named and process.pid != me:
            found.append(process)
    return found


if __name__ == "__main__":
    main(*sys.argv[1:])
