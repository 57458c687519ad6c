"""What systemd is told by a server: when it serves, what it does, and that it is alive.

Owns the messages of the ``sd_notify`` protocol and when each is due. Leaves the service's settings to its unit.
Invariants: without ``NOTIFY_SOCKET`` nothing is sent and nothing costs; messages never wait.
Failure behaviour: a socket that cannot be reached is logged once; the server goes on.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Mapping

_log = logging.getLogger("amino.supervisor")
_BEATS_PER_WATCHDOG = 3


class ServiceManager:
    """The service manager that started us, if one did.

    Args:
        environ: ``NOTIFY_SOCKET`` names its socket, ``WATCHDOG_USEC`` the silence after which it kills us, in microseconds.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        path = environ.get("NOTIFY_SOCKET", "")
        self._address = f"\0{path[1:]}" if path.startswith("@") else path
        self._ready = False
        watchdog = environ.get("WATCHDOG_USEC", "")
        patience_s = int(watchdog) / 1e6 if watchdog.isdigit() else 0.0
        self.beat_every_s = patience_s / _BEATS_PER_WATCHDOG if self._address else 0.0
        """How often ``alive`` is wanted, in seconds; 0: never."""

    def __repr__(self) -> str:
        return f"ServiceManager({self._address or 'none'})"

    def serves(self, what: str) -> None:
        """Tell that the server serves: the first time, that the start is complete."""
        self._send(f"STATUS={what}" if self._ready else f"READY=1\nSTATUS={what}")
        self._ready = True

    def does(self, what: str) -> None:
        """Tell what the server does, for people."""
        self._send(f"STATUS={what}")

    def ends(self) -> None:
        """Tell that the server ends."""
        self._send("STOPPING=1\nSTATUS=draining")

    def alive(self) -> None:
        """Tell that the supervisor's loop runs."""
        self._send("WATCHDOG=1")

    def _send(self, message: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as to:
                to.setblocking(False)
                to.sendto(message.encode(), self._address)
        except OSError as error:
            _log.warning("the service manager at %s does not take messages: %s", self._address, error)
            self._address = ""
