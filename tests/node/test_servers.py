"""Real kernel servers under their supervisors: what happens to objects when processes are drained, killed and stopped."""

import time

import psutil
import pytest

import amino
from amino.cli import application
from amino.dm import AtLeastOnceRPC, PeriodicCheckpoint
from amino.node.cluster_document import SHUTTING_DOWN
from amino.testing import LocalCluster
from tests.acceptance.figures import slack
from tests.node.counter import Counter

pytestmark = [
    pytest.mark.real,
    pytest.mark.keeps(
        "the module's cluster starts processes again in the middle of a test, and ends them with the module"
    ),
]

HERE = __file__.rpartition("tests")[0]


@pytest.fixture(scope="module")
def local(node_etcd):
    with LocalCluster(
        2, etcd_endpoints=node_etcd.endpoints, app_dirs=[HERE], cluster="servers", session_ttl_s=2
    ) as running:
        yield running


@pytest.fixture
def cluster(local):
    with local.connect() as client:
        yield client


@pytest.fixture
def counter(cluster, request):
    name = f"c{abs(hash(request.node.name)) % 10**9}"
    stub = cluster.new(amino.spec(Counter, name=name, dms=[AtLeastOnceRPC(), PeriodicCheckpoint(every=1)]), 1)
    assert stub.add() == 2
    yield stub
    cluster.delete(name)


def host_of(local, cluster, stub):
    return local.server(cluster.describe(stub).groups["/"].replicas[0].server)


def cordons(cluster):
    return {each.record.name: each.cordoned for each in cluster.servers()}


def test_a_restart_in_order_moves_objects_away_and_leaves_the_server_open(local, cluster, counter):
    """SIGTERM drains without a failover; the server that starts again takes new replicas."""
    server = host_of(local, cluster, counter)
    epoch = cluster.describe(counter).groups["/"].epoch
    server.drain()
    assert counter.add() == 3
    described = cluster.describe(counter)
    assert described.groups["/"].epoch == epoch + 1
    assert described.groups["/"].replicas[0].server != server.name
    server.start()
    assert cordons(cluster) == {"s1": "", "s2": ""}


def test_an_operators_cordon_survives_a_restart(local, cluster):
    """Only the cordon of the shutdown itself is lifted."""
    server = local.server("s1")
    common = ["-a", local.addresses[-1], "--cluster", "servers"]
    with pytest.raises(SystemExit):
        application.run(["cordon", "s1", "--why", "new disk", *common])
    server.drain()
    server.start()
    assert cordons(cluster)["s1"] == "new disk" != SHUTTING_DOWN
    with pytest.raises(SystemExit):
        application.run(["uncordon", "s1", *common])


@pytest.mark.parametrize(
    ("fault", "bound_s"),
    [("kill_kernel", 1.0), ("kill_supervisor", 1.5), ("stop_kernel", 3.0), ("kill", 3.0), ("stop", 3.0)],
)
def test_an_object_is_called_again_within_its_bound(local, cluster, counter, fault, bound_s):
    """Whatever happens to one server's processes, an acknowledged state is there again within the promised time."""
    server = host_of(local, cluster, counter)
    began = time.monotonic()
    lost = getattr(server, fault)()
    assert counter.add() == 3
    assert time.monotonic() - began < bound_s * slack()
    if fault == "stop":
        server.resume()
    elif fault in {"kill", "kill_supervisor"}:
        server.wait_ended()
        server.start()
    assert server.wait_serving(after=lost) > lost
    assert counter.add() == 4


def test_no_process_of_the_old_incarnation_is_left(local, cluster):
    """After all faults each server is one supervisor with one kernel process."""
    for server in local.servers.values():
        [child] = psutil.Process(server.supervisor_pid).children(recursive=True)
        assert child.pid == server.kernel_pid
