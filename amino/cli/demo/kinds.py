"""The ways in which the demo loses a server."""

from __future__ import annotations

from enum import StrEnum


class FailoverKind(StrEnum):
    """What happens to the server."""

    KERNEL = "kernel"
    SERVER = "server"
    FREEZE = "freeze"


HAPPENS = {
    FailoverKind.KERNEL: "kernel process killed",
    FailoverKind.SERVER: "kernel process and supervisor killed",
    FailoverKind.FREEZE: "kernel process and supervisor frozen",
}
