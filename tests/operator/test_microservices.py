"""How the operator asks a cluster: once for all, and never taking silence for absence."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from amino.contracts.documents import GroupDocument, MicroserviceRecord, MicroserviceSpec, ReplicaDocument
from amino.contracts.services import Description, MicroserviceInfo
from amino.errors import ClusterUnavailable, Invalid, NotFound
from amino.operator.microservices import ClusterMicroservices
from amino.operator.scaling_machine import Demand


def group(wanted, servers, **more):
    replicas = tuple(ReplicaDocument(f"r{number}", server, 1) for number, server in enumerate(servers))
    return GroupDocument(wanted=wanted, replicas=replicas, phase="active", **more)


def described(name, groups):
    record = MicroserviceRecord(spec=MicroserviceSpec(cls="a:B", name=name))
    return Description(name, record, groups, slot=0, slot_leader="s1", state="active")


class Cluster:
    """Stands for a connection: its list, and what etcd has."""

    def __init__(self):
        self.rows = {}
        self.etcd = {}
        self.lists = 0
        self.asked = []
        self.closed = 0
        self.capacities = {"s1": 0}
        self.registry = SimpleNamespace(describe=self.describe, delete=self.delete)

    def find(self):
        self.lists += 1
        return list(self.rows.values())

    def describe(self, request):
        self.asked.append(request.microservice)
        if request.microservice not in self.etcd:
            raise NotFound("no")
        return self.etcd[request.microservice]

    def delete(self, request):
        if self.etcd.pop(request.microservice, None) is None:
            raise NotFound("no")

    def describe_all(self):
        return list(self.etcd.values())

    def servers(self):
        return [
            SimpleNamespace(record=SimpleNamespace(capacity=capacity, device=name.startswith("d")))
            for name, capacity in self.capacities.items()
        ]

    def close(self):
        self.closed += 1


@pytest.fixture
def now():
    return [0.0]


@pytest.fixture
def cluster():
    return Cluster()


@pytest.fixture
def microservices(cluster, now):
    return ClusterMicroservices(lambda: cluster, fresh_s=2.0, monotonic=lambda: now[0])


def test_states_are_asked_for_once(microservices, cluster, now):
    """One list serves all, until it is old."""
    for name in ("a", "b"):
        cluster.rows[name] = MicroserviceInfo(name, name, "a:B", "active", 1, ("s1",), ())
    with pytest.raises(LookupError):
        microservices.seen_nowait("a")
    assert microservices.seen("a").state == microservices.seen("b").state == "active"
    assert microservices.seen_nowait("b") is cluster.rows["b"]
    assert cluster.lists == 1
    now[0] = 2.0
    with pytest.raises(LookupError):
        microservices.seen_nowait("a")
    microservices.seen("a")
    assert cluster.lists == 2


def test_only_etcd_says_that_something_is_gone(microservices, cluster, now):
    """What a list lacks is looked up; what is gone is not looked up again, until a list has it."""
    cluster.etcd["new"] = described("new", {"/": group(1, ["s2"])})
    found = microservices.seen("new")
    assert (found.id, found.state, found.servers) == ("new", "active", ("s2",))
    assert microservices.seen("gone") is None
    assert microservices.seen("gone") is None
    assert cluster.asked == ["new", "gone"]
    cluster.rows["gone"] = MicroserviceInfo("gone", "gone", "a:B", "active", 1, (), ())
    now[0] = 5.0
    assert microservices.seen("gone").state == "active"


def test_deleting_what_is_not_there_is_told(microservices, cluster):
    """Whether there was one is the answer, not an error."""
    cluster.etcd["a"] = described("a", {"/": group(1, ["s1"])})
    assert [microservices.delete("a"), microservices.delete("a")] == [True, False]


def test_demand_is_what_groups_want(microservices, cluster):
    """The widest group of replicas counts, shards and groups on devices do not; capacity only where all servers have one."""
    shards = {"/": group(8, [], kind="shards"), "/0": group(3, ["s1", "s2"]), "/1": group(5, ["s1"])}
    cluster.etcd = {
        "a": described("a", shards),
        "b": described("b", {"/": group(20, ["d1"], devices=True)}),
    }
    assert microservices.demand() == Demand(widest=5, replicas=4, capacity=0)
    cluster.capacities = {"s1": 10, "s2": 20, "d1": 1}
    assert microservices.demand() == Demand(widest=5, replicas=4, capacity=10)


def test_folders_of_code_are_not_read(microservices):
    """A path in ``code`` would be one of the operator's own machine."""
    with pytest.raises(Invalid, match="amino app push"):
        microservices.apply("Microservice", "x", {}, {"class": "a:B", "code": str(Path("/etc"))}, "")


def test_a_connection_is_made_when_needed_and_tried_again(cluster, now):
    """A cluster that is away is an error of that moment; closing is idempotent."""
    away = [True]

    def connect():
        if away[0]:
            raise ClusterUnavailable("nobody answers")
        return cluster

    microservices = ClusterMicroservices(connect, fresh_s=2.0, monotonic=lambda: now[0])
    microservices.close()
    with pytest.raises(ClusterUnavailable):
        microservices.seen("a")
    away[0] = False
    assert microservices.seen("a") is None
    microservices.close()
    microservices.close()
    assert cluster.closed == 1
