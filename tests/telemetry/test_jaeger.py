"""Traces as people see them: found through Jaeger's HTTP API. Run with ``--jaeger-binary PROGRAM``."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import pytest

import amino
from amino.dm import AtLeastOnceRPC, ConsensusRSM
from amino.telemetry import names
from amino.testing import LocalCluster
from tests.telemetry.traced_app import Log
from tests.waiting import until

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
PATIENCE_S = 60.0
_CONFIG = """
service:
  extensions: [jaeger_storage, jaeger_query]
  pipelines:
    traces: {{receivers: [otlp], processors: [], exporters: [jaeger_storage_exporter]}}
  telemetry: {{metrics: {{level: none}}}}
extensions:
  jaeger_storage: {{backends: {{kept: {{memory: {{max_traces: 10000}}}}}}}}
  jaeger_query:
    storage: {{traces: kept}}
    http: {{endpoint: "127.0.0.1:{query}"}}
    grpc: {{endpoint: "127.0.0.1:{other}"}}
receivers:
  otlp: {{protocols: {{grpc: {{endpoint: "127.0.0.1:{otlp}"}}}}}}
exporters:
  jaeger_storage_exporter: {{trace_storage: kept}}
"""


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


class Jaeger:
    """A running Jaeger that keeps traces in memory.

    Args:
        program: ``jaeger`` 2.x, or ``jaeger-all-in-one`` 1.x.
    """

    def __init__(self, program, folder):
        otlp, query, other, *rest = free_ports(8)
        self.endpoint = f"http://127.0.0.1:{otlp}"
        self._api = f"http://127.0.0.1:{query}/api"
        if "all-in-one" in Path(program).name:
            arguments = [
                f"--collector.otlp.grpc.host-port=127.0.0.1:{otlp}", f"--collector.otlp.http.host-port=127.0.0.1:{rest[0]}",
                f"--query.http-server.host-port=127.0.0.1:{query}", f"--query.grpc-server.host-port=127.0.0.1:{other}",
                f"--collector.grpc-server.host-port=127.0.0.1:{rest[1]}", f"--collector.http-server.host-port=127.0.0.1:{rest[2]}",
                f"--admin.http.host-port=127.0.0.1:{rest[3]}",
            ]  # fmt: skip
        else:
            config = folder / "jaeger.yaml"
            config.write_text(_CONFIG.format(otlp=otlp, query=query, other=other))
            arguments = [f"--config={config}"]
        self._log = (folder / "jaeger.log").open("wb")
        self._process = subprocess.Popen([program, *arguments], stdout=self._log, stderr=subprocess.STDOUT)
        until(lambda: self.get("/services") is not None, PATIENCE_S, f"Jaeger does not answer; see {self._log.name}")

    def get(self, path, **query):
        """Return the data of an answer, None if there is no answer."""
        try:
            with urllib.request.urlopen(f"{self._api}{path}?{urllib.parse.urlencode(query)}", timeout=10) as answer:
                return json.load(answer)["data"] or []
        except (urllib.error.URLError, ConnectionError):
            return None

    def traces(self, service, operation):
        """Return the traces that have a span of that name, each as span name by span id and parent by span id."""
        return [
            (
                {span["spanID"]: span["operationName"] for span in trace["spans"]},
                {
                    span["spanID"]: next((r["spanID"] for r in span["references"] if r["refType"] == "CHILD_OF"), "")
                    for span in trace["spans"]
                },
            )
            for trace in self.get("/traces", service=service, operation=operation, lookback="1h", limit=200) or []
        ]

    def close(self):
        """End it."""
        self._process.kill()
        self._process.wait()
        self._log.close()


@pytest.fixture
def jaeger(request, tmp_path, monkeypatch):
    made = Jaeger(request.config.getoption("--jaeger-binary"), tmp_path)
    for variable in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", made.endpoint)
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "none")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    yield made
    made.close()


def test_jaeger_shows_a_call_and_a_failover(jaeger):
    """A call's whole tree and a failover's pieces are found by the names of service and operation."""
    with LocalCluster(servers=3, app_dirs=[ROOT]) as cluster, cluster.connect() as client:
        log = client.new(amino.spec(Log, name="log", dms=[AtLeastOnceRPC(timeout_s=PATIENCE_S), ConsensusRSM()]))
        assert log.note("one") == 1

        def call():
            for spans, parents in jaeger.traces("amino-client", names.CLIENT_CALL):
                for span, name in spans.items():
                    path = []
                    while span:
                        path.append(spans.get(span, "?"))
                        span = parents.get(span, "")
                    if name == names.METHOD:
                        return path[::-1]
            return None

        assert until(call, PATIENCE_S) == [
            names.CLIENT_CALL, names.CLIENT_DM, names.TRANSPORT, names.SERVER_CALL, names.SERVER_DM, names.METHOD,
        ]  # fmt: skip
        group = client.describe("log").groups["/"]
        (home,) = [replica.server for replica in group.replicas if replica.id == group.primary]
        cluster.server(home).kill_kernel()
        with amino.deadline(PATIENCE_S):
            assert log.note("two") == 2
        wanted = {
            names.FAILOVER, names.FAILOVER_LOST, names.FAILOVER_DETECTED, names.FAILOVER_PLACED, names.FAILOVER_PROMOTED,
            names.FAILOVER_FIRST_CALL,
        }  # fmt: skip
        until(
            lambda: any(wanted <= set(spans.values()) for spans, _ in jaeger.traces("amino-server", names.FAILOVER)),
            PATIENCE_S,
        )
