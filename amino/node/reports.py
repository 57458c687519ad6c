"""What a supervisor reports to the program that started it; see ``server_process``."""

from __future__ import annotations

import msgspec


class ServerServes(msgspec.Struct, frozen=True, tag="serves"):
    """The kernel server answers calls as ``incarnation``; ``pid`` is its process."""

    address: str
    grpc_address: str
    pid: int
    incarnation: int


class ServerDown(msgspec.Struct, frozen=True, tag="down"):
    """The kernel process is dead."""

    pid: int
    cause: str


class ServerEnded(msgspec.Struct, frozen=True, tag="ended"):
    """The last report: the supervisor ends with this exit code and error."""

    code: int
    message: str


Report = ServerServes | ServerDown | ServerEnded
REPORTS: msgspec.json.Decoder[Report] = msgspec.json.Decoder(Report)
