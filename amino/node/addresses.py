"""The address that others reach a server by, made of the one it has bound."""

from __future__ import annotations

import socket

_EVERYWHERE = frozenset({"0.0.0.0", "[::]", "::"})  # noqa: S104 - compared, not bound


def advertised(bound: str, host: str) -> str:
    """Return ``host:port`` for others: ``host``, or if empty the bound host, or this machine's name if that is any."""
    bound_host, _, port = bound.rpartition(":")
    if not host:
        host = socket.getfqdn() if bound_host in _EVERYWHERE else bound_host
    return f"{host}:{port}"
