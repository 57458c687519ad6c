"""The handshake of a peer link: who calls, who answers, and whether they fit.

Owns HELLO and WELCOME, and the judgement of both. Leaves sending them to the links and certificates to ``tls``.
Invariants: a link carries requests only between peers of one cluster and a common protocol version; a role proved by a
certificate wins over a stated one; a peer is trusted only on the same host or with mutual TLS.
Failure behaviour: ``Invalid`` or ``PermissionDenied``, naming both sides' values and the remedy.
"""

from __future__ import annotations

import functools
import os
import platform
import uuid
from dataclasses import dataclass
from pathlib import Path

import msgspec

from amino.errors import Invalid, PermissionDenied
from amino.ids import valid_name
from amino.limits import FRAME_BYTES_MAX, HANDSHAKE_BYTES_MAX
from amino.rpc.port import Peer

VERSION_MIN = 1
VERSION_MAX = 1
ROLES = ("server", "client")
FEATURE_BLOCKING = "blocking"
"""The caller reads only while it waits for an answer: it gets no pings."""


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """Who this process is, as told in handshakes.

    Args:
        client_id: this process's client id.
        role: ``server`` or ``client``.
        name: the kernel server's name, empty for clients.
        incarnation: of the kernel server, 0 before it has one.
        features: what it can do beyond the protocol version.
    """

    client_id: str
    role: str = "client"
    name: str = ""
    incarnation: int = 0
    features: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Identity:
    """What a peer's certificate proves: its role, and its name if the certificate is for one server."""

    role: str
    name: str = ""


class Hello(msgspec.Struct):
    """The first frame of the caller, and (as WELCOME) of the answering side."""

    cluster: str
    client_id: str
    role: str = "client"
    name: str = ""
    incarnation: int = 0
    boot_id: str = ""
    version_min: int = VERSION_MIN
    version_max: int = VERSION_MAX
    frame_bytes_max: int = FRAME_BYTES_MAX
    features: list[str] = []


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Hello)


@functools.cache
def boot_id() -> str:
    """Return an id of this machine since its last start, equal in all its processes."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return f"{platform.node()}-{uuid.getnode():012x}"


def encode_hello(node: NodeInfo, cluster: str, frame_bytes_max: int, *features: str) -> bytes:
    """Return the head of a HELLO or WELCOME.

    Raises:
        Invalid: longer than ``HANDSHAKE_BYTES_MAX``.
    """
    head = _encoder.encode(
        Hello(
            cluster=cluster,
            client_id=node.client_id,
            role=node.role,
            name=node.name,
            incarnation=node.incarnation,
            boot_id=boot_id(),
            frame_bytes_max=frame_bytes_max,
            features=sorted({*node.features, *features}),
        )
    )
    if len(head) + 16 > HANDSHAKE_BYTES_MAX:
        raise Invalid(
            f"the handshake takes {len(head)} bytes, more than {HANDSHAKE_BYTES_MAX}; shorten names or features"
        )
    return head


def decode_hello(head: bytes) -> Hello:
    """Read a HELLO or WELCOME.

    Raises:
        Invalid: not of that form.
    """
    try:
        return _decoder.decode(head)
    except (msgspec.DecodeError, ValueError) as problem:
        raise Invalid(f"the handshake cannot be read: {problem}; use an Amino of a compatible version") from problem


def judge(
    hello: Hello,
    cluster: str,
    *,
    loopback: bool,
    identity: Identity | None,
    insecure: bool = False,
    address: str = "",
) -> Peer:
    """Decide whether the peer that said ``hello`` fits, and who it is.

    Args:
        hello: the peer's HELLO or WELCOME.
        cluster: our cluster.
        loopback: whether the connection cannot have left this machine.
        identity: what its certificate proves, None without TLS.
        insecure: whether the operator declared the network safe; a peer on this host is then trusted on any address.
        address: the peer's, for logs.

    Raises:
        Invalid: other cluster, no common version, malformed role or name.
        PermissionDenied: the certificate does not allow the stated role or name.
    """
    if hello.cluster != cluster:
        raise Invalid(
            f"cluster names differ: ours is {cluster!r}, the peer's is {hello.cluster!r}; "
            "connect to a server of your cluster, or set the same cluster name on both sides",
            ours=cluster,
            peers=hello.cluster,
        )
    if hello.version_min > VERSION_MAX or hello.version_max < VERSION_MIN:
        raise Invalid(
            f"no common protocol version: ours are {VERSION_MIN} to {VERSION_MAX}, the peer's are "
            f"{hello.version_min} to {hello.version_max}; upgrade the older side"
        )
    role, name = hello.role, hello.name
    if role not in ROLES:
        raise Invalid(f"role {role!r} is neither server nor client")
    if name and not valid_name(name):
        raise Invalid(f"server name {name!r} is malformed; use letters, digits, '.', '_' and '-'")
    if identity is not None:
        if role == "server" and identity.role != "server":
            raise PermissionDenied(
                "the peer states the role server, but its certificate is for a client; "
                "give it a certificate with the URI amino://role/server"
            )
        if identity.name and identity.name != name:
            raise PermissionDenied(
                f"the peer states the name {name!r}, but its certificate is for the server {identity.name!r}; "
                "give each server its own certificate"
            )
    same_host = hello.boot_id == boot_id() and (loopback or insecure)
    return Peer(
        client_id=hello.client_id,
        role=role,
        name=name,
        incarnation=hello.incarnation,
        trusted=identity is not None or same_host,
        address=address,
        features=frozenset(hello.features),
    )


def process_client_id() -> str:
    """Return a fresh client id for this process."""
    return f"{os.getpid():x}-{os.urandom(8).hex()}"
