"""The local cluster with fake kernel processes: start, faults by id, restart, and nothing left behind."""

import asyncio
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from amino.errors import AlreadyExists, ClusterUnavailable, Invalid, NotFound
from amino.stubs.stub import aio
from amino.testing import LocalCluster

pytestmark = pytest.mark.real

CHILD = (sys.executable, str(Path(__file__).parent / "fake_child.py"))


def ask(server, words="who"):
    host, _, port = server.address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10) as link:
        link.sendall(f"{words}\n".encode())
        return link.makefile().readline().split()


@pytest.fixture
def local(etcd_endpoints, request):
    options = getattr(request, "param", {})
    cluster = f"c{abs(hash(request.node.name)) % 10**9}"
    with LocalCluster(
        2, etcd_endpoints=etcd_endpoints, session_ttl_s=2, child=CHILD, grpc_listen="", cluster=cluster, **options
    ) as running:
        yield running


def test_servers_serve_when_started_and_after_kills_and_stops(local):
    """Each fault is a fault of exactly that process, and the server serves again as a later incarnation."""
    assert list(local.servers) == ["s1", "s2"]
    server, other = local.server("s1"), local.server("s2")
    untouched = other.incarnation
    assert ask(server) == [str(server.incarnation), str(server.kernel_pid), "True"]
    address = server.address
    killed = server.kill_kernel()
    after_kill = server.wait_serving(after=killed)
    assert server.address == address
    stopped = server.stop_kernel()
    after_stop = server.wait_serving(after=stopped)
    frozen = server.stop()
    assert (killed, stopped, frozen) == (killed, after_kill, after_stop)
    server.resume()
    assert ask(server)[0] == str(frozen)
    gone = server.kill()
    server.wait_ended()
    assert not server.is_serving
    assert server.start() > gone
    assert server.address == address
    assert other.incarnation == untouched


def test_a_drained_server_ends_in_order(local):
    """SIGTERM ends the supervisor in order, and it can be started again."""
    server = local.server("s2")
    before = server.incarnation
    server.drain()
    assert not psutil.pid_exists(server.kernel_pid)
    assert "drained s2" in server.log_path.read_text()
    assert server.start() > before


def test_servers_can_be_added(local):
    """An added server has the next name and may have labels of its own; a name can be taken once."""
    assert local.add_server(labels={"region": "eu"}).name == "s3"
    with pytest.raises(AlreadyExists, match="'s3' exists"):
        local.add_server("s3")
    with pytest.raises(NotFound, match="it has s1, s2, s3"):
        local.server("s9")


def test_a_dead_supervisor_is_reported_when_waited_for(local):
    """Waiting for a server whose supervisor is gone does not wait for nothing."""
    server = local.server("s1")
    killed = server.kill_supervisor()
    with pytest.raises(ClusterUnavailable, match="server s1 ended"):
        server.wait_serving(after=killed)


async def test_async_code_uses_it_without_blocking_its_loop(etcd_endpoints):
    """``async with`` starts and ends it; waiting methods have an awaitable form, and say so when called blocking."""
    async with LocalCluster(1, etcd_endpoints=etcd_endpoints, session_ttl_s=2, child=CHILD, cluster="async") as local:
        server = local.server("s1")
        killed = server.kill_kernel()
        waiting = asyncio.ensure_future(aio(server.wait_serving)(after=killed))
        assert await waiting > killed
        with pytest.raises(RuntimeError, match=r"amino\.aio"):
            server.wait_serving()


def test_nothing_is_left_when_a_server_cannot_start(etcd_endpoints, tmp_path):
    """A start that fails says why, and ends what it had begun."""
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    with (
        pytest.raises(ClusterUnavailable, match="label break=config; remove it"),
        LocalCluster(2, etcd_endpoints=etcd_endpoints, child=CHILD, labels={"break": "config"}, folder=tmp_path / "x"),
    ):
        pass
    assert {child.pid for child in psutil.Process().children(recursive=True)} <= before


def test_options_out_of_range_are_refused(etcd_endpoints):
    """A wrong field of the configuration is named before anything is started."""
    with pytest.raises(Invalid, match="session_ttl_s=1 is below 2"), LocalCluster(1, session_ttl_s=1):
        pass


def test_the_embedded_etcd_can_be_broken_member_by_member(tmp_path):
    """With an etcd of its own, members can be killed, frozen and brought back while servers go on."""
    folder = tmp_path / "kept"
    with LocalCluster(1, etcd_members=3, child=CHILD, folder=folder, session_ttl_s=5) as local:
        incarnation = local.server("s1").incarnation
        local.etcd.kill(0)
        local.etcd.start(0)
        local.etcd.freeze(1)
        local.etcd.thaw(1)
        assert len(local.etcd.endpoints) == 3
        assert ask(local.server("s1"))[0] == str(incarnation)
    assert (folder / "s1.log").exists()


def test_everything_ends_with_the_program_that_started_it():
    """A test process that is killed leaves neither server nor etcd nor folder behind."""
    program = (
        "import os, signal, sys; from amino.testing import LocalCluster;"
        "local = LocalCluster(1, child=sys.argv[1:], cluster='orphan'); local.start();"
        "print(local.server('s1').supervisor_pid, local.server('s1').kernel_pid, local.folder, flush=True);"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    command = [sys.executable, "-c", program, *CHILD]
    output = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True, timeout=60).stdout
    *pids, folder = output.split()
    keepers = [each for each in psutil.process_iter(["cmdline"]) if folder in (each.info["cmdline"] or [])]
    processes = [*(psutil.Process(int(pid)) for pid in pids if psutil.pid_exists(int(pid))), *keepers]
    _, alive = psutil.wait_procs(processes, timeout=15)
    assert not [each for each in alive if each.status() != psutil.STATUS_ZOMBIE]
    assert not [each for each in psutil.process_iter(["cmdline"]) if folder in " ".join(each.info["cmdline"] or [])]
    assert not Path(folder).exists()
