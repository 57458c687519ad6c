"""Who calls over gRPC, and what that entitles to.

Owns roles and trust of gRPC callers. Leaves what certificates mean to ``rpc.tls``.
Invariants: with TLS the certificate alone decides, as on the peer link; without TLS a stated role counts, and only from
this machine, even where the port is open to others.
Failure behaviour: ``PermissionDenied`` says what the caller lacks.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

from amino.errors import PermissionDenied
from amino.rpc.address import parse_address
from amino.rpc.grpc.service import metadata_value
from amino.rpc.handshake import Identity
from amino.rpc.tls import identity_of

ROLE_KEY = "amino-role"


def require_server(context: Any, *, secure: bool) -> None:
    """Make sure that the caller may command this server.

    Raises:
        PermissionDenied: it is no server, or cannot prove that it is.
    """
    if secure:
        identity = _identity(context)
        if identity is None or identity.role != "server":
            raise PermissionDenied(
                "amino.v1.Kernel is for servers, and the caller's certificate is for a client; use Registry and "
                "Invoke, or a certificate with the URI amino://role/server"
            )
        return
    _require_this_machine(context, "amino.v1.Kernel")
    if metadata_value(context, ROLE_KEY) != "server":
        raise PermissionDenied(
            f"amino.v1.Kernel is for servers; use Registry and Invoke (a server sends the metadata {ROLE_KEY}: server)"
        )


def _identity(context: Any) -> Identity | None:
    found = context.auth_context()
    uris = [name.decode(errors="replace") for name in found.get("x509_subject_alternative_name", ())]
    names = [name.decode(errors="replace") for name in found.get("x509_common_name", ())]
    return identity_of(_Certificate(uris, names))


class _Certificate:
    """What gRPC tells of the caller's certificate, in the form that the ``ssl`` module has for it."""

    def __init__(self, uris: list[str], names: list[str]) -> None:
        self._uris = uris
        self._names = names

    def getpeercert(self) -> dict[str, Any]:
        return {"subject": ", ".join(self._names), "subjectAltName": tuple(("URI", uri) for uri in self._uris)}


def require_trusted(context: Any, what: str, *, secure: bool) -> None:
    """Make sure that the caller may bring code: it has a certificate of our authority, or is on this machine.

    Raises:
        PermissionDenied: neither.
    """
    if not secure:
        _require_this_machine(context, what)


def _require_this_machine(context: Any, what: str) -> None:
    peer = unquote(context.peer())
    kind, _, rest = peer.partition(":")
    if kind != "unix" and not (kind in ("ipv4", "ipv6") and parse_address(rest).is_loopback):
        raise PermissionDenied(
            f"{what} without TLS is heard on this machine only, and the caller is {peer}; configure TLS"
        )
