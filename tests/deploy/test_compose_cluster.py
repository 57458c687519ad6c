"""The compose file as a whole, run by Docker Compose: it comes up, takes the examples, and survives chaos.

Owns one project for all tests. Leaves starting and ending it to ``composed``.
Failure behaviour: where there is no Docker, root, image or Compose, it is checked that this is said; with ``CI`` set that is a failure.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import SimpleNamespace

import grpc.aio
import pytest

from amino.testing.chaos.clusters import ClusterView
from tests.deploy.composed import MEMBERS, PATIENCE_S, ROOT, SERVERS, Composed, lacking, opened
from tests.grpc.asking import call
from tests.waiting import until

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.usefixtures("grpc_running")]
CHAOS_S = 45
SEED = 1
STORE = """
apiVersion: amino.run/v1
kind: Microservice
metadata: {name: store}
spec:
  class: kvstore.store:KeyValueStore
  dms:
    - AtLeastOnceRPC: {timeout_s: 60}
    - DHT: {shards: 2}
    - ConsensusRSM: {}
"""


@pytest.fixture(scope="module")
def composed() -> Iterator[Composed | None]:
    """The cluster with the application ``todo`` and the microservice ``store``; None where there can be none."""
    why = lacking()
    if why:
        assert not os.environ.get("CI"), f"no cluster of the compose file: {why}"
        yield None
        return
    with opened() as cluster:
        amino(cluster, "apply", "-f", "examples/todo/todo.yaml")
        amino(cluster, "apply", "-f", "-", given=STORE)
        yield cluster


def amino(cluster: Composed, *command: str, given: str = "") -> str:
    """Run a command of Amino on this machine, through the published port of the first server."""
    address = ["--address", cluster.published(7400), "--timeout", "60"]
    done = subprocess.run(
        [sys.executable, "-m", "amino.cli", *command, *address], input=given, capture_output=True, text=True, check=False, cwd=ROOT
    )  # fmt: skip
    assert done.returncode == 0, f"amino {' '.join(command)}: {done.stdout}{done.stderr}\n{cluster.told()}"
    return done.stdout


def amino_in(cluster: Composed, server: str, *command: str) -> str:
    """Run a command of Amino in a server's container, as the guide says."""
    return cluster.run("exec", "--no-TTY", server, "amino", *command)


@asynccontextmanager
async def published(cluster: Composed) -> AsyncIterator[SimpleNamespace]:
    """The published gRPC port of the first server."""
    async with grpc.aio.insecure_channel(cluster.published(7401)) as channel:
        yield SimpleNamespace(channel=channel)


async def test_it_is_healthy_and_takes_the_examples(composed: Composed | None) -> None:
    """All three servers are members; what was created through a published port is called through another, and from within."""
    if composed is None:
        assert lacking(), "where there can be none, it says why"
        return
    names = [one["record"]["name"] for one in json.loads(amino_in(composed, "s1", "get", "servers", "-o", "json"))]
    assert sorted(names) == list(SERVERS)
    async with published(composed) as port:
        await call(port, "put", "moth", "seen", name="store", timeout_s=PATIENCE_S)
        assert await call(port, "get", "moth", name="store") == "seen"
    manager = amino_in(composed, "s2", "app", "start", "todo").strip()
    amino_in(composed, "s3", "call", manager, "of", "grace")
    amino_in(composed, "s2", "call", "todo.grace", "add", "find the moth")
    assert "find the moth" in amino_in(composed, "s1", "call", "todo.grace", "items")


async def test_chaos(composed: Composed | None, tmp_path: Path) -> None:
    """Under a judged load a server and the leader of etcd are killed, then a server crashes: all come back, nothing is lost."""
    if composed is None:
        assert lacking(), "where there can be none, it says why"
        return
    manager = amino_in(composed, "s1", "app", "start", "todo").strip()
    amino_in(composed, "s1", "call", manager, "of", "ada")
    amino_in(composed, "s1", "call", "todo.ada", "add", "read the paper")
    async with published(composed) as port:
        await call(port, "put", "paper", "read", name="store")

    with attached(composed, tmp_path) as chaos:
        async with ClusterView(composed.etcd_endpoints()) as view:
            victim, member = await view.primary(SERVERS), f"etcd{await view.leader() + 1}"
        composed.kill(victim, member)
        assert not any(composed.inspect(name)["State"]["Running"] for name in (victim, member))
        survivor = next(name for name in SERVERS if name != victim)
        assert "read the paper" in amino_in(composed, survivor, "call", "todo.ada", "items")
        composed.up()
        await at_rest(composed)

        async with ClusterView(composed.etcd_endpoints()) as view:
            victim = await view.coordinator()
        before = composed.inspect(victim)
        composed.crash(victim)
        until(lambda: composed.inspect(victim)["State"]["StartedAt"] > before["State"]["StartedAt"], PATIENCE_S)
        until(lambda: composed.is_healthy(victim), PATIENCE_S, composed.told)
        assert composed.inspect(victim)["Id"] == before["Id"], "the very container was started again"
        await at_rest(composed)
        chaos.process.wait(CHAOS_S + 2 * PATIENCE_S)
    assert chaos.process.returncode == 0, f"{chaos.log.read_text()}\n{composed.told()}"

    assert "read the paper" in amino_in(composed, victim, "call", "todo.ada", "items")
    async with published(composed) as port:
        assert await call(port, "get", "paper", name="store") == "read"


@contextmanager
def attached(cluster: Composed, folder: Path) -> Iterator[SimpleNamespace]:
    """Load from a client in the cluster's network that is recorded and judged: ``process``, whose exit code is the verdict, and ``log``."""
    log = folder / "attach.log"
    addresses = [part for name in SERVERS for part in ("--address", f"{name}:7400")]
    etcd = [part for name in MEMBERS for part in ("--etcd", f"{name}:2379")]
    command = [
        sys.executable,
        "-m",
        "chaos",
        "attach",
        *addresses,
        *etcd,
        "--insecure",
        "--scenario",
        "coordinator-failover",
    ]
    command += ["--duration", str(CHAOS_S), "--seed", str(SEED), "--json", str(folder / "record.json")]
    with log.open("w") as out:
        process = subprocess.Popen(cluster.within(*command), cwd=ROOT, stdout=out, stderr=subprocess.STDOUT)
        try:
            until(lambda: "break it now" in log.read_text() or process.poll() is not None, PATIENCE_S, log.read_text)
            assert process.poll() is None, log.read_text()
            yield SimpleNamespace(process=process, log=log)
        finally:
            process.kill()
            process.wait()


async def at_rest(composed: Composed) -> None:
    """Wait until every server is a member again and every group whole."""
    async with ClusterView(composed.etcd_endpoints()) as view:
        wrong = await view.await_rest(len(SERVERS), PATIENCE_S)
    assert not wrong, f"{wrong}\n{composed.told()}"
