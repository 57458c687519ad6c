"""Freezes a file system again and again, or once, until its standard input ends. Run as a file, by ``disk``.

Owns the calls to the system. Leaves the file system to ``disk``.
Invariant: whatever ends this process in an orderly way, or ends who started it, thaws the file system.
Failure behaviour: a file system that cannot be frozen ends it with the system's words.
"""

from __future__ import annotations

import fcntl
import os
import select
import sys

FREEZE, THAW = 0xC0045877, 0xC0045878


def main(folder: str, frozen_s: str, thawed_s: str) -> None:
    """Freeze for so long, thaw for so long, and again, with a line on the output for each freeze."""
    descriptor = os.open(folder, os.O_RDONLY)
    ends = False
    while not ends:
        fcntl.ioctl(descriptor, FREEZE, 0)
        try:
            os.write(1, b"frozen\n")
            ends = _ends_within(float(frozen_s))
        finally:
            fcntl.ioctl(descriptor, THAW, 0)
        ends = ends or _ends_within(float(thawed_s))


def _ends_within(seconds: float) -> bool:
    return bool(select.select([0], [], [], seconds)[0])


if __name__ == "__main__":
    main(*sys.argv[1:])
