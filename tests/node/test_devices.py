"""Devices: kernel servers embedded in clients, on a real cluster."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import amino
from amino.dm import AtLeastOnceRPC, SerializableRPC
from amino.node.connect import _Client
from amino.telemetry.trace import Telemetry
from amino.testing import LocalCluster
from tests.device_process import ROOT, DeviceProcess
from tests.guides import printed_by

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]
amino_cluster = {"servers": 2, "app_dirs": [str(ROOT)], "session_ttl_s": 2}
ON_DEVICES = {"selector": [{"key": "device", "operator": "Exists"}]}
PATIENCE_S = 30.0


class Place:
    """Tells where it runs."""

    def __init__(self) -> None:
        self.calls = 0

    def here(self) -> tuple[int, int, str, int]:
        """Return process, thread, server, and how often this was called."""
        self.calls += 1
        return os.getpid(), threading.get_ident(), amino.current().server, self.calls

    async def here_too(self) -> tuple[int, int, str, int]:
        """As ``here``, on the server's loop."""
        self.calls += 1
        return os.getpid(), threading.get_ident(), amino.current().server, self.calls


def device(cluster: LocalCluster, name: str, **options: Any) -> amino.Device:
    return amino.Device(name=name, etcd=",".join(cluster.etcd_endpoints), **{"session_ttl_s": 2, **options})


def on_device(name: str, *dms: Any) -> Any:
    placement = amino.Placement(((amino.Requirement("device", "Equal", (name,)),),))
    return amino.spec(Place, dms=dms or [AtLeastOnceRPC(timeout_s=20)], placement=placement)


def until(condition: Any, why: str) -> Any:
    end = time.perf_counter() + PATIENCE_S
    while not (found := condition()):
        assert time.perf_counter() < end, why
        threading.Event().wait(0.02)
    return found


def made(client: amino.Cluster, spec: Any) -> Any:
    """Make one, if the slot's leader has heard by now that it may."""
    try:
        return client.new(spec)
    except amino.NoEligibleServer:
        return None


def test_a_device_joins_and_placement_passes_over_it(cluster: LocalCluster) -> None:
    """It is listed with its labels, leads no slot, and has only what was meant for it."""
    with cluster.connect(device=device(cluster, "d1", labels={"kind": "phone"})) as client:
        record = next(one.record for one in client.servers() if one.record.name == "d1")
        assert record.device
        assert (record.labels["device"], record.labels["kind"], record.pid) == ("d1", "phone", os.getpid())
        assert record.address == client.device.address
        places = [client.new(amino.spec(Place)) for _ in range(8)]
        assert "d1" not in {place.here()[2] for place in places}
        places.append(client.new(on_device("d1")))
        assert places[-1].here()[2] == "d1"
        leaders = client._runtime.addresses.membership
        assert "d1" not in {leaders.servers[place].record.name for place in leaders.leaders if place >= 0}
        for place in places:
            client.delete(place)
    assert "d1" not in {one.record.name for one in until(client_sees_two(cluster), "d1 is still there")}


def client_sees_two(cluster: LocalCluster) -> Any:
    def look() -> Any:
        with cluster.connect() as client:
            servers = client.servers()
            return servers if len(servers) == 2 else None

    return look


def test_calls_to_a_replica_in_the_same_process_take_no_detour(cluster: LocalCluster) -> None:
    """A plain call runs in the caller's own thread; from a loop, and to ``async def``, it runs in this process too."""
    with cluster.connect(device=device(cluster, "d1")) as client:
        place = client.new(on_device("d1", AtLeastOnceRPC(timeout_s=20), SerializableRPC()))
        assert place.here() == (os.getpid(), threading.get_ident(), "d1", 1)

        async def from_a_loop() -> Any:
            return await asyncio.gather(amino.aio(place.here)(), place.here_too(), amino.aio(place.here)())

        found = asyncio.run(from_a_loop())
        assert {(one[0], one[2]) for one in found} == {(os.getpid(), "d1")}
        assert threading.get_ident() not in {one[1] for one in found}, "on the device's own threads"
        assert sorted(one[3] for one in found) == [2, 3, 4]
        client.delete(place)


def test_others_call_what_a_device_hosts(cluster: LocalCluster) -> None:
    """Over the network, from a client that is none."""
    with (
        cluster.connect() as other,
        DeviceProcess("d2", cluster.addresses, cluster.etcd_endpoints) as hosting,
    ):
        place = other.new(on_device("d2"))
        assert place.here()[0] == hosting.pid
        other.delete(place)


@pytest.mark.parametrize("how", ["close", "terminate", "leave"])
def test_a_device_that_leaves_hands_over(cluster: LocalCluster, how: str) -> None:
    """At the end of the block, at SIGTERM, or when told to: its objects go on elsewhere with their state."""
    with cluster.connect() as other, DeviceProcess("d3", cluster.addresses, cluster.etcd_endpoints) as leaving:
        anywhere = amino.Placement(((amino.Requirement("device", "Equal", ("d3",)),), (amino.Requirement("host"),)))
        place = other.new(amino.spec(Place, dms=[AtLeastOnceRPC(timeout_s=20)], placement=anywhere))
        if place.here()[2] != "d3":
            other.move(place, "d3")
        before = place.here()
        assert before[0] == leaving.pid
        ended = leaving.ask(do="leave") if how == "leave" else getattr(leaving, how)()
        assert ended == {"close": 0, "terminate": 143, "leave": None}[how]
        after = place.here()
        assert after[2] in {"s1", "s2"}
        assert after[3] == before[3] + 1
        assert "d3" not in {one.record.name for one in other.servers()}
        other.delete(place)


def test_a_device_stays_if_it_cannot_hand_over(cluster: LocalCluster) -> None:
    """``leave`` says what could not go anywhere, nothing is lost, and it takes replicas again."""
    with cluster.connect(device=device(cluster, "d4", drain_timeout_s=1.0)) as client:
        place = client.new(on_device("d4"))
        place.here()
        with pytest.raises(amino.NotExecuted, match="device d4 stays, because it could not hand over"):
            client.device.leave()
        assert place.here()[2:] == ("d4", 2)
        assert client.device.is_serving
        second = until(lambda: made(client, on_device("d4")), "it takes no replicas")
        client.delete(place)
        client.delete(second)
        client.device.leave()
        assert not client.device.is_serving
        assert client.new(amino.spec(Place)).here()[2] in {"s1", "s2"}


def test_a_device_that_is_killed_is_lost(cluster: LocalCluster) -> None:
    """What is recreated comes back; its name is free again, for an empty incarnation."""
    with cluster.connect() as other:
        with DeviceProcess("d5", cluster.addresses, cluster.etcd_endpoints) as lost:
            anywhere = amino.Placement(((amino.Requirement("device", "Equal", ("d5",)),), (amino.Requirement("host"),)))
            spec = amino.spec(Place, dms=[AtLeastOnceRPC(timeout_s=20)], placement=anywhere, on_loss="recreate")
            place = other.new(spec)
            if place.here()[2] != "d5":
                other.move(place, "d5")
            lost.kill()
            assert place.here()[2:] in {("s1", 1), ("s2", 1)}
        with DeviceProcess("d5", cluster.addresses, cluster.etcd_endpoints) as again:
            assert again.incarnation > lost.incarnation
            other.move(place, "d5")
            assert place.here()[0] == again.pid
        other.delete(place)


def test_a_frozen_device_answers_nothing_when_it_thaws(cluster: LocalCluster) -> None:
    """Its session ends meanwhile: it comes back as a new incarnation, without the object, and works."""
    with cluster.connect() as other, DeviceProcess("d6", cluster.addresses, cluster.etcd_endpoints) as frozen:
        anywhere = amino.Placement(((amino.Requirement("device", "Equal", ("d6",)),), (amino.Requirement("host"),)))
        spec = amino.spec(Place, name="six", dms=[AtLeastOnceRPC(timeout_s=20)], placement=anywhere, on_loss="recreate")
        place = other.new(spec)
        if place.here()[2] != "d6":
            other.move(place, "d6")
        place.here()
        frozen.freeze()
        assert place.here()[2] in {"s1", "s2"}
        frozen.thaw()
        [[process, _, server, _]] = frozen.ask(do="call", target="six", method="here")
        assert server in {"s1", "s2"}
        assert process != frozen.pid
        until(lambda: frozen.ask(do="incarnation") > frozen.incarnation, "no new incarnation")
        other.move(place, "d6")
        assert place.here()[0] == frozen.pid
        other.delete(place)


@pytest.mark.parametrize(
    ("page", "printed"), [("devices", "anns-laptop True\n"), ("dm/ConsensusRSMP2P", "['circle']\n")]
)
def test_the_example_runs(cluster: LocalCluster, tmp_path: Path, page: str, printed: str) -> None:
    """Of the guide, and of the manager's page; both print what they should."""
    with cluster.connect() as client:
        before = {one.id for one in client.find()}
        assert printed_by(page, cluster.addresses[0], tmp_path, cluster.etcd_endpoints[0]) == (printed, "")
        for one in client.find():  # a circle of friends would take any device for a home, those of other tests too
            if one.id not in before:
                client.delete(one.name)


@pytest.mark.keeps("a poller that gRPC has, once per process, from the first connection that is refused")
def test_a_device_that_cannot_join_says_why(cluster: LocalCluster) -> None:
    """A name that is taken, an etcd that does not answer, a label that is its own."""
    with pytest.raises(amino.AlreadyExists, match="s1"):
        cluster.connect(device=device(cluster, "s1"))
    with pytest.raises(amino.ClusterUnavailable, match=r"check that etcd answers at 127\.0\.0\.1:9"):
        cluster.connect(device=amino.Device(name="d7", etcd="127.0.0.1:9"), timeout_s=1.0)
    with pytest.raises(amino.Invalid, match="leave it out of labels"):
        cluster.connect(device=amino.Device(name="d7", labels={"device": "x"}))


def test_a_forked_child_is_no_device() -> None:
    """It calls over the network like any client: the objects in its memory are copies that nobody else knows of."""
    client = _Client(("127.0.0.1:1",), "amino", None, insecure=False, telemetry=Telemetry.disabled())
    client.runtime.live_beside(object())
    client.forked()
    assert client.runtime._attempts.beside is None
    assert client.cluster.device is None
    client.close()
