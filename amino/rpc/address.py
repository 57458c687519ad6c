"""Addresses of peers: ``host:port``, ``[v6]:port`` or ``unix:/path``.

Owns reading them and telling loopback from the rest. Leaves resolving names to the operating system.
Invariant: an address is a string everywhere but here. Failure behaviour: ``Invalid`` names the address and the form.
"""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass

from amino.errors import Invalid

UNIX_PREFIX = "unix:"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An address taken apart: ``host`` and ``port``, or ``path`` of a Unix socket."""

    host: str = ""
    port: int = 0
    path: str = ""

    @property
    def is_loopback(self) -> bool:
        """Whether only processes of this machine can reach it."""
        return bool(self.path) or is_loopback(self.host)


def parse_address(address: str) -> Endpoint:
    """Take ``address`` apart.

    Raises:
        Invalid: not of a known form, or a Unix socket where the platform has none.
    """
    if address.startswith(UNIX_PREFIX):
        if not hasattr(socket, "AF_UNIX"):
            raise Invalid(f"address {address!r} names a Unix socket, which this platform lacks; use host:port")
        return Endpoint(path=address[len(UNIX_PREFIX) :])
    host, separator, port = address.rpartition(":")
    host = host.strip("[]")
    if not separator or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise Invalid(f"address {address!r} is not of the form host:port (port 0 to 65535); write 127.0.0.1:7400")
    return Endpoint(host=host, port=int(port))


def format_address(host: str, port: int) -> str:
    """Return ``host:port``, with brackets around an IPv6 host."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_loopback(host: str) -> bool:
    """Whether ``host`` is this machine's loopback, by name or number; names are not resolved."""
    if host == "localhost":
        return True
    try:
        number = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(number, "ipv4_mapped", None)
    return bool((mapped or number).is_loopback)
