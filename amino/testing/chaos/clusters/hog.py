"""Takes memory and holds it until its standard input ends. Run as a file, by ``memory``.

Owns touching every page, and being the one that the system ends first. Leaves who is pressed by it to ``memory``.
Invariant: it takes nothing before it is told to.
Failure behaviour: memory that it cannot have ends it.
"""

from __future__ import annotations

import contextlib
import sys

PAGE_BYTES = 4096


def main(size: str) -> None:
    """Take ``size`` bytes once there is a line on the input, and say so on the output."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write("1000")
    sys.stdin.readline()
    held = bytearray(int(size))
    for place in range(0, len(held), PAGE_BYTES):
        held[place] = 1
    sys.stdout.write("held\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
