"""What a supervisor and its kernel process say to each other over their pipes.

Owns the messages, one JSON object per line, and the reading of a pipe in a thread (the one way that works on every
platform). Leaves who says what when to ``supervisor_machine`` and ``child``.
Invariants: messages of one pipe arrive in order; a line longer than ``LINE_BYTES_MAX`` ends the conversation.
Failure behaviour: a pipe that is closed, or says something that cannot be understood, counts as ended; writing to a
closed pipe is no error, since the death of the other side is noticed elsewhere.
"""

from __future__ import annotations

import io
import logging
import os
import threading
from collections.abc import Callable
from typing import Any

import msgspec

from amino.config import ServerConfig

_log = logging.getLogger("amino.node")
LINE_BYTES_MAX = 1024 * 1024


class Configure(msgspec.Struct, frozen=True, tag="configure"):
    """First message to a child: what to be. ``board``: path of its flight board."""

    config: ServerConfig
    board: str


class Serve(msgspec.Struct, frozen=True, tag="serve"):
    """The name is claimed: serve as ``incarnation``, while ``deadline_file`` says so."""

    incarnation: int
    lease: int
    deadline_file: str


class Ping(msgspec.Struct, frozen=True, tag="ping"):
    """Give a sign of life. ``round_trips``: seconds of those that kept the session alive since the last one; ``failed``: of others."""

    round_trips: tuple[float, ...] = ()
    failed: tuple[float, ...] = ()


class Drain(msgspec.Struct, frozen=True, tag="drain"):
    """Move your objects away, then say ``Drained``."""


class Stop(msgspec.Struct, frozen=True, tag="stop"):
    """End in order."""


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The child has bound its ports; see ``contracts.documents.ServerRecord`` for the fields."""

    address: str
    grpc_address: str = ""
    store_id: str = ""
    started_at: float = 0.0


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """The child cannot start; ``fatal``: not with this configuration."""

    message: str
    fatal: bool = False


class Serving(msgspec.Struct, frozen=True, tag="serving"):
    """The child answers calls."""


class Pong(msgspec.Struct, frozen=True, tag="pong"):
    """A sign of life from the child's main loop."""


class Drained(msgspec.Struct, frozen=True, tag="drained"):
    """The drain is over; ``left``: microservices that could not be moved."""

    moved: int = 0
    left: tuple[str, ...] = ()


ToChild = Configure | Serve | Ping | Drain | Stop
ToSupervisor = Ready | Failed | Serving | Pong | Drained

_encoder = msgspec.json.Encoder()
TO_CHILD: msgspec.json.Decoder[ToChild] = msgspec.json.Decoder(ToChild)
TO_SUPERVISOR: msgspec.json.Decoder[ToSupervisor] = msgspec.json.Decoder(ToSupervisor)


def send(descriptor: int, message: ToChild | ToSupervisor) -> bool:
    """Write ``message``; returns False if the pipe is closed or (when non-blocking) full. Never raises for that."""
    try:
        os.write(descriptor, _encoder.encode(message) + b"\n")
    except (BrokenPipeError, BlockingIOError, ConnectionResetError):
        return False
    except OSError as error:
        _log.debug("writing %s failed: %s", type(message).__name__, error)
        return False
    return True


class PipeReader:
    """Reads messages in a daemon thread of its own.

    Args:
        descriptor: read end; owned, closed at the end.
        on_message: called in the thread with each message.
        on_end: called once in the thread when no more will come.
    """

    def __init__(
        self,
        descriptor: int,
        decoder: msgspec.json.Decoder[Any],
        on_message: Callable[[Any], None],
        on_end: Callable[[], None],
        name: str,
    ) -> None:
        self._file: io.BufferedReader = io.open(descriptor, "rb")  # noqa: UP020, SIM115 - closed by the thread
        self._decoder = decoder
        self._on_message = on_message
        self._on_end = on_end
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def join(self, timeout_s: float) -> bool:
        """Wait for the end of the pipe; returns whether it came."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            with self._file as file:
                while line := file.readline(LINE_BYTES_MAX):
                    self._on_message(self._decoder.decode(line))
        except (OSError, ValueError, msgspec.MsgspecError) as error:
            _log.warning("the pipe between supervisor and kernel process ended: %s", error)
        finally:
            self._on_end()
