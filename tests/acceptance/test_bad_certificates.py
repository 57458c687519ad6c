"""Certificates that have expired: refused on both planes, by both sides, with the remedy."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

import pytest

import amino
from amino.config import TlsFiles
from amino.errors import AminoError, ClusterUnavailable, Invalid
from amino.rpc.tls import TlsConfig
from amino.testing import LocalCluster
from tests.acceptance.conftest import ROOT
from tests.acceptance.figures import Figures
from tests.acceptance.refusals import refused
from tests.acceptance.services import Counter
from tests.etcd_fixtures import etcd_binaries
from tests.rpc.certificates import Authority

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(120)]
ROW = "bad input"
EXPIRED = (-2, -1)


def files(config: TlsConfig) -> TlsFiles:
    return TlsFiles(str(config.ca), str(config.cert), str(config.key))


def test_expired_certificates(tmp_path: Path, figures: Figures) -> None:
    """A client whose certificate has expired is refused by itself and by servers; others are served as before."""
    authority = Authority(tmp_path)
    good, expired = authority.issue("amino://role/client"), authority.issue("amino://role/client", days=EXPIRED)
    server = files(authority.issue("amino://role/server"))
    with LocalCluster(
        1, app_dirs=[ROOT], session_ttl_s=2, tls=server, etcd_binary=etcd_binaries()[0]
    ) as local, local.connect(tls=good) as client:  # fmt: skip
        pid = local.server("s1").kernel_pid
        counter = client.new(amino.spec(Counter), 1)
        refused(
            figures, "expired certificate of a client", lambda: local.connect(tls=expired, timeout_s=5),
            (Invalid, AminoError), str(expired.cert), "expired", "new certificate",  # type: ignore[arg-type]
        )  # fmt: skip
        for address in (local.server("s1").address, local.server("s1").grpc_address):
            assert _served(address, good)
            assert not _served(address, expired), f"{address} serves a client whose certificate has expired"
        refused(figures, "no certificate where TLS is needed", lambda: local.connect(timeout_s=0.9), AminoError, "TLS")
        assert counter.add() == 2
        assert local.server("s1").kernel_pid == pid


def _served(address: str, config: TlsConfig) -> bool:
    """Return whether a server takes a connection with this certificate, as a caller that does not check itself finds."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.load_cert_chain(config.cert, config.key)
    context.set_alpn_protocols(["h2"])
    host, _, port = address.rpartition(":")
    try:
        with (
            socket.create_connection((host, int(port)), timeout=5) as plain,
            context.wrap_socket(plain, server_hostname=host) as link,
        ):
            link.settimeout(0.7)
            return link.recv(1) != b""  # HTTP/2 greets
    except TimeoutError:
        return True  # it waits for our greeting
    except OSError:
        return False


def test_a_server_with_an_expired_certificate_does_not_start(tmp_path: Path, figures: Figures) -> None:
    """It ends at once and says why, instead of refusing everybody later."""
    expired = authority_files = files(Authority(tmp_path).issue("amino://role/server", days=EXPIRED))
    cluster = LocalCluster(1, session_ttl_s=2, tls=authority_files, etcd_binary=etcd_binaries()[0])
    with pytest.raises(ClusterUnavailable) as caught:
        cluster.start()
    for word in (expired.cert, "expired", "new certificate"):
        assert word in str(caught.value)
