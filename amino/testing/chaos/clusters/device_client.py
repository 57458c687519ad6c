"""A client that is a device until its standard input ends. Run as a file, by ``devices``.

Owns connecting. Leaves all else to the device.
Invariant: it ends with who started it.
Failure behaviour: what prevents it from serving ends it with the error.
"""

from __future__ import annotations

import os
import sys

import msgspec

import amino

SERVES = b"serves\n"


class Task(msgspec.Struct):
    """What it is told.

    Args:
        addresses: of servers. device: to be.
    """

    addresses: list[str]
    device: amino.Device


def main(text: str) -> None:
    """Say that it serves, and go on until nobody is there any more."""
    task = msgspec.json.decode(text, type=Task)
    with amino.connect(*task.addresses, device=task.device):
        os.write(1, SERVES)
        while os.read(0, 1):
            pass


if __name__ == "__main__":
    main(sys.argv[1])
