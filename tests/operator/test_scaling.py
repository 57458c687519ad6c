"""As many servers as are asked for: the decision, and the loop against an API server."""

import asyncio

import pytest

from amino.errors import ClusterUnavailable, Invalid
from amino.operator.kubernetes import KubernetesApi
from amino.operator.scaling import Scaler, scale_path
from amino.operator.scaling_machine import Bounds, Demand, Quiet, servers_for, step
from tests.operator.api_server import ApiServer

BOUNDS = Bounds(servers_min=3, servers_max=9, quiet_s=600.0)


@pytest.mark.parametrize(
    ("demand", "servers"),
    [
        (Demand(), 3),
        (Demand(widest=5, replicas=100), 5),
        (Demand(widest=50), 9),
        (Demand(widest=3, replicas=100, capacity=25), 5),
        (Demand(widest=3, replicas=101, capacity=25), 6),
        (Demand(widest=3, replicas=100000, capacity=1), 9),
    ],
)
def test_demand_becomes_a_number_of_servers(demand, servers):
    """As many as the widest group wants, or as have room for all at four fifths; never beyond the bounds."""
    assert servers_for(demand, BOUNDS) == servers


def test_more_come_at_once_and_fewer_one_by_one():
    """Growth does not wait; shrinking waits for a quiet time before each server, and begins again when demand returns."""
    quiet, servers = step(Quiet(), 0.0, 3, Demand(widest=7), BOUNDS)
    assert (quiet, servers) == (Quiet(), 7)
    quiet, servers = step(quiet, 10.0, 7, Demand(widest=5), BOUNDS)
    assert (quiet, servers) == (Quiet(10.0), 7)
    assert step(quiet, 609.0, 7, Demand(widest=5), BOUNDS) == (quiet, 7)
    assert step(quiet, 300.0, 7, Demand(widest=7), BOUNDS) == (Quiet(), 7)
    quiet, servers = step(quiet, 610.0, 7, Demand(widest=5), BOUNDS)
    assert (quiet, servers) == (Quiet(610.0), 6)
    assert step(quiet, 611.0, 6, Demand(widest=5), BOUNDS) == (Quiet(610.0), 6)
    assert step(quiet, 1210.0, 6, Demand(widest=5), BOUNDS)[1] == 5


def test_bounds_are_kept_from_outside_too():
    """More servers than allowed are cut at once; fewer than needed are filled up; senseless bounds are refused."""
    assert step(Quiet(), 0.0, 20, Demand(), BOUNDS)[1] == 9
    assert step(Quiet(), 0.0, 0, Demand(), BOUNDS)[1] == 3
    with pytest.raises(Invalid, match="from 5 to 4 servers"):
        Bounds(servers_min=5, servers_max=4)


class Clock:
    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now


class Cluster:
    def __init__(self):
        self.wanted = Demand(widest=5)
        self.error = None

    def demand(self):
        if self.error is not None:
            raise self.error
        return self.wanted


async def test_the_number_of_pods_follows(tmp_path):
    """The StatefulSet's scale is read and merged; with nothing to do, or nothing known, nothing is written."""
    path, clock, cluster = scale_path("amino", "amino"), Clock(), Cluster()
    async with ApiServer() as kubernetes:
        kubernetes.plain[path] = {"kind": "Scale", "metadata": {"name": "amino"}, "spec": {"replicas": 3}}
        scaler = Scaler(cluster, KubernetesApi(kubernetes.url, tmp_path), path, BOUNDS, clock)
        assert await asyncio.to_thread(scaler.round) == 5
        assert await asyncio.to_thread(scaler.round) is None
        cluster.wanted = Demand(widest=3)
        assert await asyncio.to_thread(scaler.round) is None
        clock.now = 600.0
        cluster.error = ClusterUnavailable("away")
        assert await asyncio.to_thread(scaler.round) is None
        cluster.error = None
        assert await asyncio.to_thread(scaler.round) == 4
        assert kubernetes.plain[path]["spec"] == {"replicas": 4}
        assert kubernetes.patches == 2
    assert await asyncio.to_thread(scaler.round) is None


async def test_what_kubernetes_refuses_is_told_apart(tmp_path):
    """Forbidden by the roles, not there, not answering: each is an error of its own."""
    from amino.errors import NotFound, PermissionDenied

    async with ApiServer() as server:
        kubernetes = KubernetesApi(server.url, tmp_path)
        with pytest.raises(PermissionDenied, match="403"):
            await asyncio.to_thread(kubernetes.get, scale_path("amino", "another"))
        with pytest.raises(NotFound):
            await asyncio.to_thread(kubernetes.get, scale_path("amino", "amino"))
    with pytest.raises(ClusterUnavailable, match="does not answer"):
        await asyncio.to_thread(kubernetes.get, "/version")
    with pytest.raises(ClusterUnavailable, match="KUBERNETES_SERVICE_HOST"):
        KubernetesApi.of_pod({})
