"""TLS of the peer link: contexts, roles in certificates, and which addresses need them.

Owns TLS material and what certificates prove. Leaves connections to the links.
Invariants: TLS 1.2 or newer and mutual, always; a role or name is taken from the certificate's URIs
``amino://role/server``, ``amino://role/client`` and ``amino://server/<name>`` only; nothing but loopback is listened on
in plain text unless the operator says so.
Failure behaviour: ``Invalid`` for unusable material, ``PermissionDenied`` for what the peer's certificate does not
allow; both name the file or value and the remedy.
"""

from __future__ import annotations

import contextlib
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from amino.errors import AminoError, Invalid, NotExecuted, PermissionDenied
from amino.rpc.address import parse_address
from amino.rpc.handshake import Identity

if TYPE_CHECKING:
    from pathlib import Path

_ROLE = "amino://role/"
_SERVER = "amino://server/"
_RENEW = "issue a new certificate (openssl x509 -enddate -noout -in FILE shows the date) and restart with it"


@dataclass(frozen=True, slots=True)
class TlsConfig:
    """Paths of PEM files.

    Args:
        ca: certificates of the authority that signs this cluster's certificates.
        cert: our certificate, with its chain.
        key: our private key.
    """

    ca: str | Path
    cert: str | Path
    key: str | Path

    def server_context(self) -> ssl.SSLContext:
        """Return the context for accepting; callers must show a certificate of our authority.

        Raises:
            Invalid: a file cannot be read, key and certificate do not match, or our own certificate is not valid now.
        """
        context = self._context(ssl.PROTOCOL_TLS_SERVER)
        self._prove(context, self._context(ssl.PROTOCOL_TLS_CLIENT))
        return context

    def client_context(self) -> ssl.SSLContext:
        """Return the context for connecting; raises as ``server_context``.

        Names of hosts are not compared: a server proves its role, and its name if its certificate has one.
        """
        context = self._context(ssl.PROTOCOL_TLS_CLIENT)
        self._prove(self._context(ssl.PROTOCOL_TLS_SERVER), context)
        return context

    def browser_context(self) -> ssl.SSLContext:
        """Return the context for accepting browsers, which show no certificate; raises as ``server_context``."""
        context = self.server_context()
        context.verify_mode = ssl.CERT_NONE
        return context

    def _context(self, protocol: int) -> ssl.SSLContext:
        context = ssl.SSLContext(protocol)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED
        try:
            context.load_verify_locations(self.ca)
        except (OSError, ValueError) as problem:
            raise Invalid(
                f"TLS authority file {str(self.ca)!r} cannot be used: {problem}; give a PEM file"
            ) from problem
        try:
            context.load_cert_chain(self.cert, self.key)
        except (OSError, ValueError) as problem:
            raise Invalid(
                f"TLS certificate {str(self.cert)!r} with key {str(self.key)!r} cannot be used: {problem}; "
                "give the PEM files that belong together"
            ) from problem
        return context

    def _prove(self, server: ssl.SSLContext, client: ssl.SSLContext) -> None:
        """Shake hands with ourselves in memory: an expired or foreign certificate shows at start, not at each peer."""
        to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        ends = [
            client.wrap_bio(to_client, to_server, server_side=False),
            server.wrap_bio(to_server, to_client, server_side=True),
        ]
        for _ in range(8):
            for end in list(ends):
                try:
                    end.do_handshake()
                    ends.remove(end)
                except ssl.SSLWantReadError:
                    continue
                except ssl.SSLError as problem:
                    why = explain(problem, f"our own certificate {str(self.cert)!r}")
                    raise Invalid(why.message) from problem
            if not ends:
                return


class ClientTls:
    """What connecting needs: the context, and the words for a server that hangs up without saying why.

    Args:
        config: our certificate.

    Raises:
        Invalid: as ``TlsConfig.client_context``.
    """

    __slots__ = ("config", "context")

    def __init__(self, config: TlsConfig) -> None:
        self.config = config
        self.context = config.client_context()

    def hung_up(self, address: str) -> AminoError:
        """Return the error for a server that closed the connection during the handshake.

        Servers refuse a certificate after the client took the handshake for done, often without an alert; so our own
        certificate, which may have expired since the start, is looked at again.
        """
        try:
            self.config.client_context()
        except Invalid as problem:
            return PermissionDenied(f"the server at {address} refused us: {problem.message}")
        return NotExecuted(
            f"the server at {address} closed the connection during the TLS handshake; use TLS on both sides, with "
            "certificates of one authority",
            reason="unreachable",
            address=address,
        )


def client_hello() -> bytes:
    """Return what a TLS client says first: to find out whether a server that hung up on plain text wants TLS."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing).do_handshake()
    return outgoing.read()


def is_tls(start: bytes) -> bool:
    """Return whether an answer begins like a TLS record: of a handshake, or an alert."""
    return start[:1] in (b"\x16", b"\x15") and start[1:2] == b"\x03"


def wants_tls(address: str) -> Invalid:
    """Return the error for a server that speaks TLS only, to a client that has none."""
    return Invalid(
        f"the server at {address} wants TLS; connect with the cluster's authority, a certificate and its key "
        "(amino.connect(tls=...), or the `amino` command's --tls-ca, --tls-cert and --tls-key)",
        address=address,
    )


def explain(problem: ssl.SSLError, whose: str) -> AminoError:
    """Return the error for a failed TLS handshake with ``whose`` (for example ``peer 10.0.0.1:7400``)."""
    reason = (getattr(problem, "reason", "") or "").upper()
    verify = getattr(problem, "verify_message", "") or ""
    if "expired" in verify:
        return PermissionDenied(f"{whose}: certificate has expired; {_RENEW}")
    if "not yet valid" in verify:
        return PermissionDenied(f"{whose}: certificate is not valid yet; compare the clocks of both machines")
    if verify:
        return PermissionDenied(
            f"{whose}: certificate is not accepted ({verify}); sign it with the authority in the TLS ca file"
        )
    if "EXPIRED" in reason:
        return PermissionDenied(f"{whose} refused our certificate, which has expired; {_RENEW}")
    if "ALERT" in reason:
        return PermissionDenied(
            f"{whose} refused our certificate ({reason}); present one signed by the cluster's authority"
        )
    if reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNSUPPORTED_PROTOCOL"):
        return Invalid(f"{whose} does not speak TLS; configure TLS on both sides or on neither")
    return NotExecuted(
        f"{whose}: the TLS handshake failed ({problem}); retry, or look at the peer's log", reason="unreachable"
    )


def identity_of(ssl_object: Any) -> Identity | None:
    """Return what the peer's certificate proves, None without TLS.

    Raises:
        PermissionDenied: the certificate names no role.
    """
    if ssl_object is None:
        return None
    certificate = ssl_object.getpeercert() or {}
    uris = [value for kind, value in certificate.get("subjectAltName", ()) if kind == "URI"]
    names = [uri[len(_SERVER) :] for uri in uris if uri.startswith(_SERVER)]
    roles = {uri[len(_ROLE) :] for uri in uris if uri.startswith(_ROLE)}
    if names or "server" in roles:
        return Identity("server", names[0] if names else "")
    if "client" in roles:
        return Identity("client")
    raise PermissionDenied(
        f"the certificate of {certificate.get('subject', 'the peer')} names no role; "
        f"add the URI {_ROLE}server, {_ROLE}client or {_SERVER}<name> to its subjectAltName"
    )


def check_listen(address: str, tls: TlsConfig | None, *, insecure: bool) -> None:
    """Refuse to listen beyond loopback in plain text.

    Raises:
        Invalid: neither loopback, nor TLS, nor ``insecure``.
    """
    if tls is None and not insecure and not parse_address(address).is_loopback:
        raise Invalid(
            f"listening on {address!r} without TLS would let anyone on the network run code here; "
            "give --tls-ca, --tls-cert and --tls-key, listen on 127.0.0.1, or accept the risk with --insecure"
        )
