"""ConsensusRSMP2P on devices that come, leave, freeze and are killed, with real servers and client processes."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Iterator
from typing import Any

import pytest

import amino
from amino.dm import AtLeastOnceRPC, ConsensusRSMP2P
from tests.acceptance.figures import Figures, rounds
from tests.device_process import DeviceProcess
from tests.dm.replication.conftest import TTL_S
from tests.dm.replication.real_world import PATIENCE_S, World, until
from tests.dm.replication.services import Counters, Whereabouts
from tests.dm.replication.storm import Storm

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(600)]
TWO = {"servers": 2}
FIGURES = Figures("ConsensusRSMP2P: device lost")


def p2p(**options: Any) -> tuple[Any, ...]:
    return (AtLeastOnceRPC(timeout_s=30), ConsensusRSMP2P(**options))


@contextlib.contextmanager
def devices(world: World, *names: str, **options: Any) -> Iterator[dict[str, DeviceProcess]]:
    """Devices of these names, all serving."""
    with contextlib.ExitStack() as stack:
        started = [
            DeviceProcess(name, world.network.addresses, world.local.etcd_endpoints, **options) for name in names
        ]
        for one in started:
            stack.callback(one.end)
        for one in started:
            one.wait_serving()
        yield {one.name: one for one in started}


def device(world: World, name: str) -> DeviceProcess:
    return DeviceProcess(name, world.network.addresses, world.local.etcd_endpoints)


def wait_on_devices(world: World, target: Any) -> None:
    """Wait until three replicas are in sync, all on devices."""

    def there() -> bool:
        alive = {one.record.name for one in world.client.servers() if one.record.device}
        return {one.server for one in world.wait_whole(target).replicas} <= alive

    until(there, PATIENCE_S, lambda: f"not on devices: {world.group(target)}")


def wait_on(world: World, target: Any, servers: set[str]) -> None:
    """Wait until the replicas are exactly on ``servers``, in sync."""

    def there() -> bool:
        document = world.group(target)
        whole = len(document.in_sync) == len(document.replicas) and not document.leftovers
        return whole and {one.server for one in document.replicas} == servers

    until(there, PATIENCE_S, lambda: f"not on {servers}: {world.group(target)}")


@pytest.mark.parametrize("world", [TWO], indirect=True)
def test_the_group_follows_the_devices(world: World) -> None:
    """It begins on servers, goes to devices as they join, shrinks as they leave; the last hands over to servers. No call fails."""
    counters = world.client.new(amino.spec(Counters, name="counters", dms=p2p()))
    wait_on(world, counters, {"s1", "s2"})
    with Storm(counters, writers=3) as storm:
        storm.write_after(0.0, PATIENCE_S)
        with device(world, "d1") as first:
            until(lambda: "d1" in {one.server for one in world.group(counters).replicas}, PATIENCE_S, lambda: "no d1")
            with device(world, "d2") as second:
                wait_on(world, counters, {"d1", "d2"})
                with device(world, "d3") as third:
                    wait_on(world, counters, {"d1", "d2", "d3"})
                    with device(world, "d4") as spare:
                        assert third.close() == 0
                        wait_on(world, counters, {"d1", "d2", "d4"})
                        storm.write_after(time.perf_counter(), PATIENCE_S)
                        assert spare.terminate() == 143
                        wait_on(world, counters, {"d1", "d2"})
                assert second.close() == 0
            storm.write_after(time.perf_counter(), PATIENCE_S)
            assert "d1" in {one.server for one in world.group(counters).replicas}
            assert first.close() == 0
        wait_on(world, counters, {"s1", "s2"})
        storm.write_after(time.perf_counter(), PATIENCE_S)
    storm.judge(counters.all_changes())
    assert not storm.failed(), storm.failed()[:3]
    until(
        lambda: not [one for one in world.client.servers() if one.record.device],
        PATIENCE_S,
        lambda: "a device is a member",
    )


@pytest.mark.parametrize("world", [TWO], indirect=True)
def test_the_primarys_device_is_killed(world: World) -> None:
    """Under five writers, again and again: nothing acknowledged is lost, and a spare device takes the replica."""
    took = []
    counters = world.client.new(amino.spec(Counters, name="counters", dms=p2p()))
    with devices(world, "d1", "d2", "d3", "d4") as started, contextlib.ExitStack() as again, Storm(counters) as storm:
        for _ in range(rounds()):
            wait_on_devices(world, counters)
            name = world.primary(counters).server
            killed = time.perf_counter()
            started[name].kill()
            took.append(storm.write_after(killed, PATIENCE_S).ended_s - killed)
            started[name] = again.enter_context(device(world, name))
        wait_on_devices(world, counters)
        storm.stop()
        storm.judge(counters.all_changes())
    assert not storm.failed(), storm.failed()[:3]
    FIGURES.note("process killed, next write: p50", statistics.median(took), "s", at_most=TTL_S + 1)
    FIGURES.note("process killed, next write: worst", max(took), "s")


@pytest.mark.parametrize("world", [TWO], indirect=True)
def test_the_primarys_device_freezes(world: World) -> None:
    """A frozen device is replaced within TTL + 1 s; thawed it answers nothing old, and is a device again."""
    took = []
    counters = world.client.new(amino.spec(Counters, name="counters", dms=p2p()))
    with devices(world, "d1", "d2", "d3") as started, Storm(counters) as storm:
        for _ in range(rounds()):
            wait_on_devices(world, counters)
            device = started[world.primary(counters).server]
            before = device.ask(do="incarnation")
            frozen = time.perf_counter()
            device.freeze()
            took.append(storm.write_after(frozen, PATIENCE_S).ended_s - frozen)
            device.thaw()
            until(lambda: device.ask(do="incarnation") > before, PATIENCE_S, lambda: "no new incarnation")  # noqa: B023
        wait_on_devices(world, counters)
        storm.stop()
        storm.judge(counters.all_changes())
    assert not storm.failed(), storm.failed()[:3]
    FIGURES.note("device frozen, next write", max(took), "s", at_most=TTL_S + 1)


@pytest.mark.parametrize("world", [TWO], indirect=True)
def test_the_only_device_is_killed(world: World) -> None:
    """A server stands in beside a lone device, so that killing it loses nothing."""
    counters = world.client.new(amino.spec(Counters, name="counters", dms=p2p()))
    with devices(world, "d1") as started:
        until(lambda: "d1" in {one.server for one in world.group(counters).replicas}, PATIENCE_S, lambda: "no d1")
        world.wait_whole(counters, 2)
        assert [counters.add("k", "w", number) for number in range(10)][-1] == 10
        started["d1"].kill()
        assert counters.add("k", "w", 10) == 11
        wait_on(world, counters, {"s1", "s2"})


@pytest.mark.parametrize("world", [TWO], indirect=True)
def test_with_one_replica_in_sync_a_lone_device_is_all_there_is(world: World) -> None:
    """``min_in_sync=1`` needs no server: leaving hands over, being killed loses the state, and says so."""
    with devices(world, "d1") as started:
        counters = world.client.new(amino.spec(Counters, name="counters", dms=p2p(min_in_sync=1)))
        wait_on(world, counters, {"d1"})
        counters.add("k", "w", 1)
        assert started["d1"].close() == 0
    assert counters.get("k") == 1
    with devices(world, "d1") as started:
        wait_on(world, counters, {"d1"})
        assert counters.add("k", "w", 2) == 2
        started["d1"].kill()
        with pytest.raises(amino.StateLost):
            counters.get("k")


@pytest.mark.parametrize("world", [TWO], indirect=True)
def test_the_last_device_stays_if_nobody_may_have_its_replica(world: World) -> None:
    """Placement that allows devices only: the last one refuses to leave, and another that joins lets it."""
    only = amino.Placement(((amino.Requirement("device"),),))
    with devices(world, "d1", drain_timeout_s=1.0) as started:
        spec = amino.spec(Counters, name="counters", dms=p2p(min_in_sync=1), placement=only)
        counters = world.client.new(spec)
        counters.add("k", "w", 1)
        with pytest.raises(AssertionError, match="stays, because it could not hand over"):
            started["d1"].ask(do="leave")
        assert counters.add("k", "w", 2) == 2
        with devices(world, "d2"):
            started["d1"].ask(do="leave")
            assert world.primary(counters).server == "d2"
            assert counters.add("k", "w", 3) == 3
            world.client.delete(counters)


@pytest.mark.parametrize("world", [TWO], indirect=True)
def test_a_device_reads_its_own_replica(world: World) -> None:
    """With ``read_staleness_s`` reads on a device are answered in its own process, also where it is not the primary."""
    where = world.client.new(amino.spec(Whereabouts, name="where", dms=p2p(read_staleness_s=1.0)))
    with devices(world, "d1", "d2", "d3") as started:
        wait_on(world, where, {"d1", "d2", "d3"})
        for name, one in started.items():

            def most_are_its_own(name: str = name, one: Any = one) -> bool:
                answers = one.ask(do="call", target="where", method="host", times=300)
                return answers.count(name) > 200

            until(
                most_are_its_own,
                PATIENCE_S,
                lambda name=name: f"{name} is not answered by itself, as it is unless its replica lags",
            )
