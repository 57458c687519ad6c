"""A cluster with TLS on both planes: certificates of the right role get in, nobody else does."""

import time

import pytest

import amino
from amino.cli import application
from amino.config import TlsFiles
from amino.errors import Invalid
from amino.testing import LocalCluster
from tests.acceptance.figures import slack
from tests.node.counter import Counter
from tests.rpc.certificates import Authority

pytestmark = pytest.mark.real

HERE = __file__.rpartition("tests")[0]


def test_servers_and_clients_prove_their_roles(node_etcd, tmp_path, capsys):
    """Servers work together, a client with a certificate creates and calls, one without is refused; commands, too."""
    authority = Authority(tmp_path)
    server, client = authority.issue("amino://role/server"), authority.issue("amino://role/client")
    files = TlsFiles(str(server.ca), str(server.cert), str(server.key))
    with LocalCluster(
        2, etcd_endpoints=node_etcd.endpoints, app_dirs=[HERE], cluster="secure", session_ttl_s=2, tls=files
    ) as local:
        with local.connect(tls=client) as cluster:
            counter = cluster.new(amino.spec(Counter, name="safe"), 1)
            cluster.move("safe", {"s1": "s2", "s2": "s1"}[cluster.describe("safe").groups["/"].replicas[0].server])
            assert counter.add() == 2
        began = time.monotonic()
        with pytest.raises(Invalid, match="wants TLS; connect with"), local.connect(timeout_s=20.0):
            pass
        assert time.monotonic() - began < 5.0 * slack()
        options = ["-a", local.addresses[0], "--cluster", "secure"]
        tls = ["--tls-ca", str(client.ca), "--tls-cert", str(client.cert), "--tls-key", str(client.key)]
        with pytest.raises(SystemExit) as ended:
            application.run(["call", "safe", "add", "5", *options, *tls])
        assert (ended.value.code, capsys.readouterr().out) == (0, "7\n")
        with pytest.raises(SystemExit) as ended:
            application.run(["get", "servers", *options])
        assert ended.value.code != 0
        said = capsys.readouterr().err
        assert "wants TLS" in said
        assert "Traceback" not in said
