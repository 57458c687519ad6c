"""Where replicas go in a group that belongs on devices, decision by decision."""

from __future__ import annotations

from typing import Any

import pytest

from amino.contracts.documents import GroupDocument
from amino.errors import NoEligibleServer
from amino.oms.devices import may_shrink
from amino.oms.group_machine import Add, Done, Step, View, Write
from amino.oms.placement import Candidate, Demand, choose, why_not
from amino.oms.replica_machine import next_step, without
from tests.oms import replicated

SERVERS = ("s1", "s2", "s3")
DEVICES = ("d1", "d2", "d3", "d4")


def group(*servers: str, **fields: Any) -> GroupDocument:
    return replicated.group(*servers, **{"devices": True, **fields})


def view(*devices: str, full: tuple[str, ...] = (), paused: bool = False) -> View:
    """Three servers and these devices live; ``full`` ones take nothing."""
    live = dict.fromkeys((*SERVERS, *devices), 7)
    return View("m1", live, devices={one: one not in full for one in devices}, paused=paused)


def written(step: Step) -> GroupDocument:
    assert isinstance(step, Write), step
    return step.document


def test_a_group_on_devices_is_left_alone() -> None:
    """As many replicas as are wanted, all on devices: nothing to do, whatever else there is."""
    assert next_step(group("d1", "d2", "d3"), view(*DEVICES)) == Done()


@pytest.mark.parametrize("servers", [("d1", "d2"), ("d1", "s1"), ("s1", "s2")])
def test_a_group_runs_with_the_devices_there_are(servers: tuple[str, ...]) -> None:
    """With fewer devices than replicas nothing is missing once ``min_in_sync`` have it, servers among them if need be."""
    devices = [one for one in servers if one in DEVICES]
    assert next_step(group(*servers), view(*devices)) == Done()


def test_it_grows_when_a_device_joins() -> None:
    """One more replica on the device, while fewer than wanted are there."""
    step = next_step(group("d1", "d2"), view("d1", "d2", "d3"))
    assert isinstance(step, Add)
    assert (step.instead_of, step.device) == ("", True)


def test_a_server_makes_room_for_a_device() -> None:
    """The replica of a server that stands in is replaced, the primary's after the other one."""
    step = next_step(group("s1", "s2"), view("d1"))
    assert isinstance(step, Add)
    assert (step.instead_of, step.device) == ("1-s2", True)
    step = next_step(group("s1", "d1"), view("d1", "d2"))
    assert isinstance(step, Add)
    assert (step.instead_of, step.device) == ("1-s1", True)


def test_nothing_moves_before_all_are_in_sync() -> None:
    """While a replica catches up, no other is taken away."""
    catching_up = group("s1", "d1", in_sync=("1-s1",), min_in_sync=1)
    step = next_step(catching_up, view("d1"))
    assert step == Done()


def test_a_server_stands_in_for_what_writes_need() -> None:
    """Below ``min_in_sync`` any server will do, a device first."""
    step = next_step(group("d1"), view("d1"))
    assert isinstance(step, Add)
    assert (step.instead_of, step.device) == ("", False)


def test_a_server_that_is_not_needed_goes() -> None:
    """With enough devices in sync the replica of a server goes; the primary stays, or is a device's if it was that one."""
    document = written(next_step(group("d1", "d2", "s1"), view("d1", "d2")))
    assert (document.primary, document.in_sync, document.epoch) == ("1-d1", ("1-d1", "1-d2"), 2)
    assert [one.server for one in document.leftovers] == ["s1"]
    document = written(next_step(group("s1", "d1", "d2"), view("d1", "d2")))
    assert (document.primary, document.in_sync) == ("1-d1", ("1-d1", "1-d2"))


def test_too_many_replicas_are_shed() -> None:
    """After the number wanted was lowered one goes, as in any replicated group."""
    document = written(next_step(group("d1", "d2", "d3", wanted=2), view("d1", "d2", "d3")))
    assert len(document.replicas) == 2


def test_a_lost_device_is_replaced() -> None:
    """Its replica is forgotten once the primary has left it out; then another device, or a server, gets one."""
    left_out = group("d1", "d2", "d3", in_sync=("1-d1", "1-d2"))
    document = written(next_step(left_out, view("d1", "d2")))
    assert [one.server for one in document.replicas] == ["d1", "d2"]
    assert isinstance(next_step(document, view("d1", "d2", "d4")), Add)
    assert next_step(document, view("d1", "d2")) == Done()


def test_a_lost_primary_is_followed_by_another_device() -> None:
    """As in any replicated group."""
    assert written(next_step(group("d1", "d2", "d3"), view("d2", "d3"))).primary == "1-d2"


def test_while_paused_nothing_moves() -> None:
    """Neither growth nor room for devices while operators work."""
    assert next_step(group("s1", "s2"), view("d1", paused=True)) == Done()


def test_a_full_or_cordoned_device_asks_for_nothing() -> None:
    """A device that may take no replica is as good as none; one that has one keeps it."""
    assert next_step(group("s1", "s2"), view("d1", full=("d1",))) == Done()
    assert next_step(group("d1", "d2"), view("d1", "d2", full=("d1", "d2"))) == Done()


def test_a_device_leaves_without_replacement_if_the_others_are_enough() -> None:
    """None other has room and ``min_in_sync`` stay: it goes at once, the primary handed over if that is it."""
    whole = group("d1", "d2", "d3")
    here = view("d1", "d2", "d3", full=("d1", "d2", "d3"))
    assert may_shrink(whole, here, whole.replicas[0])
    document = without(whole, here, whole.replicas[0])
    assert (document.primary, document.in_sync, document.epoch) == ("1-d2", ("1-d2", "1-d3"), 2)
    joining = group("d1", "d2", "d3", in_sync=("1-d1", "1-d2"))
    assert without(joining, here, joining.replicas[2]).epoch == 1


def test_a_device_waits_for_a_replacement_otherwise() -> None:
    """If another device has room, or those that stay would be too few, a replica joins elsewhere first."""
    whole = group("d1", "d2", "d3")
    assert not may_shrink(whole, view(*DEVICES), whole.replicas[0])
    two = group("d1", "d2")
    assert not may_shrink(two, view("d1", "d2", full=("d1", "d2")), two.replicas[0])
    gone = view("d1", "d2", full=("d1", "d2"))
    assert not may_shrink(whole, gone, whole.replicas[0]), "d3 does not live"


def test_placement_prefers_devices_where_they_are_wanted() -> None:
    """Devices go before servers however many replicas they have; they are out of the question for anything else."""
    servers = [Candidate("s1", 7, {}), Candidate("d1", 7, {"device": "d1"}, replicas=9, device=True)]
    chosen = choose(Demand("key", devices="first"), servers)
    assert chosen.server.name == "d1"
    assert "a device, which goes before servers" in chosen.explanation
    assert choose(Demand("key", devices="first"), servers[:1]).server.name == "s1"
    assert choose(Demand("key"), servers).server.name == "s1"
    assert why_not(Demand("key", devices="only"), servers[0]) == "no device"
    with pytest.raises(NoEligibleServer, match="no device"):
        choose(Demand("key", devices="only"), servers[:1])
